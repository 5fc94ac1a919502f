"""GEMS, "Ours": BSR's identifiers with weights that move otherwise; its variants as method keys of a profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from gemsbench import registry
from gemsbench.backbones.loading import load_backbone
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.identifiers.codes import load_codes
from gemsbench.methods import generative
from gemsbench.methods.bsr import BSR
from gemsbench.methods.contract import NoSettings
from gemsbench.methods.gems import GEMS
from gemsbench.methods.generative import GenerativeSettings
from gemsbench.methods.initial_weights import draw_weights
from gemsbench.methods.run import build_method, fit_and_score
from gemsbench.profile import MethodSettings, Profile, Run, TableSettings, load_profile, tuner_name
from gemsbench.report.rows import METHOD_KEYS, TABLE_1, TABLE_2
from gemsbench.source_code import source_files
from gemsbench.training import loop
from gemsbench.training.task_optimizer import TaskOptimizer
from gemsbench.tuners.gems_settings import GEMSSettings

HERE = __name__
KINDS = ("t5", "qwen2")
CONFIG = Path(__file__).resolve().parents[2] / "config"
QUICK = {"rank": 4, "update_gap": 3, "learning_rate": 5e-3, "rows_learning_rate": 1e-2}
VARIANTS = {  # the ablations, and what each changes in the tuner's settings
    "gems": {},
    "gems+single-subspace": {"task_rank": 0},
    "gems+no-null-space": {"null_space": False},
    "gems+subspace-only": {"task_rank": 0, "null_space": False},
    "gems+matched-state": {"rank": 32, "task_rank": 0},
    "gems+matched-step": {"task_rank": 0, "scale": 1.5},
    "gems+uniform-gate": {"gate": "uniform"},
    "gems+prior-gate": {"gate": "prior"},
    "gems+residual": {"task_basis": "residual"},
    "gems+output-side": {"null_space_side": "output"},
    "gems+literal": {"null_space_form": "literal"},
    "gems+fast": {"preset": "fast"},
    "gems+reference": {"preset": "reference", "null_space": False},
}


def settings(**changed: Any) -> GenerativeSettings:
    own = {**QUICK, **changed.pop("config", {})}
    values = {"epochs": 2, "batch_size": 64, **changed.pop("loop", {})}
    tuners = {kind: {"config": own} for kind in KINDS}
    return load_settings(GenerativeSettings, {"loop": values, "tuners": tuners, **changed}, "test")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def fitted(
    kind: str,
    world: Any,
    backbones: Any,
    bases: Any,
    tmp_path_factory: pytest.TempPathFactory,
    identifiers: Mapping[str, Path],
) -> Path:
    """GEMS after two epochs on the small world."""
    out = tmp_path_factory.mktemp(f"gems-{kind}") / "model"
    GEMS().fit(settings(), world.data, backbones[kind], 1, out, basis=bases[kind], identifiers=identifiers["atomic"])
    return out


def test_its_identifiers_are_those_of_bsr(
    fitted: Path, world: Any, backbones: Any, kind: str, tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    BSR().fit(
        load_settings(GenerativeSettings, {"loop": {"epochs": 1}}, ""),
        world.data,
        backbones[kind],
        1,
        tmp_path,
        identifiers=identifiers["atomic"],
    )
    assert load_codes(fitted).table().equals(load_codes(tmp_path).table())
    assert read_json(fitted / "generative.json")["first_row"] == read_json(tmp_path / "generative.json")["first_row"]
    shapes = [{n: p.shape for n, p in load_backbone(f).model.named_parameters()} for f in (fitted, tmp_path)]
    assert shapes[0] == shapes[1]


def test_bsr_with_the_tuner_gems_is_this_method(
    fitted: Path, world: Any, backbones: Any, bases: Any, kind: str, tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    """Identifiers and tuner combine freely: equal settings under another method key give equal weights."""
    named = settings()
    tuners = {key: replace(choice, name="gems") for key, choice in named.tuners.items()}
    config = replace(named, tuners=tuners)
    BSR().fit(
        config, world.data, backbones[kind], 1, tmp_path / "model", basis=bases[kind], identifiers=identifiers["atomic"]
    )
    same = [load_backbone(folder).model.state_dict() for folder in (fitted, tmp_path / "model")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def test_log_and_diagnostics_tell_of_gate_and_subspaces(fitted: Path, kind: str) -> None:
    lines = [json.loads(line) for line in (fitted / "log.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["stage"] == "train"]
    wanted = {f"{what}_{task}" for what in ("gate", "overlap", "gradient_norm_of") for task in ("rec", "src")}
    assert wanted <= set(evaluated[-1]) and all(evaluated[-1][name] is not None for name in wanted)
    diagnostics = read_json(fitted / "diagnostics.json")
    assert diagnostics["tuner"] == "gems"
    found = diagnostics["optimizer"]
    assert found["gate_rec"] + found["gate_src"] == pytest.approx(1)
    matrices = {"t5": 7 + 11, "qwen2": 7}[kind]
    assert found["matrices of rank"] == {"4 + 2 per task": matrices}


def test_the_method_and_the_registry_name_the_same_tuner() -> None:
    assert registry.METHODS["gems"].tuner == GEMS.tuner
    assert registry.resolve(registry.TUNERS[GEMS.tuner]).Config is GEMSSettings


def test_a_killed_fit_goes_on_to_the_same_model(
    kind: str,
    fitted: Path,
    world: Any,
    backbones: Any,
    bases: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    identifiers: Mapping[str, Path],
) -> None:
    evaluate, calls = loop._Run._evaluate, []

    def killed(run: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        evaluate(run)

    chosen = settings(loop={"checkpoint_seconds": 0.0})
    monkeypatch.setattr(loop._Run, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        GEMS().fit(
            chosen,
            world.data,
            backbones[kind],
            1,
            tmp_path / "model",
            basis=bases[kind],
            identifiers=identifiers["atomic"],
        )
    assert (tmp_path / "model.checkpoint").is_dir()
    monkeypatch.setattr(loop._Run, "_evaluate", evaluate)
    GEMS().fit(
        chosen, world.data, backbones[kind], 1, tmp_path / "model", basis=bases[kind], identifiers=identifiers["atomic"]
    )
    assert (tmp_path / "model/model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def test_a_fit_needs_the_basis_of_its_backbone(
    world: Any, backbones: Any, bases: Any, tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    with pytest.raises(InputError, match="there is no knowledge basis of this backbone"):
        GEMS().fit(settings(), world.data, backbones["t5"], 1, tmp_path / "model", identifiers=identifiers["atomic"])
    with pytest.raises(InputError, match="this basis is of another model"):
        GEMS().fit(
            settings(),
            world.data,
            backbones["t5"],
            1,
            tmp_path / "model",
            basis=bases["qwen2"],
            identifiers=identifiers["atomic"],
        )
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_belongs_to_its_basis(world: Any, backbones: Any, bases: Any) -> None:
    codes = atomic_codes(world.data.items)
    parts = generative.assemble(settings(), codes, world.data, backbones["t5"], 1, tuner="gems", basis=bases["t5"])
    fingerprint, known = generative.fingerprint, (None, *bases.values())
    found = [fingerprint(GEMS.__module__, parts, backbones["t5"], 1, basis) for basis in known]
    assert len(set(found)) == len(found) > 2


def test_an_edit_of_the_optimizer_reruns_gems_and_nothing_else() -> None:
    def uses(*targets: str) -> set[str]:
        return {path.parent.name for path in source_files("gemsbench.methods.run:fit_and_score", *targets)}

    assert "optim" in uses(registry.METHODS["gems"].target, registry.TUNERS["gems"])
    for tuner in ("full", "lora"):
        assert "optim" not in uses(registry.METHODS["bsr"].target, registry.TUNERS[tuner])
    assert "optim" not in uses("gemsbench.training.pretraining:make_backbone")


# --- handing the basis on ---------------------------------------------------------------------------------------


class FiveArguments:
    """A method from outside that knows nothing of bases."""

    Config: ClassVar[type] = NoSettings

    def fit(self, config: Any, data: Any, backbone: Path | None, seed: int, out: Path) -> None:
        """Write something."""
        write_json(out / "seen.json", {"seed": seed})

    def score(self, artefact: Path, cases: Any) -> Any:
        """Item ids."""
        for items in cases["items"]:
            yield items.to_numpy().astype(np.float32)


class SixArguments(FiveArguments):
    """One that does."""

    def fit(
        self, config: Any, data: Any, backbone: Path | None, seed: int, out: Path, *, basis: Path | None = None
    ) -> None:
        """Note the basis."""
        write_json(out / "seen.json", {"basis": str(basis)})


def run_with(name: str, world: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, basis: Path | None) -> Any:
    import sys

    monkeypatch.setitem(sys.modules, "outside_methods", sys.modules[HERE])
    profile = Profile(
        profile="test",
        seeds=(4,),
        history_length=5,
        recipes={"world": {}},
        methods={"mine": MethodSettings(target=f"outside_methods:{name}")},
        tables=TableSettings(columns={"World": "world"}),
    )
    pack = world.write_pack(folder / "pack")
    fit_and_score("mine", profile, Run("world", "none", "mine", 4), pack, folder / "run", basis=basis, quiet=True)
    return read_json(folder / "run/model/seen.json")


def test_a_basis_reaches_methods_that_take_one_and_no_others(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_with("FiveArguments", world, tmp_path / "a", monkeypatch, None) == {"seed": 4}
    assert run_with("SixArguments", world, tmp_path / "b", monkeypatch, Path("u")) == {"basis": "u"}
    assert run_with("SixArguments", world, tmp_path / "c", monkeypatch, None) == {"basis": "None"}
    with pytest.raises(InputError, match=r"FiveArguments\.fit does not take it"):
        run_with("FiveArguments", world, tmp_path / "d", monkeypatch, Path("u"))


# --- random weights, the released code's settings -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_new_weights_are_those_of_a_new_model(kind: str, backbones: Mapping[str, Path]) -> None:
    before, drawn, again, other = (load_backbone(backbones[kind]) for _ in range(4))
    for backbone, seed in ((drawn, 1), (again, 1), (other, 2)):
        draw_weights(backbone, seed)
    kept = {name: p.detach() for name, p in before.model.named_parameters()}
    seconds = [dict(backbone.model.named_parameters()) for backbone in (again, other)]
    for name, parameter in drawn.model.named_parameters():
        assert parameter.shape == kept[name].shape
        assert torch.equal(parameter, seconds[0][name])
        if parameter.ndim == 2:
            assert not torch.equal(parameter, kept[name])
            assert not torch.equal(parameter, seconds[1][name])
    if kind == "t5":
        head, shared = drawn.model.lm_head.weight, drawn.model.shared.weight
        assert not torch.equal(head, shared)
        assert head.detach().std() == pytest.approx(drawn.model.config.initializer_factor, rel=0.1)


def test_the_released_codes_settings_start_from_new_weights_and_train_all(
    world: Any, backbones: Any, bases: Any, tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    chosen = settings(config={"preset": "reference", "null_space": False, "rank": 1024}, initial="random")
    parts = generative.assemble(
        chosen, atomic_codes(world.data.items), world.data, backbones["t5"], 1, tuner="gems", basis=bases["t5"]
    )
    base = load_backbone(backbones["t5"]).model
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert not torch.equal(parts.tuned.model.get_parameter(name), base.get_parameter(name))
    counts = parts.tuned.counts()
    assert counts["trainable"] == counts["total"]
    assert isinstance(parts.tuned.optimizer, TaskOptimizer)
    GEMS().fit(
        chosen, world.data, backbones["t5"], 1, tmp_path / "model", basis=bases["t5"], identifiers=identifiers["atomic"]
    )
    assert read_json(tmp_path / "model/diagnostics.json")["best_step"] > 0
    with pytest.raises(InputError, match=r"new weights \(initial: random\) know nothing.*Set null_space: false"):
        with_basis = settings(initial="random")
        GEMS().fit(
            with_basis,
            world.data,
            backbones["t5"],
            1,
            tmp_path / "other",
            basis=bases["t5"],
            identifiers=identifiers["atomic"],
        )
    with pytest.raises(InputError, match="knows T5 only"):
        GEMS().fit(chosen, world.data, backbones["qwen2"], 1, tmp_path / "other", identifiers=identifiers["atomic"])


def test_the_released_codes_settings_are_in_no_main_table() -> None:
    shown = {METHOD_KEYS[name] for table in (TABLE_1, TABLE_2) for names in table.tasks.values() for name in names}
    assert METHOD_KEYS["Ours"] == "gems" and "gems" in shown
    assert not {key for key in shown if key.startswith("gems+")}


# --- profiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mini", "mini-real"])
def test_main_profiles_have_gems_and_no_variant(name: str) -> None:
    profile = load_profile(CONFIG / f"{name}.yaml")
    assert [key for key in profile.methods if key.startswith("gems")] == ["gems"]
    for kind in KINDS:
        assert tuner_name(profile, "gems", kind) == "gems"


def test_gems_and_bsr_differ_in_the_tuner_alone() -> None:
    for name in ("mini", "mini-real"):
        profile = load_profile(CONFIG / f"{name}.yaml")
        (_, ours), (_, bsr) = (build_method(key, profile) for key in ("gems", "bsr"))
        assert (ours.loop, ours.train_tasks, ours.initial) == (bsr.loop, bsr.train_tasks, bsr.initial)


def test_the_ablation_profile_lists_every_variant() -> None:
    profile = load_profile(CONFIG / "mini-ablations.yaml")
    assert set(VARIANTS) <= set(profile.methods)


@pytest.mark.parametrize("key", VARIANTS)
def test_a_variant_is_what_its_name_says(key: str) -> None:
    profile = load_profile(CONFIG / "mini-ablations.yaml")
    usual = _tuner_settings(profile, "gems")
    found = _tuner_settings(profile, key)
    changed = {name: value for name, value in vars(found).items() if value != getattr(usual, name)}
    expected = VARIANTS[key]
    if key == "gems+reference":
        assert expected.items() <= changed.items()
        assert found.rank == 1024
    else:
        assert changed == expected
    _, method = build_method(key, profile)
    assert method.initial == ("random" if key == "gems+reference" else "pretrained")


@pytest.mark.slow
@pytest.mark.parametrize("key", [*VARIANTS, "gems+reference-pretrained"])
def test_a_variant_fits(
    key: str, world: Any, backbones: Any, bases: Any, tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    profile = load_profile(CONFIG / "mini-ablations.yaml")
    method, config = build_method(key, profile)
    side = _tuner_settings(profile, key).basis_side
    basis = None if side is None else bases["t5" if side == "input" else "t5-output"]
    longer = replace(config, loop=replace(config.loop, epochs=3))
    made = {"basis": basis, "identifiers": identifiers["atomic"]}
    method.fit(longer, world.data, backbones["t5"], 1, tmp_path / "model", **made)
    lines = [json.loads(line) for line in (tmp_path / "model/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    assert losses[2] < losses[0]


def _tuner_settings(profile: Profile, key: str) -> GEMSSettings:
    assert tuner_name(profile, key, "t5") == "gems"
    _, method = build_method(key, profile)
    return load_settings(GEMSSettings, method.tuners["t5"].config, key)

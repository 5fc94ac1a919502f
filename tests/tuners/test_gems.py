"""GEMS as a tuner: what moves, what is kept, what is saved, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gemsbench.backbones.loading import load_backbone
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.optim import GEMSConfig, KnowledgeBasis
from gemsbench.tuners.gems import GEMSTuner
from gemsbench.tuners.gems_settings import GEMSSettings
from gemsbench.tuners.parameters import token_matrices

KINDS = ["t5", "qwen2"]
EAGER = {"rank": 8, "learning_rate": 5e-3, "rows_learning_rate": 2e-2, "update_gap": 4}


def collect(tiny: Any, kind: str, side: str = "input", model: Any = None) -> KnowledgeBasis:
    """A basis from random text."""
    generator = torch.Generator().manual_seed(3)
    batches = [{"input_ids": torch.randint(2, 30, (8, 10), generator=generator)} for _ in range(4)]
    if kind == "t5":
        batches = [{**batch, "decoder_input_ids": batch["input_ids"][:, :5]} for batch in batches]
    return KnowledgeBasis.collect(model or tiny.backbones[kind]().model, batches, side=side)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def bases(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of bases, by kind, and "output" of T5's outputs."""
    folder = tmp_path_factory.mktemp("bases")
    made = {kind: collect(tiny, kind) for kind in KINDS} | {"output": collect(tiny, "t5", "output")}
    for name, basis in made.items():
        basis.save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in made}


def prepare(tiny: Any, kind: str, basis: Path | None, *, checkpointing: bool = False, **settings: Any) -> Any:
    config = load_settings(GEMSSettings, {**EAGER, **settings}, "test")
    return GEMSTuner().prepare(
        config, tiny.backbones[kind](), tiny.new_rows, activation_checkpointing=checkpointing, basis=basis
    )


def answers(kind: str, model: Any, prompts: Tensor) -> Tensor:
    """Logits [B, V] after three decoder tokens: with one, the decoder's queries and keys would have no gradient."""
    if kind == "t5":
        before = torch.cat([torch.zeros_like(prompts[:, :1]), prompts[:, :2]], dim=1)
        return model(input_ids=prompts, decoder_input_ids=before, use_cache=False).logits[:, -1]  # type: ignore[no-any-return]
    return model(input_ids=prompts, use_cache=False).logits[:, -1]  # type: ignore[no-any-return]


def loss_on(kind: str, model: Any, taught: Any) -> float:
    model.eval()
    with torch.no_grad():
        return float(cross_entropy(answers(kind, model, taught.prompts), taught.targets))


def teach(kind: str, tuned: Any, taught: Any, steps: int) -> None:
    """Full-batch steps; the first half of the cases is one task, the second half the other."""
    half = len(taught.targets) // 2
    tuned.model.train()
    for _ in range(steps):
        tuned.optimizer.zero_grad()
        for task, part in (("rec", slice(0, half)), ("src", slice(half, None))):
            targets = taught.targets[part]
            with tuned.optimizer.task(task, tokens=len(targets)) as named:
                found = answers(kind, tuned.model, taught.prompts[part])
                named.backward(cross_entropy(found, targets, reduction="sum"))
        tuned.optimizer.step()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def projected(model: Any) -> set[str]:
    """Weights of the linear layers, the head left out."""
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return linear - {"lm_head.weight"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_matrices_and_new_rows_move_and_nothing_else(tiny: Any, bases: Any, kind: str, preset: str) -> None:
    tuned = prepare(tiny, kind, bases[kind], preset=preset)
    before = weights(tuned.model)
    teach(kind, tuned, tiny.lessons(12), steps=6)
    tokens = {id(matrix) for matrix in token_matrices(tuned.model)}
    for name, parameter in tuned.model.named_parameters():
        if name in projected(tuned.model):
            assert not torch.equal(parameter, before[name]), name
        elif id(parameter) in tokens:
            changed = set((parameter != before[name]).any(dim=1).nonzero().flatten().tolist())
            assert changed and changed <= set(tiny.new_rows), name
        else:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(("kind", "matrices"), [("t5", 2), ("qwen2", 1)])
def test_counts(tiny: Any, bases: Any, kind: str, matrices: int) -> None:
    tuned = prepare(tiny, kind, bases[kind])
    inside = sum(p.numel() for name, p in tuned.model.named_parameters() if name in projected(tuned.model))
    rows = len(tiny.new_rows) * 32 * matrices
    total = sum(p.numel() for p in tuned.model.parameters())
    assert tuned.counts() == {"trainable": inside + rows, "new_rows": rows, "total": total}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_it_learns(tiny: Any, bases: Any, kind: str, preset: str) -> None:
    tuned, taught = prepare(tiny, kind, bases[kind], preset=preset), tiny.lessons(30)
    before = loss_on(kind, tuned.model, taught)
    teach(kind, tuned, taught, steps=40)
    assert loss_on(kind, tuned.model, taught) < 0.4 * before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_saved_model_has_the_parameters_of_the_backbone_and_no_other(
    tiny: Any, bases: Any, kind: str, preset: str, tmp_path: Path
) -> None:
    """Table 5: no extra weights."""
    tuned, taught = prepare(tiny, kind, bases[kind], preset=preset), tiny.lessons(6)
    teach(kind, tuned, taught, steps=3)
    tuned.save(tmp_path / "model")
    auto: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    base = tiny.backbones[kind]().model
    shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
    expected = tiny.calm_logits(kind, tuned.model, taught.prompts)
    for model in (auto.from_pretrained(tmp_path / "model").eval(), load_backbone(tmp_path / "model").model):
        assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
        assert torch.equal(tiny.calm_logits(kind, model, taught.prompts), expected)
    assert not list((tmp_path / "model").rglob("*optimizer*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_outputs_on_kept_features_stay(tiny: Any, bases: Any, kind: str, preset: str) -> None:
    """W x is what it was for every x in the span of the basis, and is not without the null space."""
    basis = KnowledgeBasis.load(bases[kind])
    changes = []
    for null_space in (True, False):
        tuned = prepare(tiny, kind, bases[kind] if null_space else None, preset=preset, null_space=null_space)
        before = weights(tuned.model)
        teach(kind, tuned, tiny.lessons(12), steps=10)
        after = weights(tuned.model)
        shares = []
        for name in projected(tuned.model):
            update = after[name] - before[name]
            shares.append(float((update @ basis.of(name)).norm() / update.norm()))
        changes.append(max(shares))
    assert changes[0] < 1e-5 < 1e-2 < changes[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_activation_checkpointing_changes_no_update(tiny: Any, bases: Any, kind: str, preset: str) -> None:
    found = []
    for checkpointing in (False, True):
        # A small rank: in directions that no gradient has, Adam would blow rounding errors up.
        tuned = prepare(tiny, kind, bases[kind], preset=preset, checkpointing=checkpointing, rank=2)
        assert tuned.model.is_activation_checkpointing == checkpointing
        teach(kind, tuned, tiny.lessons(24), steps=3)
        found.append(weights(tuned.model))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_the_seed_is_all_that_chance_depends_on(tiny: Any, bases: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        backbone = tiny.qwen()
        config = load_settings(GEMSSettings, {**EAGER, "preset": "fast"}, "test")
        tuned = GEMSTuner().prepare(config, backbone, tiny.new_rows, seed=seed, basis=bases["qwen2"])
        teach("qwen2", tuned, tiny.lessons(8), steps=6)
        found.append(weights(tuned.model)["model.layers.0.mlp.down_proj.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_defaults_depend_on_the_kind_and_ranks_are_clipped(tiny: Any, bases: Any) -> None:
    for kind, rate in (("t5", 5e-4), ("qwen2", 2e-5)):
        tuned = GEMSTuner().prepare(GEMSSettings(), tiny.backbones[kind](), tiny.new_rows, basis=bases[kind])
        assert {group["lr"] for group in tuned.optimizer.param_groups} == {rate}
        ranks = tuned.optimizer.effective_ranks()
        assert set(ranks) == projected(tuned.model)
        assert all(shared == min(tuned.model.get_parameter(name).shape) for name, (shared, _) in ranks.items())


@pytest.mark.parametrize(("kind", "rank"), [("t5", 256), ("qwen2", 512)])
def test_ranks_asked_for_depend_on_the_kind(tiny: Any, kind: str, rank: int) -> None:
    """Before they are clipped, which hides them in a model as small as this one."""
    for settings, expected in (({}, (rank, rank // 2)), ({"rank": 6}, (6, 3)), ({"rank": 6, "task_rank": 2}, (6, 2))):
        config = GEMSSettings(null_space=False, **settings)
        tuned = GEMSTuner().prepare(config, tiny.backbones[kind](), tiny.new_rows)
        groups = [group for group in tuned.optimizer.param_groups if group["rank"]]
        assert {(group["rank"], group["task_rank"]) for group in groups} == {expected}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("asked", "expected"), [(None, 0.25), (0.125, 0.125)])
def test_new_rows_have_a_learning_rate_of_their_own(tiny: Any, kind: str, asked: float | None, expected: float) -> None:
    config = GEMSSettings(null_space=False, learning_rate=0.25, rows_learning_rate=asked)
    groups = GEMSTuner().prepare(config, tiny.backbones[kind](), tiny.new_rows).optimizer.param_groups
    assert {group["lr"] for group in groups if group["rows"] is not None} == {expected}
    assert {group["lr"] for group in groups if group["rank"]} == {0.25}


SWITCHES = [  # settings of the tuner, and the fields of GEMSConfig that they are to set
    ({}, "paper", {}),
    ({"preset": "fast"}, "fast", {}),
    ({"preset": "reference"}, "reference", {}),
    ({"scale": 1.5}, "paper", {"scale": 1.5}),
    ({"update_gap": 7}, "paper", {"update_gap": 7}),
    ({"null_space_form": "literal"}, "paper", {"null_space_form": "literal"}),
    ({"task_basis": "residual"}, "paper", {"task_basis": "residual"}),
    ({"moment_transfer": "rotate"}, "paper", {"moment_transfer": "rotate"}),
    ({"moment_transfer": "keep", "preset": "fast"}, "fast", {"moment_transfer": "keep"}),
    *(({"gate": gate}, "paper", {"gate": gate}) for gate in ("learned", "prior", "uniform", "heuristic")),
    ({"gate": "learned", "preset": "reference"}, "reference", {"gate": "learned"}),
    ({"gate_temperature": 0.3}, "paper", {"gate_temperature": 0.3}),
    ({"gate_prior": 0.5}, "paper", {"gate_prior": 0.5}),
    ({"weight_decay": 0.02, "null_space": False}, "paper", {"weight_decay": 0.02}),
    ({"weight_decay": 0.0, "preset": "reference"}, "reference", {"weight_decay": 0.0}),
]


@pytest.mark.parametrize(("settings", "preset", "fields"), SWITCHES)
def test_every_switch_reaches_the_optimizer(
    tiny: Any, bases: Any, settings: dict[str, Any], preset: str, fields: dict[str, Any]
) -> None:
    config = GEMSSettings(**settings)
    basis = {None: None, "input": bases["t5"], "output": bases["output"]}[config.basis_side]
    optimizer = GEMSTuner().prepare(config, tiny.t5(), tiny.new_rows, basis=basis).optimizer
    expected = vars(GEMSConfig.of(preset, **fields))
    assert vars(optimizer.config) == expected
    for group in optimizer.param_groups:
        if group["rank"]:
            assert {name: group[name] for name in ("scale", "update_gap", "weight_decay", "side", "eps")} == {
                name: expected[name] for name in ("scale", "update_gap", "weight_decay", "side", "eps")
            }


def test_the_null_space_is_that_of_the_side_asked_for(tiny: Any, bases: Any) -> None:
    for settings, name, side in (({}, "t5", "input"), ({"null_space_side": "output"}, "output", "output")):
        tuned = GEMSTuner().prepare(GEMSSettings(**settings), tiny.t5(), tiny.new_rows, basis=bases[name])
        assert tuned.optimizer.state_dict()["gems_identity"] != _identity(tiny)
        assert tuned.optimizer._null_space is not None and tuned.optimizer._null_space.side == side
    free = GEMSTuner().prepare(GEMSSettings(null_space=False), tiny.t5(), tiny.new_rows, basis=bases["t5"])
    assert free.optimizer._null_space is None


def _identity(tiny: Any) -> Any:
    free = GEMSTuner().prepare(GEMSSettings(null_space=False), tiny.t5(), tiny.new_rows)
    return free.optimizer.state_dict()["gems_identity"]


def test_tasks_may_have_other_names(tiny: Any, bases: Any) -> None:
    config = load_settings(GEMSSettings, EAGER, "test")
    tuned = GEMSTuner().prepare(config, tiny.qwen(), tiny.new_rows, tasks=("a", "b", "c"), basis=bases["qwen2"])
    assert tuple(tuned.optimizer.gate_weights()) == ("a", "b", "c")


# --- the released code's settings -------------------------------------------------------------------------------


def test_the_reference_preset_trains_everything(tiny: Any, bases: Any) -> None:
    tuned = prepare(tiny, "t5", bases["output"], preset="reference", rank=1024)
    total = sum(parameter.numel() for parameter in tuned.model.parameters())
    assert tuned.counts() == {"trainable": total, "new_rows": 2 * 32 * len(tiny.new_rows), "total": total}
    before = weights(tuned.model)
    teach("t5", tuned, tiny.lessons(12), steps=6)
    for name, parameter in tuned.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert {group["weight_decay"] for group in tuned.optimizer.param_groups} == {0.01}
    assert {group["eps"] for group in tuned.optimizer.param_groups} == {1e-6}


def test_the_reference_preset_is_for_t5_only(tiny: Any) -> None:
    with pytest.raises(InputError, match="knows T5 only and not qwen2"):
        prepare(tiny, "qwen2", None, preset="reference", null_space=False)


# --- wrong inputs -----------------------------------------------------------------------------------------------


def test_a_missing_basis_is_named_with_the_command_that_makes_it(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"no knowledge basis of this backbone.*gemsbench basis BACKBONE"):
        prepare(tiny, "t5", None)


def test_a_basis_that_does_not_fit_is_refused(tiny: Any, bases: Any, tmp_path: Path) -> None:
    other = tiny.t5(seed=5).model
    collect(tiny, "t5", model=other).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: this basis is of another model"):
        prepare(tiny, "t5", tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="this basis is of another model"):
        prepare(tiny, "t5", bases["qwen2"])
    with pytest.raises(InputError, match="a basis of outputs; this run needs one of inputs"):
        prepare(tiny, "t5", bases["output"])
    with pytest.raises(InputError, match="a basis of inputs; this run needs one of outputs"):
        prepare(tiny, "t5", bases["t5"], null_space_side="output")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    for name in ("damaged", "absent"):
        with pytest.raises(InputError, match=rf"{name}\.safetensors") as error:
            prepare(tiny, "t5", tmp_path / f"{name}.safetensors")
        assert str(error.value).count(f"{name}.safetensors") == 1


def test_an_error_of_the_optimizer_says_once_who_speaks(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"^gems: gate_temperature is 0\.0"):
        GEMSSettings(gate_temperature=0.0)
    with pytest.raises(InputError, match=r"^gems: a task cannot be called 'shared'"):
        GEMSTuner().prepare(GEMSSettings(null_space=False), tiny.qwen(), tiny.new_rows, tasks=("shared",))
    bare = tiny.qwen()
    bare.model.model.layers = torch.nn.ModuleList()  # no linear layer is left but the head
    with pytest.raises(InputError, match=r"^gems: the model has no nn\.Linear"):
        GEMSTuner().prepare(GEMSSettings(null_space=False), bare, tiny.new_rows)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "gems: rank is 0"),
        ({"task_rank": -1}, "gems: task_rank is -1"),
        ({"learning_rate": 1.0}, "gems: learning_rate is 1.0"),
        ({"rows_learning_rate": -0.1}, "gems: rows_learning_rate is -0.1"),
        ({"weight_decay": float("nan")}, "gems: weight_decay is nan"),
        ({"gate_temperature": 0.0}, "gate_temperature is 0.0"),
        ({"update_gap": 0}, "update_gap is 0"),
        ({"preset": "fast", "task_basis": "residual"}, "task_basis='residual' needs full gradients"),
        ({"preset": "fast", "null_space_side": "output"}, "fast .* cannot use null_space_side: output"),
        ({"null_space": False, "null_space_side": "output"}, "null_space_side is output, and null_space is false"),
        ({"null_space": False, "null_space_form": "literal"}, "null_space_form is literal, and null_space is false"),
    ],
)
def test_settings_out_of_range_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GEMSSettings(**values)


def test_a_backbone_that_does_not_fit_is_refused(tiny: Any) -> None:
    free = GEMSSettings(null_space=False)
    with pytest.raises(InputError, match=r"float32, not torch\.bfloat16"):
        GEMSTuner().prepare(free, tiny.qwen(dtype=torch.bfloat16), tiny.new_rows)
    with pytest.raises(InputError, match="Add the tokens"):
        GEMSTuner().prepare(free, tiny.t5(), range(tiny.n_rows - 1, tiny.n_rows + 1))


@pytest.mark.parametrize(
    ("values", "side"),
    [({}, "input"), ({"preset": "reference"}, "output"), ({"null_space_side": "output"}, "output")],
)
def test_settings_say_which_basis_they_need(values: dict[str, Any], side: str) -> None:
    assert GEMSSettings(**values).basis_side == side


def test_no_basis_is_needed_without_the_null_space() -> None:
    assert GEMSSettings(null_space=False).basis_side is None
    assert GEMSSettings(null_space=False, preset="reference").basis_side is None


def test_settings_are_read_without_torch() -> None:
    code = "import sys, gemsbench.tuners.gems_settings as s; s.GEMSSettings(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

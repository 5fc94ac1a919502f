"""Updates have no part along the knowledge directions, so that known features keep their outputs exactly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS

PER_LAYER = {"backward": "per_layer", "gate_lag": 1}
MODES: dict[str, dict[str, Any]] = {
    "paper-std": {},
    "paper-left": {"side": "left"},
    "paper-right": {"side": "right"},
    "paper-rotate-residual": {"moment_transfer": "rotate", "task_basis": "residual"},
    "paper-subspace": {"side": "right", "null_space_mode": "subspace"},
    "per-layer": PER_LAYER,
    "sketch": {"basis": "sketch"},
    "fast": {"preset": "fast"},
    "fast-full": {"preset": "fast", "backward": "full"},
}
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}


def small_bank(lab: SimpleNamespace, dtype: torch.dtype) -> Any:
    """Weights of the size of a few updates: otherwise fp32 weights cannot hold a change to 1e-5 of itself."""
    model = lab.Bank(dtype=dtype)
    for weight in model.weights.values():
        weight.data.mul_(0.1)
    return model


def leaks(lab: SimpleNamespace, model: Any, opt: GEMS, known: Any, steps: Any) -> tuple[float, float]:
    """Largest share of a step's change of any matrix inside the kept directions, and outside of them."""
    inside, outside = 0.0, 0.0
    for batches in steps:
        before = {name: weight.detach().double().clone() for name, weight in model.weights.items()}
        lab.train(opt, model, [batches])
        for name, weight in model.weights.items():
            change = weight.detach().double() - before[name]
            if change.norm() == 0:
                continue
            columns = known.columns[f"layers.{name}.weight"].double()
            if known.side == "output":
                change = change.T
            part = change @ columns
            inside = max(inside, float(part.norm() / change.norm()))
            outside = max(outside, float((change - part @ columns.T).norm() / change.norm()))
    return inside, outside


def accumulated(lab: SimpleNamespace, model: Any, steps: int) -> list[list[Any]]:
    """Four micro-batches a step with unequal token counts."""
    taught = []
    for step in lab.lessons(model, steps):
        parts = [part.split(2, [part.tokens - 1, 1]) for part in step]
        taught.append([parts[0][0], parts[1][0], parts[0][1], parts[1][1]])
    return taught


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gate", ["uniform", "learned"])
def test_every_update_avoids_the_kept_directions(
    lab: SimpleNamespace, mode: str, dtype: torch.dtype, gate: str
) -> None:
    model = small_bank(lab, dtype)
    known = lab.spans(model, 3, exact=dtype == torch.float64)
    opt = lab.optimizer(model, null_space=known, update_gap=4, gate=gate, gate_every=2, **MODES[mode])
    inside, outside = leaks(lab, model, opt, known, accumulated(lab, model, 14))
    assert inside <= LIMIT[dtype]
    assert outside > 0.99


@pytest.mark.parametrize("mode", ["paper-std", "paper-left", "paper-subspace", "per-layer", "fast"])
def test_the_literal_projector_trains_inside_them_only(lab: SimpleNamespace, mode: str) -> None:
    model = small_bank(lab, torch.float64)
    known = lab.spans(model, 4)
    opt = lab.optimizer(model, null_space=known, null_space_form="literal", update_gap=4, **MODES[mode])
    inside, outside = leaks(lab, model, opt, known, lab.lessons(model, 10))
    assert outside <= 1e-12
    assert inside > 0.99


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("paper-subspace", "fast", "fast-full")])
def test_known_outputs_confine_the_rows_of_the_update(lab: SimpleNamespace, mode: str) -> None:
    """The output side, as the released code has it: U^T Delta = 0."""
    model = small_bank(lab, torch.float64)
    known = lab.spans(model, 3, "output")
    settings = MODES[mode]
    opt = lab.optimizer(model, null_space=known, update_gap=4, **settings)
    inside, _ = leaks(lab, model, opt, known, lab.lessons(model, 10))
    assert inside <= 1e-12


def test_projecting_the_gradient_leaks_through_adam(lab: SimpleNamespace) -> None:
    """Why P stands after Adam: in the released order the part along known inputs comes back for bases of outputs."""
    model = small_bank(lab, torch.float64)
    known = lab.spans(model, 3)
    opt = lab.optimizer(model, null_space=known, null_space_mode="gradient", side="left", update_gap=4)
    inside, _ = leaks(lab, model, opt, known, lab.lessons(model, 6))
    assert inside > 0.05


def test_a_gradient_of_few_rows_does_not_lead_out_of_the_null_space(lab: SimpleNamespace) -> None:
    """A gradient of rank 1: the other directions of its bases are made up, inside the projector's range."""
    model = small_bank(lab, torch.float32)
    known = lab.spans(model, 3, exact=False)
    for mode in ("fast", "fast-full", "paper-subspace", "paper-std"):
        opt = lab.optimizer(model, null_space=known, update_gap=2, **MODES[mode])
        steps = [[lab.batch(model, task, seed=step, rows=1) for task in lab.TASKS] for step in range(8)]
        inside, _ = leaks(lab, model, opt, known, steps)
        assert inside <= 1e-5, mode


def kept_output_change(lab: SimpleNamespace, mode: str, **settings: Any) -> float:
    """Relative change of W x for random x in the kept span after 200 steps in fp32."""
    model = lab.Bank(dtype=torch.float32)
    known = lab.spans(model, 3, exact=False)
    null_space = None if settings.pop("without", False) else known
    opt = lab.optimizer(model, null_space=null_space, update_gap=40, lr=0.01, **{**MODES[mode], **settings})
    before = {name: weight.detach().clone() for name, weight in model.weights.items()}
    lab.train(opt, model, lab.lessons(model, 200))
    worst = 0.0
    for name, weight in model.weights.items():
        columns = known.columns[f"layers.{name}.weight"]
        features = (columns @ torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).double()).double()
        change = (weight.detach().double() - before[name].double()) @ features
        worst = max(worst, float(change.norm() / (before[name].double() @ features).norm()))
        assert (weight - before[name]).norm() > 0.1 * before[name].norm()
    return worst


@pytest.mark.parametrize("mode", ["paper-std", "paper-left", "per-layer", "fast"])
def test_known_features_keep_their_outputs_over_200_steps(lab: SimpleNamespace, mode: str) -> None:
    assert kept_output_change(lab, mode) <= 1e-5


@pytest.mark.filterwarnings("ignore:.*weight_decay.*")
def test_weight_decay_and_a_missing_null_space_change_them(lab: SimpleNamespace) -> None:
    """The guard of the test above: it notices what breaks the promise."""
    assert kept_output_change(lab, "paper-std", weight_decay=0.1) > 1e-3
    assert kept_output_change(lab, "paper-std", without=True) > 1e-2


def probe(lab: SimpleNamespace, kind: str, seed: int) -> Any:
    return lab.models.rows(kind, ["src", "rec"], seed=seed, longest=6)


def features_of(model: nn.Module, known: Any, names: set[str]) -> dict[str, Tensor]:
    """Parameter name -> orthonormal columns that span every input the layer sees on the probe, padding included."""
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(f"{name}.weight", []).append(args[0].detach().flatten(0, -2))
        )
        for name, module in model.named_modules()
        if f"{name}.weight" in names
    ]
    with torch.no_grad():
        known.row_losses(model)
    for hook in hooks:
        hook.remove()
    columns = {}
    for name, rows in seen.items():
        u, sigma, _ = torch.linalg.svd(torch.cat(rows).double().T, full_matrices=False)
        columns[name] = u[:, sigma > 1e-9 * sigma[0]].float()
    return columns


def logit_change(lab: SimpleNamespace, kind: str, mode: str, basis: str, **settings: Any) -> float:
    """Relative change of the probe's losses after 30 steps on other rows."""
    model = lab.models.build(kind)
    names = set(lab.optimizer(model).effective_ranks())
    known = probe(lab, kind, 50)
    columns = features_of(model, known, names)
    assert all(value.shape[1] <= value.shape[0] // 2 for value in columns.values())
    if basis == "random":
        columns = {name: lab.random_columns(*value.shape, seed=i) for i, (name, value) in enumerate(columns.items())}
    null_space = None if basis == "none" else lab.Spans(columns)
    settings = {"update_gap": 10, "null_space": null_space, **MODES[mode], **settings}
    opt = lab.optimizer(model, lr=3e-3, **settings)
    with torch.no_grad():
        before = known.row_losses(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(30):
        rows = lab.models.rows(kind, ["src", "rec", "src", "rec"], seed=step)
        for task in lab.TASKS:
            with opt.task(task, tokens=rows.tokens[task], last=task == "rec") as part:
                part.backward(rows.of(task).row_losses(model).sum())
        opt.step()
        opt.zero_grad()
    assert all(not torch.equal(p, start[name]) for name, p in model.named_parameters() if name in names)
    with torch.no_grad():
        after = known.row_losses(model)
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("mode", ["paper-std", "fast"])
@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_a_whole_network_answers_the_known_text_as_before(lab: SimpleNamespace, kind: str, mode: str) -> None:
    """By induction over the layers: every input of the probe is inside its span, so every output is what it was."""
    assert logit_change(lab, kind, mode, "features") <= 1e-5


@pytest.mark.filterwarnings("ignore:.*weight_decay.*")
def test_a_random_basis_or_none_or_decay_do_not_protect_the_network(lab: SimpleNamespace) -> None:
    assert logit_change(lab, "qwen2", "fast", "random") > 1e-3
    assert logit_change(lab, "qwen2", "fast", "none") > 1e-3
    assert logit_change(lab, "qwen2", "fast", "features", weight_decay=0.1) > 1e-4

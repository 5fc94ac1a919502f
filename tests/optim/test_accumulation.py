"""How the rows of a step are cut into passes does not matter; what is missing is left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

LAGGED = {"gate": "learned", "gate_every": 2, "gate_lag": 1, "gate_lr": 0.05}
MODES: dict[str, dict[str, Any]] = {
    "paper": {"gate": "learned", "gate_every": 2, "gate_lr": 0.05},
    "per-layer": {"backward": "per_layer", **LAGGED},
    "fast": {"preset": "fast", "gate": "learned", "gate_every": 2, "gate_lr": 0.05},
}


def weights_after(lab: SimpleNamespace, steps: Any, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    model = lab.Bank(dtype=dtype)
    opt = lab.optimizer(model, update_gap=4, null_space=lab.spans(model), **settings)
    lab.train(opt, model, steps(model))
    return {name: weight.detach().clone() for name, weight in model.weights.items()}, opt


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max() / first[name].abs().max()) for name in first)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_four_small_passes_equal_one_large_one(lab: SimpleNamespace, mode: str, dtype: torch.dtype) -> None:
    """Token counts of the passes differ; the order of the tasks is mixed."""

    def cut(model: Any) -> list[list[Any]]:
        found = []
        for step in lab.lessons(model, 10):
            src, rec = (part.split(4, [0.5, 1.0, 0.25, part.tokens - 1.75]) for part in step)
            found.append([src[0], src[1], rec[0], src[2], rec[1], rec[2], rec[3], src[3]])
        return found

    whole, first = weights_after(lab, lambda model: lab.lessons(model, 10), dtype, **MODES[mode])
    parts, second = weights_after(lab, cut, dtype, **MODES[mode])
    assert apart(whole, parts) <= (1e-6 if dtype == torch.float32 else 1e-11)
    assert first.gate_weights() == pytest.approx(second.gate_weights(), abs=1e-5)
    assert first.gate_weights()["src"] != pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_tokens_weigh_the_passes(lab: SimpleNamespace, mode: str) -> None:
    """The guard: with other token counts of the tasks the shared gradient is another one."""
    plain, _ = weights_after(lab, lambda model: lab.lessons(model, 6), **MODES[mode])
    for_rec = {"src": 1.0, "rec": 3.0}

    def more_tokens(model: Any) -> list[list[Any]]:
        steps = lab.lessons(model, 6)
        return [[type(p)(p.task, p.tokens * for_rec[p.task], p.inputs, p.signals) for p in step] for step in steps]

    other, _ = weights_after(lab, more_tokens, **MODES[mode])
    assert apart(plain, other) > 1e-3


@pytest.mark.parametrize("gate", ["uniform", "prior", "learned", "heuristic"])
@pytest.mark.parametrize("basis", ["svd", "sketch"])
def test_layer_by_layer_equals_all_at_once(lab: SimpleNamespace, gate: str, basis: str) -> None:
    settings = {**LAGGED, "gate": gate, "basis": basis}
    full, first = weights_after(lab, lambda model: lab.lessons(model, 12), backward="full", **settings)
    layered, second = weights_after(lab, lambda model: lab.lessons(model, 12), backward="per_layer", **settings)
    assert apart(full, layered) <= (1e-8 if gate == "learned" else 1e-11)  # the gate itself is fp32
    assert first.gate_weights() == pytest.approx(second.gate_weights(), abs=1e-5)


def test_layer_by_layer_frees_every_gradient_and_moves_each_layer_in_its_own_hook(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, backward="per_layer", gate_lag=1)
    lab.train(opt, model, lab.lessons(model, 2))
    before = {name: weight.detach().clone() for name, weight in model.weights.items()}
    lab.feed(opt, model, lab.lessons(model, 1, first=5)[0])
    assert all(weight.grad is None for weight in model.weights.values())
    assert all(not torch.equal(weight, before[name]) for name, weight in model.weights.items())


def test_layer_by_layer_keeps_no_gradient_between_passes(lab: SimpleNamespace) -> None:
    """Off refresh steps only projections are held: with r = 1 no tensor of the gradient's size is alive."""
    model = lab.Bank()
    opt = lab.optimizer(model, groups={"rank": 1, "task_rank": 1}, backward="per_layer", gate_lag=1)
    first, second = lab.lessons(model, 2)
    lab.train(opt, model, [first])
    with opt.task("src", tokens=second[0].tokens) as part:
        part.backward(second[0].loss(model))
    sizes = {tuple(weight.shape) for weight in model.weights.values()}
    assert not [tensor for tensor in reachable(opt) if tuple(tensor.shape) in sizes and not is_weight(tensor, model)]


def reachable(root: object, depth: int = 9) -> list[Tensor]:
    """Tensors that an object holds, through attributes, mappings and sequences."""
    found, seen, queue = [], set(), [(root, 0)]
    while queue:
        item, level = queue.pop()
        if id(item) in seen or level > depth or isinstance(item, str | bytes | int | float | type):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found.append(item)
        children: list[Any] = []
        if isinstance(item, dict):
            children = list(item.values())
        elif isinstance(item, list | tuple | set):
            children = list(item)
        elif hasattr(item, "__dict__") and not isinstance(item, Tensor):
            children = list(vars(item).values())
        queue += [(child, level + 1) for child in children]
    return found


def is_weight(tensor: Tensor, model: Any) -> bool:
    return any(tensor.data_ptr() == weight.data_ptr() for weight in model.weights.values())


def test_the_shared_gradient_is_the_one_of_a_third_backward(lab: SimpleNamespace) -> None:
    """Eq. 11: grad(L_src + L_rec) = G_src + G_rec, each a mean over its task's tokens."""
    model, twin = lab.Bank(dtype=torch.float32), lab.Bank(dtype=torch.float32)
    groups = {"task_rank": 0}
    opt, third = lab.optimizer(model, groups=groups, update_gap=4), lab.optimizer(twin, groups=groups, update_gap=4)
    for step in lab.lessons(model, 10):
        lab.train(opt, model, [step])
        third.zero_grad()
        sum(part.loss(twin) / part.tokens for part in step).backward()
        third.step()
    assert (
        apart({k: v.detach() for k, v in model.weights.items()}, {k: v.detach() for k, v in twin.weights.items()})
        <= 1e-6
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_task_keeps_its_moments_counter_and_basis(lab: SimpleNamespace, mode: str) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, update_gap=3, **MODES[mode])
    steps = lab.lessons(model, 9)
    lab.train(opt, model, steps[:2])
    before = {name: rec_state(opt.state[weight]) for name, weight in model.weights.items()}
    moved = {name: weight.detach().clone() for name, weight in model.weights.items()}
    lab.train(opt, model, [step[:1] for step in steps[2:6]])
    for name, weight in model.weights.items():
        assert all(torch.equal(value, before[name][key]) for key, value in rec_state(opt.state[weight]).items())
        assert not torch.equal(weight, moved[name])
    assert all(torch.isfinite(weight).all() for weight in model.weights.values())
    lab.train(opt, model, steps[6:])
    for name, weight in model.weights.items():
        after = rec_state(opt.state[weight])
        assert int(after["steps"]) == int(before[name]["steps"]) + 3
        assert not torch.equal(after["basis"], before[name]["basis"])  # the refresh it missed was made up for


def rec_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of the last of three components of ranks 4, 2, 2."""
    found = {key: state[key][6:].clone() for key in ("basis", "exp_avg", "exp_avg_sq")}
    return {**found, "steps": state["steps"][2].clone()}


@pytest.mark.parametrize("mode", MODES)
def test_a_task_that_comes_late(lab: SimpleNamespace, mode: str) -> None:
    """rec appears for the first time in step 4: finite numbers, and its count starts at 1 with its first update."""
    model = lab.Bank()
    opt = lab.optimizer(model, update_gap=50, **MODES[mode])
    steps = lab.lessons(model, 8)
    lab.train(opt, model, [step[:1] for step in steps[:3]])
    for weight in model.weights.values():
        assert int(opt.state[weight]["steps"][2]) == 0
        assert not opt.state[weight]["exp_avg"][6:].any()
    lab.train(opt, model, steps[3:])
    for weight in model.weights.values():
        assert int(opt.state[weight]["steps"][2]) == (4 if mode == "fast" else 5)  # a sketched basis waits a step
        assert torch.isfinite(weight).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_step_without_any_gradient_changes_nothing(lab: SimpleNamespace, mode: str) -> None:
    model, twin = lab.Bank(), lab.Bank()
    opt, plain = (lab.optimizer(bank, update_gap=3, **MODES[mode]) for bank in (model, twin))
    opt.step()
    for step in lab.lessons(model, 5):
        lab.train(opt, model, [step])
        opt.step()
        opt.zero_grad()
        lab.train(plain, twin, [step])
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())

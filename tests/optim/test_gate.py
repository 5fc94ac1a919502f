"""The gate: weights that are shares, follow the prior, and learn along the exact gradient of the next step's losses."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gemsbench.optim import gate as gate_module


def weights_after(lab: SimpleNamespace, levels: dict[str, float], steps: int = 1, **settings: Any) -> dict[str, float]:
    """The gate after steps whose losses per token are `levels`; the gradients do not depend on them."""
    model = lab.Bank()
    opt = lab.optimizer(model, **{"gate": "prior", "gate_ema": 0.0, "tasks": tuple(levels), **settings})
    for step in range(steps):
        lab.train(opt, model, [[lab.batch(model, t, seed=step, level=level) for t, level in levels.items()]])
    found = opt.gate_weights()
    assert list(found) == list(levels)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("gate", ["learned", "prior", "uniform", "heuristic"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_weights_are_shares(lab: SimpleNamespace, gate: str, temperature: float) -> None:
    for levels in ({"src": 5.0, "rec": 0.2}, {"a": 1.0, "b": 2.0, "c": 30.0}, {"src": 1e-9, "rec": 1e9}):
        settings = {"gate_lr": 0.1, "gate_every": 1, "gate_temperature": temperature}
        found = weights_after(lab, levels, steps=4, gate=gate, **settings)
        assert all(weight >= 0 for weight in found.values())
        assert sum(found.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("gate", ["learned", "prior"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_without_a_prior_the_start_is_a_half_whatever_the_losses_are(
    lab: SimpleNamespace, gate: str, temperature: float
) -> None:
    found = weights_after(lab, {"src": 50.0, "rec": 0.1}, gate=gate, gate_prior=0.0, gate_temperature=temperature)
    assert found == {"src": 0.5, "rec": 0.5}


def test_the_network_starts_as_the_prior(lab: SimpleNamespace) -> None:
    levels = {"src": 4.0, "rec": 1.0}
    assert weights_after(lab, levels, gate="learned") == weights_after(lab, levels, gate="prior")


def test_a_high_temperature_is_uniform_and_a_low_one_takes_one_task(lab: SimpleNamespace) -> None:
    levels = {"src": 4.0, "rec": 1.0}
    flat = weights_after(lab, levels, gate_temperature=1e4)
    assert flat == pytest.approx({"src": 0.5, "rec": 0.5}, abs=1e-4)
    assert weights_after(lab, levels, gate_temperature=0.01)["rec"] > 0.999


def test_the_louder_task_gets_less(lab: SimpleNamespace) -> None:
    """Higher loss, or larger gradient, smaller weight; the released heuristic does the opposite."""
    losses = [weights_after(lab, {"src": level, "rec": 1.0})["src"] for level in (0.1, 0.5, 1.0, 3.0, 30.0)]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1] + 0.1
    raised = [weights_after(lab, {"src": level, "rec": 1.0}, gate="heuristic")["src"] for level in (0.1, 1.0, 30.0)]
    assert raised == sorted(raised) and raised[0] < raised[-1] - 0.1
    norms = []
    for factor in (0.1, 1.0, 10.0):
        model = lab.Bank()
        opt = lab.optimizer(model, gate="prior", gate_ema=0.0)
        src, rec = lab.lessons(model, 1)[0]
        louder = lab.Batch(src.task, src.tokens, src.inputs, {k: factor * s for k, s in src.signals.items()})
        lab.train(opt, model, [[louder, rec]])
        norms.append(opt.gate_weights()["src"])
    assert norms == sorted(norms, reverse=True) and norms[0] > norms[-1] + 0.1


def features(lab: SimpleNamespace, model: Any, steps: Any, ema: float) -> tuple[Tensor, Tensor, Tensor]:
    """Shares [K] of running losses, running gradient norms over all matrices, and the last step's tokens."""
    losses, norms, tokens = {}, {}, {}
    for step in steps:
        tokens = {part.task: part.tokens for part in step}
        for part in step:
            norm = math.sqrt(sum(float((g / part.tokens).square().sum()) for g in part.gradients().values()))
            losses[part.task] = ema * losses.get(part.task, part.level) + (1 - ema) * part.level
            norms[part.task] = ema * norms.get(part.task, norm) + (1 - ema) * norm
    shares = [torch.tensor([found.get(t, 0.0) for t in lab.TASKS]) for found in (losses, norms, tokens)]
    return tuple(share / share.sum() for share in shares)  # type: ignore[return-value]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("lag", [0, 1])
def test_the_prior_is_its_formula(lab: SimpleNamespace, ema: float, lag: int) -> None:
    """softmax(-kappa (loss share + norm share) / 2 / temperature); with lag 1 at the statistics of the step before."""
    model = lab.Bank()
    settings = {"gate": "prior", "gate_ema": ema, "gate_lag": lag, "gate_prior": 1.7, "gate_temperature": 0.6}
    opt = lab.optimizer(model, groups={"rank": 8}, side="right", **settings)
    levels = torch.linspace(0.5, 4.0, 6).tolist()
    steps = [[lab.batch(model, "src", n, level=levels[n]), lab.batch(model, "rec", n, tokens=2.0)] for n in range(6)]
    for number, step in enumerate(steps):
        lab.train(opt, model, [step])
        if lag and number == 0:
            assert opt.gate_weights() == {"src": 0.5, "rec": 0.5}
            continue
        loss, norm, _ = features(lab, model, steps[: number + 1 - lag], ema)
        expected = torch.softmax(-1.7 * (loss + norm) / 2 / 0.6, dim=0)
        # With lag 1 norms are those of projections, as the layer-by-layer mode has nothing else.
        assert list(opt.gate_weights().values()) == pytest.approx(expected.tolist(), abs=5e-2 if lag else 1e-6)


def test_the_heuristic_is_its_formula(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, gate="heuristic", gate_ema=0.0)
    steps = [[lab.batch(model, "src", 3, tokens=7.0, level=2.0), lab.batch(model, "rec", 3, tokens=2.0)]]
    lab.train(opt, model, steps)
    loss, norm, tokens = features(lab, model, steps, 0.0)
    expected = 0.4 * loss + 0.4 * norm + 0.2 * tokens
    assert list(opt.gate_weights().values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_missing_task_is_judged_by_its_last_statistics(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, gate="prior", gate_ema=0.5)
    both = [lab.batch(model, "src", 0, level=9.0), lab.batch(model, "rec", 0, level=1.0)]
    lab.train(opt, model, [both])
    before = opt.gate_weights()
    assert before["src"] < 0.49
    lab.train(opt, model, [both[:1]] * 3)
    assert opt.gate_weights() == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_reported_weights_are_those_of_the_update(lab: SimpleNamespace, lag: int) -> None:
    """Also after a step in which the gate has learned."""
    model = lab.Bank()
    opt = lab.optimizer(model, gate="learned", gate_every=2, gate_lr=0.1, gate_lag=lag, lr=0.02, update_gap=5)
    rules = lab.Rules(lab.TASKS, 4, 2, 0.02, gap=5)
    lab.follow(opt, model, lab.dense(model, rules), lab.lessons(model, 9))


def test_one_task_has_the_whole_weight(lab: SimpleNamespace) -> None:
    assert weights_after(lab, {"only": 3.0}, steps=3, gate="learned", gate_every=1) == {"only": 1.0}


class Quadratic:
    """Per task a mean loss |W X^T - Y|^2 / 2 / tokens over a bank's layers; gradients depend on the weights."""

    def __init__(self, lab: SimpleNamespace, model: Any) -> None:
        self.rows = {task: lab.batch(model, task, seed=40, rows=30) for task in lab.TASKS}

    def sums(self, model: Any, task: str) -> Tensor:
        rows = self.rows[task]
        parts = [
            (layer(rows.inputs[name].clone().requires_grad_()) - rows.signals[name]).square().sum() / 2
            for name, layer in model.layers.items()
        ]
        return torch.stack(parts).sum()

    def step(self, opt: Any, model: Any) -> None:
        for task, rows in self.rows.items():
            with opt.task(task, tokens=rows.tokens, last=task == "rec") as part:
                part.backward(self.sums(model, task))
        opt.step()
        opt.zero_grad()

    def means(self, model: Any) -> dict[str, float]:
        return {task: float(self.sums(model, task).detach()) / rows.tokens for task, rows in self.rows.items()}


HYPER: dict[str, dict[str, Any]] = {
    "paper": {},
    "left": {"side": "left"},
    "right": {"side": "right"},
    "no-null-space": {"without": True},
    "per-layer": {"backward": "per_layer", "gate_lag": 1},
    "fast": {"preset": "fast"},
}
BEFORE = 4  # steps; the update of the last one is the one judged


def state_before(lab: SimpleNamespace, mode: str, weights: Tensor | None) -> tuple[Any, Any, Quadratic]:
    """A bank and its optimizer after BEFORE steps; the last one with the given gate weights [K]."""
    settings = dict(HYPER[mode])
    model = lab.Bank()
    null_space = None if settings.pop("without", False) else lab.spans(model)
    settings = {"lr": 0.02, "scale": 1.3, "update_gap": 50, "null_space": null_space, **settings}
    opt = lab.optimizer(model, gate="learned", gate_every=BEFORE + 1, gate_ema=0.8, seed=2, **settings)
    task = Quadratic(lab, model)
    last = opt.gate.network[2]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # from the start, where the last layer is zero, most derivatives vanish
        for parameter in last.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    for _ in range(BEFORE - 1):
        task.step(opt, model)
    own = opt.gate.weights
    if weights is not None:
        opt.gate.weights = lambda *_: weights
    task.step(opt, model)
    opt.gate.weights = own
    return model, opt, task


def objective(lab: SimpleNamespace, mode: str, weights: Tensor, scales: Tensor) -> float:
    """J = sum of L / EMA(L) after the step that the gate weights decided."""
    model, _, task = state_before(lab, mode, weights)
    return float((torch.tensor(list(task.means(model).values()), dtype=torch.float64) / scales).sum())


@pytest.mark.parametrize("mode", HYPER)
def test_the_hypergradient_equals_finite_differences(
    lab: SimpleNamespace, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of J in the gate's weights, its outputs and its network, through the optimizer's own next step."""
    monkeypatch.setattr(gate_module, "_TO_PRIOR", 0.0)
    model, opt, task = state_before(lab, mode, None)
    used = torch.tensor(list(opt.gate_weights().values()), dtype=torch.float64)
    network = [parameter.detach().double().clone() for parameter in opt.gate.network.parameters()]
    applied = opt.gate.applied.double()
    seen: dict[str, Any] = {}
    learn = opt.gate.learn

    def spy(alignment: Tensor) -> None:
        seen.update(alignment=alignment.double(), losses=opt.gate.losses.double().clone())
        learn(alignment)

    opt.gate.learn = spy
    task.step(opt, model)
    slope = gate_module.hypergradient(seen["alignment"], seen["losses"])
    small = 1e-3
    unit = torch.eye(2, dtype=torch.float64) * small
    numeric = torch.tensor(
        [
            (objective(lab, mode, used + step, seen["losses"]) - objective(lab, mode, used - step, seen["losses"]))
            for step in unit
        ],
        dtype=torch.float64,
    ) / (2 * small)
    assert slope.tolist() == pytest.approx(numeric.tolist(), rel=1e-4)

    def outputs(parameters: list[Tensor]) -> Tensor:
        hidden = torch.relu(parameters[0] @ (applied - 0.5).flatten() + parameters[1])
        prior = -(applied[0] + applied[1]) / 2
        return prior + parameters[2] @ hidden + parameters[3]

    leaves = [value.clone().requires_grad_() for value in network]
    weights = torch.softmax(outputs(leaves), dim=0)
    assert weights.tolist() == pytest.approx(used.tolist(), abs=1e-6)
    size = slope.square().mean().sqrt()
    (weights @ (numeric / size)).backward()
    for parameter, leaf in zip(opt.gate.network.parameters(), leaves, strict=True):
        assert torch.allclose(parameter.grad.double(), leaf.grad, rtol=1e-3, atol=1e-5 * float(leaf.grad.abs().max()))


def test_the_softmax_rule_is_that_of_autograd() -> None:
    slope, outputs = torch.tensor([0.3, -1.2, 0.7]), torch.tensor([0.1, 0.5, -0.4], requires_grad=True)
    weights = torch.softmax(outputs / 0.3, dim=0)
    (weights @ slope).backward()
    found = gate_module.output_gradient(slope, weights.detach(), 0.3)
    assert outputs.grad is not None
    assert torch.allclose(found, outputs.grad, atol=1e-6)


def test_the_gate_learns_to_favour_the_task_whose_update_helps(lab: SimpleNamespace) -> None:
    """With a prior of 0 only the hypergradient moves it; rec's losses are unrelated noise from step to step."""
    model = lab.Bank()
    opt = lab.optimizer(model, gate="learned", gate_prior=0.0, gate_every=1, gate_lr=0.02, lr=1e-3)
    steady = lab.batch(model, "src", seed=1)
    for step in range(60):
        lab.train(opt, model, [[steady, lab.batch(model, "rec", seed=step)]])
    assert opt.gate_weights()["src"] > 0.55


def test_the_gate_learns_only_when_it_is_due_and_both_tasks_are_there(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, gate="learned", gate_every=3, gate_lr=0.1)
    values = []
    for number, step in enumerate(lab.lessons(model, 9)):
        lab.train(opt, model, [step[:1] if number == 5 else step])
        values.append(torch.cat([p.detach().flatten() for p in opt.gate.network.parameters()]))
    changed = [not torch.equal(a, b) for a, b in pairwise(values)]
    assert changed == [False, True, False, False, False, False, False, True]

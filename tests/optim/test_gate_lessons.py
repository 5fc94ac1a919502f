"""When the gate learns and from what: fresh bases, absent tasks, rates of groups, the pull of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS, GEMSConfig, gems_param_groups
from gemsbench.optim.gate import Gate

TASKS = ("src", "rec")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))


def take_step(opt: GEMS, model: nn.Module, step: int, tasks: Sequence[str] = TASKS) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
    for name in tasks:
        with opt.task(name, tokens=4) as part:
            part.backward((model(x) + (x if name == "rec" else -x)).square().sum())
    opt.step()
    opt.zero_grad()


def lesson(rates: tuple[float, float]) -> Tensor:
    """H of the second step, taken with these learning rates of two groups after equal first steps."""
    model = network()
    (group,) = gems_param_groups(model, rank=3)
    layers = group.pop("layers")
    groups = [{**group, "params": [pair], "layers": [own]} for pair, own in zip(group["params"], layers, strict=True)]
    opt = GEMS(groups, lr=0.01, gate_every=2)
    take_step(opt, model, 1)
    for group, rate in zip(opt.param_groups, rates, strict=True):
        group["lr"] = rate
    take_step(opt, model, 2)
    return opt.gate.alignment


def test_each_group_counts_with_its_own_rate() -> None:
    first, second = lesson((1.0, 0.0)), lesson((0.0, 1.0))
    assert min(float(first.abs().min()), float(second.abs().min())) > 0
    assert torch.allclose(lesson((3.0, 0.5)), 3 * first + 0.5 * second, rtol=1e-5)


def test_nothing_is_learned_where_a_refresh_falls_between() -> None:
    """Refreshes at steps 1, 4, 7; the gate is due at 4 and 8."""
    model = network()
    opt = GEMS(gems_param_groups(model, rank=3), lr=0.01, update_gap=3, gate_every=4)
    for step in range(1, 8):
        take_step(opt, model, step)
    assert bool(opt.gate.alignment.isnan().all())
    take_step(opt, model, 8)
    assert bool(opt.gate.alignment.isfinite().all())


def test_a_task_that_the_last_update_did_not_have_teaches_nothing() -> None:
    model = network()
    opt = GEMS(gems_param_groups(model, rank=3), lr=0.01, gate_every=2)
    take_step(opt, model, 1)
    take_step(opt, model, 2)
    learned = opt.gate.alignment.clone()
    take_step(opt, model, 3, ("src",))
    take_step(opt, model, 4)
    assert bool(learned.isfinite().all())
    assert torch.equal(opt.gate.alignment, learned)


def test_without_a_slope_the_gate_returns_to_its_prior() -> None:
    gate = Gate(GEMSConfig.of("paper", gate_lr=0.05), TASKS, seed=0)
    with torch.no_grad():
        list(gate.network.parameters())[-1].copy_(torch.tensor([1.5, -1.5]))
    away = float(gate.weights(gate.applied)[0])
    for _ in range(60):
        gate.learn(torch.zeros(2, 2))
    assert away > 0.9
    assert abs(float(gate.weights(gate.applied)[0]) - 0.5) < 0.1

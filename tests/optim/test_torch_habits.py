"""What training loops take for granted of a torch optimizer."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from gemsbench.optim import GEMS, gems_param_groups

MODES: dict[str, dict[str, Any]] = {
    "paper": {},
    "per-layer": {"backward": "per_layer", "gate_lag": 1},
    "fast": {"preset": "fast"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["lambda", "one-cycle", "cosine"])
def test_learning_rate_schedules(lab: SimpleNamespace, mode: str, kind: str) -> None:
    """The same weights as with the rates set by hand; rates change between steps only."""
    model, twin = lab.Bank(), lab.Bank()
    opt, plain = (lab.optimizer(bank, update_gap=3, **MODES[mode]) for bank in (model, twin))
    schedule: Any = {
        "lambda": lambda: LambdaLR(opt, lambda step: 1 / (1 + step)),
        "one-cycle": lambda: OneCycleLR(opt, max_lr=0.05, total_steps=10, cycle_momentum=False),
        "cosine": lambda: CosineAnnealingLR(opt, T_max=8),
    }[kind]()
    rates = []
    for step in lab.lessons(model, 8):
        rates.append(opt.param_groups[0]["lr"])
        lab.train(opt, model, [step])
        schedule.step()
    assert len(set(rates)) > 4
    for rate, step in zip(rates, lab.lessons(model, 8), strict=True):
        for group in plain.param_groups:
            group["lr"] = rate
        lab.train(plain, twin, [step])
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())


def test_one_cycle_with_momentum_moves_the_betas(lab: SimpleNamespace) -> None:
    """OneCycleLR's default cycles betas of the groups: they are the ones that are used."""
    found = []
    for cycled in (True, False):
        model = lab.Bank()
        opt = lab.optimizer(model)
        schedule = OneCycleLR(opt, max_lr=0.05, total_steps=10, cycle_momentum=cycled)
        for step in lab.lessons(model, 8):
            lab.train(opt, model, [step])
            schedule.step()
        found.append(model)
    assert opt.param_groups[0]["betas"] == (0.9, 0.999)
    assert not torch.allclose(found[0].weights["tall"], found[1].weights["tall"], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_param_groups_are_plain_data(lab: SimpleNamespace, mode: str) -> None:
    """Wrappers copy and print them; modules have no place there."""
    opt = lab.optimizer(lab.Bank(), **MODES[mode])
    copied = copy.deepcopy(opt.param_groups)
    assert [group.keys() for group in copied] == [group.keys() for group in opt.param_groups]
    plain = (int, float, str, bool, type(None), tuple, list)
    for group in opt.param_groups:
        assert all(isinstance(value, plain) for key, value in group.items() if key != "params")
        assert all(isinstance(parameter, torch.nn.Parameter) for parameter in group["params"])
    assert "GEMS" in repr(opt)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_forgets_what_was_collected(lab: SimpleNamespace, mode: str, to_none: bool) -> None:
    model, twin = lab.Bank(), lab.Bank()
    opt, plain = (lab.optimizer(bank, update_gap=2, gate="prior", **MODES[mode]) for bank in (model, twin))
    for number, step in enumerate(lab.lessons(model, 5)):
        lost = lab.batch(model, "rec", 70 + number, level=50.0)
        with opt.task("rec", tokens=lost.tokens) as part:
            part.backward(lost.loss(model))
        opt.zero_grad(set_to_none=to_none)
        assert opt.gradient_norms() == {}
        lab.train(opt, model, [step])
        lab.train(plain, twin, [step])
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())
    assert opt.gate_weights() == plain.gate_weights()


def test_zero_grad_with_zeros_leaves_no_task_gradient(lab: SimpleNamespace) -> None:
    """set_to_none=False turns gradients of plain parameters to zeros; projected weights have none to keep."""
    model = lab.Bank()
    opt = lab.optimizer(model)
    lab.feed(opt, model, lab.lessons(model, 1)[0])
    opt.zero_grad(set_to_none=False)
    before = {name: weight.detach().clone() for name, weight in model.weights.items()}
    opt.step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.weights.items())


@pytest.mark.parametrize("mode", MODES)
def test_a_closure_is_run_once_with_gradients(lab: SimpleNamespace, mode: str) -> None:
    model, twin = lab.Bank(), lab.Bank()
    opt, plain = (lab.optimizer(bank, update_gap=3, **MODES[mode]) for bank in (model, twin))
    calls = []
    for step in lab.lessons(model, 4):

        def closure(step: Any = step) -> float:
            calls.append(torch.is_grad_enabled())
            opt.zero_grad()
            lab.feed(opt, model, step)
            return 12.5

        assert opt.step(closure) == 12.5
        opt.zero_grad()
        lab.train(plain, twin, [step])
    assert calls == [True] * 4
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())


def test_gradient_norms_of_the_coming_step(lab: SimpleNamespace) -> None:
    """Of mean gradients, over all matrices."""
    model = lab.Bank()
    opt = lab.optimizer(model)
    assert opt.gradient_norms() == {}
    step = lab.lessons(model, 1)[0]
    lab.feed(opt, model, step)
    for part in step:
        expected = sum(float((g / part.tokens).square().sum()) for g in part.gradients().values()) ** 0.5
        assert opt.gradient_norms()[part.task] == pytest.approx(expected, rel=1e-5)
    opt.step()
    assert opt.gradient_norms() == {}


@pytest.mark.parametrize("mode", MODES)
def test_metrics_are_numbers(lab: SimpleNamespace, mode: str) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, gate="learned", gate_every=2, **MODES[mode])
    assert all(isinstance(value, float) for value in opt.metrics().values())
    lab.train(opt, model, lab.lessons(model, 4))
    found = opt.metrics()
    assert all(isinstance(value, float) and value == value for value in found.values())
    assert found["gate_src"] + found["gate_rec"] == pytest.approx(1, abs=1e-6)
    for task in lab.TASKS:
        overlaps = [lab.bases(opt, model, name) for name in model.weights]
        expected = sum(float((b["shared"].T @ b[task]).square().sum()) / 2 for b in overlaps) / len(overlaps)
        assert found[f"overlap_{task}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gate", ["uniform", "prior", "learned"])
@pytest.mark.parametrize("mode", MODES)
def test_attributed_updates_add_up_to_the_step(lab: SimpleNamespace, mode: str, gate: str) -> None:
    """u_src + u_rec, times the rate, is what the weights have moved by; with a null space and a gate."""
    model = lab.Bank()
    settings = {
        "null_space": lab.spans(model),
        "attribution": True,
        "update_gap": 3,
        "scale": 1.5,
        **MODES[mode],
        "stagger": False,
    }
    opt = lab.optimizer(model, gate=gate, gate_every=2, gate_lr=0.1, lr=0.02, **settings)
    for number, step in enumerate(lab.lessons(model, 8)):
        before = {name: weight.detach().clone() for name, weight in model.weights.items()}
        lab.train(opt, model, [step])
        if mode == "fast" and number % 3 == 0:
            continue  # the sketch has turned the bases after the update
        for name, parts in opt.attributed_updates():
            layer = name.split(".")[1]
            moved = before[layer] - model.weights[layer].detach()
            total = 0.02 * 1.5 * sum(parts.values())
            assert set(parts) == set(lab.TASKS)
            assert (moved - total).abs().max() <= 1e-6 * moved.abs().max()


def test_attribution_changes_no_bit_of_the_training(lab: SimpleNamespace) -> None:
    found = []
    for attribution in (False, True):
        model = lab.Bank()
        opt = lab.optimizer(model, attribution=attribution, update_gap=3)
        lab.train(opt, model, lab.lessons(model, 7))
        found.append(model)
    assert all((found[0].weights[n] - found[1].weights[n]).abs().max() <= 1e-12 for n in found[0].weights)
    with pytest.raises(ValueError, match="attribution=True"):
        next(lab.optimizer(lab.Bank()).attributed_updates())


def test_plain_groups_are_adamw(lab: SimpleNamespace) -> None:
    """others="trained": parameters that are not projected go the way of torch's AdamW on the token-mean gradient."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)).double()
    twin = copy.deepcopy(model)
    opt = GEMS(gems_param_groups(model, rank=3, others="trained"), lr=0.01, weight_decay=0.1, eps=1e-6)
    names = [name for name, _ in twin.named_parameters() if name not in opt.effective_ranks()]
    assert names == ["0.bias", "1.weight", "1.bias", "2.bias"]
    others = dict(twin.named_parameters())
    adamw = torch.optim.AdamW([others[name] for name in names], lr=0.01, weight_decay=0.1, eps=1e-6)
    for step in range(10):
        x = torch.randn(9, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        parts = {"src": x[:4], "rec": x[4:]}
        for task, rows in parts.items():
            with opt.task(task, tokens=len(rows)) as part:
                part.backward(model(rows).square().sum())
        (twin(x).square().sum() / 9).backward()
        opt.step()
        opt.zero_grad()
        adamw.step()
        twin.zero_grad()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in opt.effective_ranks():
                    others[name].copy_(value)
                else:
                    assert (value - others[name]).abs().max() <= 1e-12, name


def test_per_group_ranks_rates_and_gaps(lab: SimpleNamespace) -> None:
    """rank_pattern, and keys of a group over the settings."""
    model = lab.Bank()
    opt = lab.optimizer(model, groups={"rank": 4, "task_rank": 2, "rank_pattern": {"wide": 6}})
    assert opt.effective_ranks()["layers.wide.weight"] == (6, 3)
    assert opt.effective_ranks()["layers.tall.weight"] == (4, 2)
    groups = gems_param_groups(model, rank=4, task_rank=2, target_modules=["tall"])
    more = gems_param_groups(lab.Bank(), rank=4, task_rank=2, target_modules=["square"])
    groups[0].update(scale=0.5, update_gap=1)
    opt = GEMS(groups + more, lr=0.01, scale=2.0, update_gap=7)
    assert [group["scale"] for group in opt.param_groups] == [0.5, 2.0]
    assert [group["update_gap"] for group in opt.param_groups] == [1, 7]

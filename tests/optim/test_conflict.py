"""Measures of conflict: closed forms against dense ones, and contributions that add up to the real update."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from gemsbench.optim import GEMS, gems_param_groups
from gemsbench.optim.conflict import AdamAttribution, LowRankChange, adapter_changes, conflict, halves, task_gradients

LABELS = ("src", "rec")


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10, bias=False), nn.Tanh(), nn.Linear(10, 4, bias=False)).double()


def _loss(model: nn.Module, label: str, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step * 2 + LABELS.index(label))
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return ((model(x) - (1 if label == "src" else -1) * x[:, :4]) ** 2).sum()


@pytest.mark.parametrize(
    ("second", "rho", "lost"), [([1.0, 0.0], 0, 0), ([0.0, 3.0], 1, 1 - 10**0.5 / 4), ([-2.0, 0.0], 2, 2 / 3)]
)
def test_known_angles(second: list[float], rho: float, lost: float) -> None:
    found = conflict(torch.tensor([1.0, 0.0]), torch.tensor(second))
    assert found.rho == pytest.approx(rho, abs=1e-12)
    assert found.cancellation == pytest.approx(lost, abs=1e-12)


def test_a_task_without_a_part_has_no_conflict() -> None:
    assert math.isnan(conflict(torch.ones(3), torch.zeros(3)).rho)


def test_inner_products_of_adapters_equal_dense_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 7), (5, 3)))

    def change() -> LowRankChange:
        da, db = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 7), (5, 3)))
        return LowRankChange(a, b, da, db, 2.0)

    changes = [change(), change()]
    assert float(changes[0].inner(changes[1])) == pytest.approx(float((changes[0].dense() * changes[1].dense()).sum()))
    assert conflict(*changes).rho == pytest.approx(conflict(*(change.dense() for change in changes)).rho)


def test_a_dense_change_is_the_derivative_of_the_product() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b, da, db = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, 4), (3, 2), (2, 4), (3, 2)))
    change = LowRankChange(a, b, da, db, 0.5)
    small = 1e-6
    numeric = 0.5 * ((b + small * db) @ (a + small * da) - b @ a) / small
    assert torch.allclose(change.dense(), numeric, atol=1e-5)


def test_a_probe_gives_each_labels_gradient_and_leaves_no_trace() -> None:
    model = _network()
    model[2].weight.requires_grad_(False)
    model[0].weight.grad = kept = torch.ones_like(model[0].weight)
    parameters = dict(model.named_parameters())
    found = task_gradients(
        parameters, {label: lambda label=label: _loss(model, label, 0).backward() for label in LABELS}
    )
    assert model[0].weight.grad is kept
    assert not model[2].weight.requires_grad
    for label in LABELS:
        clean = _network()
        _loss(clean, label, 0).backward()
        for name, parameter in clean.named_parameters():
            assert torch.allclose(found[name][label], parameter.grad), (name, label)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_contributions_add_up_to_the_update(kind: type[torch.optim.Optimizer]) -> None:
    model = _network()
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.0)
    attribution = AdamAttribution(optimizer, dict(model.named_parameters()))
    for step in range(4):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for label in LABELS[: 1 + (step != 2)]:  # one step without rec
            with attribution.label(label):
                _loss(model, label, step).backward()
        attribution.advance()
        optimizer.step()
        optimizer.zero_grad()
        for name, parts in attribution.updates().items():
            moved = (before[name] - dict(model.named_parameters())[name]) / 0.01
            assert torch.allclose(sum(parts.values()), moved, atol=1e-10), (step, name)
            assert min(float(part.norm()) for part in parts.values()) > 0


def test_adapter_updates_are_changes_of_the_weight() -> None:
    """W + c B A before and after a step: the difference is -lr times the sum of the labels' changes, to first order."""
    model = get_peft_model(
        _network(), LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], lora_dropout=0.0)
    ).double()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters.values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    rate = 1e-6
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
    attribution = AdamAttribution(optimizer, parameters)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    before = {name: layer.get_delta_weight("default").detach().clone() for name, layer in layers.items()}
    for label in LABELS:
        with attribution.label(label):
            _loss(model, label, 0).backward()
    attribution.advance()
    optimizer.step()
    # The adapters have moved by now, by 1e-6: first order.
    changes = adapter_changes(model, attribution.updates())
    assert changes.keys() == layers.keys()
    for name, parts in changes.items():
        assert parts.keys() == set(LABELS)
        moved = (before[name] - layers[name].get_delta_weight("default")) / rate
        expected = sum(change.dense() for change in parts.values())
        assert float(((moved - expected).norm() / expected.norm()).detach()) < 1e-4, name


def test_gems_contributions_are_measured_by_the_same_function() -> None:
    model = _network()
    opt = GEMS(gems_param_groups(model, rank=3), lr=0.01, tasks=LABELS, attribution=True)
    for step in range(3):
        for label in LABELS:
            with opt.task(label, tokens=5.0) as part:
                part.backward(_loss(model, label, step))
        opt.step()
        opt.zero_grad()
    found = {name: conflict(parts["src"], parts["rec"]) for name, parts in opt.attributed_updates()}
    assert found.keys() == {"0.weight", "2.weight"}
    assert all(1 < value.rho <= 2 for value in found.values())  # the tasks ask for opposite signs


def test_halves_of_one_task_calibrate_rho() -> None:
    """Pure noise gives about 1 between halves; a common signal beneath the same noise much less."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(4000, 50, generator=generator)
    first, second = halves(4000, generator)
    assert len(set(first.tolist()) | set(second.tolist())) == 4000
    assert conflict(noise[first].mean(0), noise[second].mean(0)).rho == pytest.approx(1, abs=0.5)
    signal = noise + 0.5
    assert conflict(signal[first].mean(0), signal[second].mean(0)).rho < 0.05


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_probe_in_the_middle_of_a_step_does_not_disturb_gems(preset: str) -> None:
    """Two optimizers on equal models, one probed between its passes: equal weights, and true gradients."""
    ends = []
    for probed in (False, True):
        model = _network()
        opt = GEMS(gems_param_groups(model, rank=3), lr=0.01, tasks=LABELS, preset=preset)
        for step in range(4):
            for label in LABELS:
                with opt.task(label, tokens=5.0) as part:
                    part.backward(_loss(model, label, step))
                if probed:
                    with opt.paused():
                        passes = {"src": lambda m=model: _loss(m, "src", 9).backward()}
                        found = task_gradients(dict(model.named_parameters()), passes)
                    assert all(float(parts["src"].norm()) > 0 for parts in found.values())
            opt.step()
            opt.zero_grad()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_the_step_may_be_taken_under_autocast() -> None:
    model = _network().float()
    opt = GEMS(gems_param_groups(model, rank=3), lr=0.01, tasks=LABELS)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            with opt.task("src", tokens=5.0) as part:
                part.backward((model(x).float() ** 2).sum())
            opt.step()
            opt.zero_grad()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())

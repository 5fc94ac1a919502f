"""bf16 weights: updates far below their precision arrive, on average exactly, and with a seed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gemsbench.optim import GEMS, rounding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_stochastic_rounding_is_unbiased_and_stays_between_the_neighbours() -> None:
    values = torch.randn(300, generator=generator()) * torch.logspace(-6, 6, 300)
    drawn = torch.stack([rounding.lowered(values, "stochastic", generator(seed)) for seed in range(4000)]).double()
    gap = values.abs().double() * 2**-7  # at most this far apart
    error = (drawn.mean(dim=0) - values.double()).abs()
    assert (error <= 5 * gap / 2 / 4000**0.5).all()  # five standard errors of a coin of width gap
    assert ((drawn - values.double()).abs() <= gap).all()
    nearest = values.to(torch.bfloat16).double()
    assert ((nearest - values.double()).abs() > 5 * gap / 2 / 4000**0.5).float().mean() > 0.3  # which rounding is not
    assert all(len(set(drawn[:, i].tolist())) <= 2 for i in range(300))


def test_values_that_bf16_holds_are_kept() -> None:
    values = torch.randn(1000, generator=generator()).to(torch.bfloat16)
    values[:5] = torch.tensor([0.0, -0.0, 1.0, -2.0, 1e30])
    for seed in range(20):
        assert torch.equal(rounding.lowered(values.float(), "stochastic", generator(seed)), values)


def test_nearest_is_that_of_torch() -> None:
    values = torch.randn(1000, generator=generator())
    assert torch.equal(rounding.lowered(values, "nearest", generator()), values.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_subtracting_a_product_in_place(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in pieces: a weight of more values than are brought to fp32 at a time."""
    monkeypatch.setattr(rounding, "_CHUNK", 40)
    weight = torch.randn(13, 17, generator=generator()).to(dtype)
    left, right = (torch.randn(*shape, generator=generator(2)) for shape in ((13, 3), (3, 17)))
    expected = weight.double() - 0.3 * left.double() @ right.double()
    before = weight.data_ptr()
    rounding.subtract_product(weight, left, right, 0.3, "stochastic", 5)
    assert weight.data_ptr() == before
    limit = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 2**-7}[dtype]
    assert ((weight.double() - expected).abs() <= limit * expected.abs().clamp(min=1)).all()


def drift(lab: SimpleNamespace, dtype: torch.dtype, how: str, seed: int = 0, preset: str = "paper") -> Any:
    """Final weights minus first ones after 100 steps of a tenth of bf16's resolution each."""
    model = lab.Bank({"tall": (24, 16)}, dtype=torch.bfloat16)
    for weight in model.weights.values():
        weight.data = weight.data.sign() * (1 + weight.data.abs() / 8).to(dtype)
    start = model.weights["tall"].detach().double().clone()
    steady = [lab.batch(model, task, seed=1) for task in lab.TASKS]
    opt = lab.optimizer(model, lr=2e-4, rounding=how, seed=seed, preset=preset)
    lab.train(opt, model, [steady] * 100)
    return model.weights["tall"].detach().double() - start, model


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_small_updates_of_bf16_weights_arrive(lab: SimpleNamespace, preset: str) -> None:
    expected, _ = drift(lab, torch.float32, "nearest", preset=preset)
    found, model = drift(lab, torch.bfloat16, "stochastic", preset=preset)
    lost, _ = drift(lab, torch.bfloat16, "nearest", preset=preset)
    assert model.weights["tall"].dtype == torch.bfloat16
    along = float((found * expected).sum() / expected.square().sum())
    assert along == pytest.approx(1, abs=0.1)
    assert float((lost * expected).sum() / expected.square().sum()) < 0.5


def test_rounding_has_a_seed_and_differs_between_matrices_and_steps(lab: SimpleNamespace) -> None:
    first, second, third = (drift(lab, torch.bfloat16, "stochastic", seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    model = lab.Bank({"a": (16, 16), "b": (16, 16)}, dtype=torch.bfloat16)
    model.layers["b"].weight.data = model.layers["a"].weight.data.clone()
    opt = lab.optimizer(model, lr=1e-3)
    step = [lab.batch(model, task, seed=1) for task in lab.TASKS]
    for part in step:
        part.inputs["b"], part.signals["b"] = part.inputs["a"], part.signals["a"]  # type: ignore[index]
    lab.train(opt, model, [step] * 3)
    assert not torch.equal(model.weights["a"], model.weights["b"])


@pytest.mark.filterwarnings("ignore:.*weight_decay.*")
@pytest.mark.parametrize("rank", [4, 0])
def test_weight_decay_of_bf16_weights_arrives(lab: SimpleNamespace, rank: int) -> None:
    """A factor of 1 - 1e-4 per step is far below bf16's resolution; the gradients are zero."""
    weight = torch.nn.Parameter(torch.full((64, 32), 1.25, dtype=torch.bfloat16))
    opt = GEMS([{"params": [("w", weight)], "rank": rank}], lr=1e-2, weight_decay=1e-2)
    for _ in range(200):
        weight.grad = torch.zeros_like(weight)
        opt.step()
    assert float(weight.detach().float().mean()) == pytest.approx(1.25 * (1 - 1e-4) ** 200, rel=2e-3)

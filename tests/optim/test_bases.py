"""Bases: orthonormal, close to the best of their rank, and apart from each other where that was asked for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gemsbench.optim import bases

SHAPES = [(96, 64), (64, 96), (80, 80)]


def decaying(shape: tuple[int, int], seed: int = 0, power: float = 1.0) -> Tensor:
    """A matrix with singular values 1, 2^-p, 3^-p, ... in fp32."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
    return left * torch.arange(1, min(shape) + 1).pow(-power) @ right.T


def energy(basis: Tensor, matrix: Tensor) -> float:
    """Captured energy over what the best basis of that rank captures; basis [r, a], matrix [a, b]."""
    best = torch.linalg.svdvals(matrix)[: len(basis)].square().sum()
    return float((basis @ matrix).square().sum() / best)


def orthonormality(basis: Tensor) -> float:
    basis = basis.double()
    return float((basis @ basis.T - torch.eye(len(basis))).abs().max())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 16, 40])
def test_exact_and_randomised_bases(shape: tuple[int, int], rank: int) -> None:
    matrix = decaying(shape)
    exact = bases.leading_basis(matrix, rank, generator())
    drawn = bases.randomised_basis(matrix, rank, generator())[0]
    assert exact.shape == drawn.shape == (rank, shape[0])
    assert orthonormality(exact) <= 1e-5
    assert orthonormality(drawn) <= 1e-5
    assert energy(exact, matrix) == pytest.approx(1, abs=1e-5)
    assert energy(drawn, matrix) >= 0.999


def test_above_1024_the_basis_is_randomised(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = decaying((64, 96))
    monkeypatch.setattr(bases, "EXACT_UP_TO", 63)
    found = bases.leading_basis(matrix, 16, generator())
    assert torch.equal(found, bases.randomised_basis(matrix, 16, generator())[0])
    assert bases.EXACT_UP_TO == 63 and energy(found, matrix) >= 0.999


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [8, 16, 30])
@pytest.mark.parametrize("warm", [False, True], ids=["first", "warm"])
def test_sketched_bases(shape: tuple[int, int], rank: int, warm: bool) -> None:
    """The first from random directions (a few percent short at 1 / i), later ones also along earlier moments."""
    matrix = decaying(shape, power=1.0 if warm else 1.5)
    moments = None
    if warm:
        earlier = matrix + 0.2 * decaying(shape, seed=1)
        moments = bases.leading_basis(earlier, rank, generator()) @ earlier
    probe = bases.sketch_probe(moments, rank, generator(), matrix)
    fill = torch.randn(rank, shape[0], generator=generator())
    found = bases.basis_from_sketch(probe @ matrix.T, rank, fill)
    assert found.shape == (rank, shape[0])
    assert orthonormality(found) <= 1e-5
    assert energy(found, matrix) >= 0.99


def test_a_sketch_of_a_low_rank_gradient_is_filled_up() -> None:
    matrix = decaying((64, 96))[:, :3] @ torch.randn(3, 96, generator=generator())
    probe = bases.sketch_probe(None, 10, generator(), matrix)
    found = bases.basis_from_sketch(probe @ matrix.T, 10, torch.randn(10, 64, generator=generator()))
    assert orthonormality(found) <= 1e-5
    assert energy(found, matrix) >= 0.9999


def test_a_zero_sketch_gives_the_filling() -> None:
    fill = torch.randn(10, 64, generator=generator())
    found = bases.basis_from_sketch(torch.zeros(20, 64), 10, fill)
    assert orthonormality(found) <= 1e-5
    assert torch.allclose(found @ torch.linalg.pinv(fill) @ fill, found, atol=1e-5)


MODES: dict[str, dict[str, Any]] = {
    "paper": {},
    "left": {"side": "left"},
    "residual": {"task_basis": "residual"},
    "subspace": {"side": "right", "null_space_mode": "subspace"},
    "sketch": {"basis": "sketch"},
    "fast": {"preset": "fast"},
}


@pytest.mark.parametrize("mode", MODES)
def test_bases_of_the_optimizer_are_orthonormal(lab: SimpleNamespace, mode: str) -> None:
    model = lab.Bank(dtype=torch.float32)
    opt = lab.optimizer(model, update_gap=3, null_space=lab.spans(model, exact=False), **MODES[mode])
    for step in lab.lessons(model, 8):
        lab.train(opt, model, [step])
        for name in model.weights:
            for basis in lab.bases(opt, model, name).values():
                assert orthonormality(basis.T) <= 1e-5


def test_residual_bases_stand_apart_from_the_shared_one(lab: SimpleNamespace) -> None:
    """And raw ones do not: that is why it is a choice."""
    overlaps = {}
    for choice in ("raw", "residual"):
        model = lab.Bank(dtype=torch.float32)
        opt = lab.optimizer(model, task_basis=choice, update_gap=3)
        lab.train(opt, model, lab.lessons(model, 7))
        found = [lab.bases(opt, model, name) for name in model.weights]
        overlaps[choice] = max(float((b["shared"].T @ b[task]).norm()) for b in found for task in lab.TASKS)
    assert overlaps["residual"] <= 1e-5
    assert overlaps["raw"] > 0.5


def test_a_sketched_basis_is_that_of_the_gradient(lab: SimpleNamespace) -> None:
    """In the optimizer, at full backward: the basis made in step t has the energy of that step's gradient."""
    shapes = {"tall": (48, 32), "wide": (32, 48)}
    model = lab.Bank(shapes)
    opt = lab.optimizer(model, groups={"rank": 8, "task_rank": 4}, preset="fast", update_gap=3, stagger=False)
    for number, step in enumerate(lab.lessons(model, 7)):
        lab.train(opt, model, [step])
        if number % 3:
            continue
        for name in model.weights:
            gradients = {part.task: part.gradients()[name] / part.tokens for part in step}
            gradients["shared"] = gradients["src"] + gradients["rec"]
            for component, basis in lab.bases(opt, model, name).items():
                gradient, random = gradients[component].T, lab.random_columns(*basis.shape)
                assert energy(basis.T, gradient) >= 0.7, (number, name, component)  # noise, no gap in the spectrum
                assert energy(basis.T, gradient) >= 1.2 * energy(random.T, gradient)


@pytest.mark.parametrize("stagger", [False, True])
@pytest.mark.parametrize("backward", ["projected", "full"])
def test_the_first_step_of_a_sketch_only_looks(lab: SimpleNamespace, backward: str, stagger: bool) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, preset="fast", backward=backward, stagger=stagger)
    before = {name: weight.detach().clone() for name, weight in model.weights.items()}
    first, second = lab.lessons(model, 2)
    lab.train(opt, model, [first])
    assert all(torch.equal(weight, before[name]) for name, weight in model.weights.items())
    for weight in model.weights.values():
        assert opt.state[weight]["steps"].tolist() == [0, 0, 0]
        assert not opt.state[weight]["exp_avg_sq"].any()
        assert opt.state[weight]["basis"].any(dim=1).all()
    lab.train(opt, model, [second])
    assert all(opt.state[weight]["steps"].tolist() == [1, 1, 1] for weight in model.weights.values())
    assert all(not torch.equal(weight, before[name]) for name, weight in model.weights.items())


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_staggered_matrices_take_turns(lab: SimpleNamespace, preset: str) -> None:
    """Every matrix in the first step, then each once in a gap, not all at once."""
    shapes = {f"m{number}": (12, 8) for number in range(8)}
    model = lab.Bank(shapes)
    opt = lab.optimizer(model, preset=preset, stagger=True, update_gap=6)
    turns: dict[str, list[int]] = {name: [] for name in shapes}
    previous: dict[str, Tensor] = {}
    for number, step in enumerate(lab.lessons(model, 20)):
        lab.train(opt, model, [step])
        for name, weight in model.weights.items():
            basis = opt.state[weight]["basis"].clone()
            if name not in previous or not torch.equal(basis, previous[name]):
                turns[name].append(number)
            previous[name] = basis
    assert all(steps[0] == 0 for steps in turns.values())
    later = {name: steps[1:] for name, steps in turns.items()}
    assert all(b - a == 6 for steps in later.values() for a, b in pairwise(steps))
    assert all(len(steps) >= 3 for steps in later.values())
    assert len({steps[0] for steps in later.values()}) > 2

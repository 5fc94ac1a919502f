"""Two conflicting tasks, one a hundred times louder: with subspaces of their own they end lower at every rate."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "conflict_toy.py"


@pytest.fixture(scope="module")
def toy() -> Any:
    specification = importlib.util.spec_from_file_location("conflict_toy", FILE)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "conflict_toy", module)  # dataclasses look their module up
        specification.loader.exec_module(module)
        yield module


def test_the_tasks_conflict_and_one_masks_the_other(toy: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = toy.make_tasks(generator)
    zero = torch.zeros(32, 48)
    src, rec = (tasks[name].gradient(zero, generator) for name in ("src", "rec"))
    assert float(src.norm()) > 30 * float(rec.norm())
    assert -0.3 < toy.run("joint Adam", 0.01, 0, 20)["cosine"] < -0.05
    for task in tasks.values():
        assert torch.allclose(task.basis.T @ task.basis, torch.eye(task.basis.shape[1]), atol=1e-5)
        weight = torch.randn(32, 48, generator=generator, requires_grad=True)
        ((task.basis.T @ (weight - task.target)).square().sum() / 2).backward()
        noiseless = toy.Task(task.basis, task.target, 1.0, 0.0, task.confined)
        assert torch.allclose(noiseless.gradient(weight.detach(), generator), weight.grad, atol=1e-4)


@pytest.mark.parametrize("lr", [0.003, 0.02, 0.1])
def test_gems_ends_lower_than_galore_and_joint_adam(toy: Any, lr: float) -> None:
    scores = {method: [toy.run(method, lr, seed, 400)["score"] for seed in range(1)] for method in toy.METHODS}
    for adam, galore, gems in zip(*(scores[method] for method in toy.METHODS), strict=True):
        assert gems < galore < adam
        assert gems < 0.85 * galore


def test_the_kept_record_is_that_of_the_whole_grid(toy: Any) -> None:
    """The table of the documents: every learning rate, in the same order."""
    record = json.loads(toy.OUTPUT.read_text("utf-8"))
    assert record["setting"] == {"seeds": 5, "steps": 400, "update_gap": 50, "shape": [32, 48]}
    for lr in map(str, toy.RATES):
        adam, galore, gems = (record["contenders"][method][lr]["score"] for method in toy.METHODS)
        assert gems < galore < adam
    assert toy.table(record["contenders"]).count("\n") == 1 + len(toy.METHODS)

"""A cap of steps: the training ends in the middle of an epoch, with its last weights judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gemsbench.training.loop import LoopSettings, train

STEPS = 3  # of an epoch, in the fixture's problems
SHORT = LoopSettings(epochs=2, patience=9, warmup=0.2, checkpoint_seconds=0.0)


def _silent(done: int, text: str) -> None:
    assert done and text


@pytest.mark.parametrize(("steps", "evaluated"), [(2, [0, 2]), (4, [0, 3, 4])])
def test_a_cap_of_steps_ends_the_training_in_the_middle_of_an_epoch(
    one: Any, tmp_path: Path, steps: int, evaluated: list[int]
) -> None:
    """The last weights are evaluated, and the rate falls over the steps that are made."""
    problem, settings = one.problem(), replace(SHORT, epochs=9, max_steps=steps)
    result = train(problem, settings, tmp_path, _silent)
    assert [line["step"] for line in result.log if line["stage"] == "train"] == evaluated
    assert (result.stopped, result.log[-1]["step"]) == ("steps", steps)
    group = problem.optimizer.param_groups[0]
    rate = settings.rate_factor(steps - 1, steps)
    assert group["lr"] == pytest.approx(group["initial_lr"] * rate) and rate <= 0.5


def test_a_cap_beyond_the_epochs_changes_nothing(one: Any, tmp_path: Path) -> None:
    results, weights = [], []
    for most in (0, 2 * STEPS + 1):
        problem = one.problem()
        results.append(train(problem, replace(SHORT, max_steps=most), tmp_path / str(most), _silent))
        weights.append(list(problem.model.parameters()))
    assert [result.stopped for result in results] == ["epochs", "epochs"]
    assert results[0].best_step == results[1].best_step and results[0].criterion == results[1].criterion
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))


def test_steps_of_a_training_that_validation_does_not_end() -> None:
    assert LoopSettings(epochs=4).total_steps(5) == 20
    assert LoopSettings(epochs=4, max_steps=7).total_steps(5) == 7
    assert LoopSettings(epochs=4, max_steps=21).total_steps(5) == 20

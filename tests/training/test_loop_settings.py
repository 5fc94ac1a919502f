"""Settings of the loop: ranges, the schedule, when to evaluate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gemsbench.errors import InputError
from gemsbench.training.loop_settings import LoopSettings


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("warmup", "total"), [(0.0, 10), (0.1, 50), (0.3, 7), (0.03, 4)])
def test_the_rate_rises_to_its_peak_and_falls(schedule: Any, warmup: float, total: int) -> None:
    settings = LoopSettings(warmup=warmup, schedule=schedule)
    factors = np.array([settings.rate_factor(step, total) for step in range(total)])
    rising = round(warmup * total)
    peak = max(rising - 1, 0)
    assert factors[peak] == pytest.approx(1)
    assert (np.diff(factors[:rising]) > 0).all()
    assert (np.diff(factors[rising:]) < 0).all()
    assert (factors > 0).all()
    last = 1 / (total - rising)
    assert factors[-1] == pytest.approx(last if schedule == "linear" else 0.5 * (1 - np.cos(np.pi * last)))


@pytest.mark.parametrize(
    ("evaluations", "steps", "expected"),
    [(1, 7, {7}), (2, 7, {4, 7}), (3, 9, {3, 6, 9}), (10, 4, {1, 2, 3, 4}), (4, 1, {1})],
)
def test_evaluations_are_spread_over_the_epoch(evaluations: int, steps: int, expected: set[int]) -> None:
    assert LoopSettings(evaluations_per_epoch=evaluations).evaluation_steps(steps) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", 0), ("batch_size", 0), ("micro_batch_size", 0), ("evaluations_per_epoch", 0), ("patience", 0)),
        *(("warmup", -0.1), ("warmup", 1.0), ("schedule", "step"), ("max_grad_norm", 0.0), ("precision", "fp16")),
        *(("checkpoint_seconds", -1.0), ("threads", 0)),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"training: {field} is"):
        LoopSettings(**{field: value})

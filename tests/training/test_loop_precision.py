"""The loop in bf16, and with recomputed activations: the same training within what rounding allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gemsbench.training.loop import LoopSettings, train

SHORT = LoopSettings(epochs=2, patience=9, warmup=0.2, checkpoint_seconds=0.0)


def _silent(done: int, text: str) -> None:
    assert done
    assert text


def test_bf16_follows_fp32_and_keeps_weights_in_fp32(tiny: Any, tmp_path: Path) -> None:
    losses: list[list[float]] = []
    for precision in ("bf16", "fp32", "bf16"):  # one process may train in both
        problem = tiny.problem(dropout=0.0)
        settings = replace(SHORT, precision=precision)
        result = train(problem, settings, tmp_path / f"{precision}{len(losses)}", _silent)
        assert {p.dtype for p in problem.model.parameters()} == {torch.float32}
        assert {s["exp_avg"].dtype for s in problem.optimizer.state.values()} == {torch.float32}
        losses.append([line["loss"] for line in result.log[1:-1]])
    assert losses[0] == losses[2] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputed_activations_change_nothing(tiny: Any, tmp_path: Path, dropout: float) -> None:
    plain = tiny.problem(dropout)
    lean = tiny.problem(dropout)
    lean.model.activation_checkpointing_enable()  # type: ignore[operator]
    results = [train(problem, SHORT, tmp_path / str(n), _silent) for n, problem in enumerate((plain, lean))]
    for first, second in zip(results[0].log[1:-1], results[1].log[1:-1], strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    for one, other in zip(plain.model.parameters(), lean.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)

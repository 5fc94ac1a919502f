"""A batch that is one loss is never cut: where memory runs out, the message says what to lower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.errors import InputError
from gemsbench.training.loop import LoopSettings, train
from gemsbench.training.objective import identifier_loss

SHORT = LoopSettings(epochs=1, patience=9, warmup=0.0)


def _silent(done: int, text: str) -> None:
    assert done and text


@pytest.mark.parametrize("divisible", [True, False])
def test_memory_that_runs_out_cuts_only_what_can_be_cut(one: Any, tmp_path: Path, divisible: bool) -> None:
    rows: list[int] = []

    def loss(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        rows.append(len(tensors["labels"]))
        if rows[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return identifier_loss(model, tensors)  # type: ignore[arg-type]

    problem = replace(one.problem(loss=loss), divisible=divisible)
    if divisible:
        train(problem, SHORT, tmp_path, _silent)
        assert rows[0] == 4 and set(rows[1:]) == {1, 2}
    else:
        with pytest.raises(InputError, match=r"in step 0 with a batch of 4 rows, .* Lower loop\.batch_size"):
            train(problem, SHORT, tmp_path, _silent)
        assert rows == [4]

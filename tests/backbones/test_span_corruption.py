"""Span corruption: nothing is lost, the rates are T5's, spans are marked in order."""

from __future__ import annotations

import numpy as np
import pytest

from gemsbench import seeds
from gemsbench.backbones.span_corruption import corrupt_spans
from gemsbench.errors import InputError

SENTINELS = np.arange(1099, 999, -1)
END = 1


def _windows(batch: int, length: int) -> np.ndarray:
    return seeds.stream(1, "windows").integers(10, 900, (batch, length))


def _restored(inputs: np.ndarray, targets: np.ndarray) -> list[int]:
    """The text that an input and its target tell of."""
    spans: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token in SENTINELS:
            current = spans.setdefault(int(token), [])
        else:
            current.append(int(token))
    return [text for token in inputs[:-1] for text in spans.get(int(token), [int(token)])]


@pytest.mark.parametrize("length", [16, 33, 128, 512])
def test_input_and_target_together_are_the_text(length: int) -> None:
    windows = _windows(20, length)
    inputs, targets = corrupt_spans(windows, SENTINELS, END, seeds.stream(2, "noise"))
    assert (inputs[:, -1] == END).all() and (targets[:, -1] == END).all()
    for row in range(20):
        assert _restored(inputs[row], targets[row]) == windows[row].tolist()
        marks = [token for token in inputs[row] if token in SENTINELS]
        assert marks == [token for token in targets[row] if token in SENTINELS] == SENTINELS[: len(marks)].tolist()


def test_the_rates_are_those_of_the_paper() -> None:
    inputs, targets = corrupt_spans(_windows(4, 128), SENTINELS, END, seeds.stream(2, "noise"))
    assert inputs.shape == (4, 128 - 19 + 6 + 1)  # 15 % of 128 tokens, in spans of 3 on average
    assert targets.shape == (4, 19 + 6 + 1)
    # A window of 512 is what the paper trains on: inputs are 512 - 77 + 26 + 1 long, targets 104.
    assert corrupt_spans(_windows(1, 512), SENTINELS, END, seeds.stream(2, "noise"))[1].shape == (1, 104)


def test_every_place_is_taken_out_at_times_and_rows_differ() -> None:
    windows = np.tile(np.arange(10, 42), (4000, 1))
    _, targets = corrupt_spans(windows, SENTINELS, END, seeds.stream(3, "noise"))
    counts = np.bincount(targets[(targets >= 10) & (targets < 42)], minlength=42)[10:]
    assert counts[0] == 0  # a row begins with a stretch that is kept
    assert counts[1:].min() > 0
    assert len(np.unique(targets, axis=0)) > 100


def test_the_same_stream_gives_the_same_spans() -> None:
    pairs = [corrupt_spans(_windows(5, 64), SENTINELS, END, seeds.stream(4, "noise")) for _ in range(2)]
    assert all(np.array_equal(first, second) for first, second in zip(*pairs, strict=True))


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(InputError, match="26 spans, but there are 20"):
        corrupt_spans(_windows(1, 512), SENTINELS[:20], END, seeds.stream(2, "noise"))

"""T5's pre-training task (arXiv 1910.10683, section 3.1.4): spans of a text are taken out and have to be said again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gemsbench.errors import InputError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
NOISE_SHARE = 0.15
MEAN_SPAN = 3.0


def corrupt_spans(
    windows: Int64Array, sentinels: Int64Array, end: int, rng: np.random.Generator
) -> tuple[Int64Array, Int64Array]:
    """Inputs and targets of B windows of T tokens, int64 [B, T_in] and [B, T_out].

    15 % of the tokens in spans of 3 on average leave a row; in the input the k-th span is the k-th sentinel, in the
    target each sentinel is followed by its span; `end` closes both. Numbers of spans and tokens are the same in every
    row, so nothing is padded; the lengths of the spans are random. Raises InputError when there are more spans than
    sentinels.
    """
    batch, length = windows.shape
    noise = max(1, round(length * NOISE_SHARE))
    spans = max(1, round(noise / MEAN_SPAN))
    if spans > len(sentinels):
        raise InputError(f"windows of {length} tokens have {spans} spans, but there are {len(sentinels)} sentinels.")
    kept = _random_lengths(length - noise, spans, batch, rng)
    taken = _random_lengths(noise, spans, batch, rng)
    lengths = np.stack([kept, taken], axis=2).reshape(batch, 2 * spans)  # a kept stretch, a span, a kept stretch ...
    stretch = np.repeat(np.tile(np.arange(2 * spans), batch), lengths.reshape(-1)).reshape(batch, length)
    starts = np.diff(stretch, axis=1, prepend=-1) != 0
    is_noise = stretch % 2 == 1
    marks = sentinels[stretch // 2]
    column = np.full((batch, 1), end, dtype=np.int64)
    inputs = _replace(windows, is_noise, starts, marks)
    # The kept stretch before a span is what the target replaces by the span's sentinel.
    targets = _replace(windows, ~is_noise, starts, marks)
    return np.hstack([inputs, column]), np.hstack([targets, column])


def _random_lengths(total: int, parts: int, batch: int, rng: np.random.Generator) -> Int64Array:
    """Positive lengths that sum to total, int64 [batch, parts]; every composition is equally likely."""
    places = np.argsort(rng.random((batch, total - 1)), axis=1)[:, : parts - 1] + 1
    edges = np.sort(places, axis=1)
    return np.diff(edges, axis=1, prepend=0, append=total)


def _replace(windows: Int64Array, gone: BoolArray, starts: BoolArray, marks: Int64Array) -> Int64Array:
    """Each stretch that is gone becomes its mark."""
    values = np.where(gone, marks, windows)
    return values[~gone | starts].reshape(len(windows), -1)

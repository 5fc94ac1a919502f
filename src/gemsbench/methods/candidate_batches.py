"""Scoring candidates of many cases at once: lists are laid end to end, scored as one array, and cut again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import flatten, offsets_of
from gemsbench.methods.contract import ScoreArray

PAIRS_PER_BATCH = 409_600  # 4,096 cases of 100 candidates


@dataclass(frozen=True)
class CandidateBatch:
    """Consecutive cases and all their candidates; P = candidates of the batch."""

    cases: pl.DataFrame
    items: npt.NDArray[np.int64]  # [P] item_id
    rows: npt.NDArray[np.int64]  # [P] row of `cases` that each candidate belongs to

    def per_candidate(self, column: str) -> npt.NDArray[np.int64]:
        """An integer column of the cases, repeated for each of their candidates: int64 [P]."""
        values: npt.NDArray[np.int64] = self.cases[column].cast(pl.Int64).to_numpy()[self.rows]
        return values


def score_in_batches(
    cases: pl.DataFrame,
    score: Callable[[CandidateBatch], npt.NDArray[np.floating]],
    n_items: int | None = None,
) -> Iterator[ScoreArray]:
    """Yield one float32 array per case; `score` maps a batch to one number per candidate ([P], any float type).

    Raises InputError when a candidate is not an item 1..n_items (None: every id is accepted).
    """
    ends = offsets_of(cases["items"].list.len().to_numpy())[1:]
    batch_of_case = np.maximum(ends - 1, 0) // PAIRS_PER_BATCH
    bounds = np.flatnonzero(np.diff(batch_of_case, prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        part = cases.slice(start, stop - start)
        items, offsets = flatten(part["items"])
        rows = np.repeat(np.arange(part.height), np.diff(offsets))
        batch = CandidateBatch(part, items.astype(np.int64), rows)
        if n_items is not None:
            _reject_unknown_items(batch, n_items)
        yield from np.split(score(batch).astype(np.float32), offsets[1:-1])


def _reject_unknown_items(batch: CandidateBatch, n_items: int) -> None:
    wrong = np.flatnonzero((batch.items < 1) | (batch.items > n_items))
    if wrong.size:
        case_id = batch.cases["case_id"][int(batch.rows[wrong[0]])]
        raise InputError(
            f"case {case_id}: candidate {batch.items[wrong[0]]} is not an item of the data that the method was "
            f"fitted on (1..{n_items}). Fit the method on the same prepared data as the cases."
        )

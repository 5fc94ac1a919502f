"""Sequences of recommendation events: windows to train on, and the histories of cases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array, flatten, offsets_of
from gemsbench.protocol.histories import TASK_BIT
from gemsbench.training.token_lists import Int32Array, TokenLists

TASK = "rec"


def training_windows(events: pl.DataFrame, most: int) -> TokenLists:
    """Items of the recommendation events of each user, oldest first, in consecutive windows of at most `most` events.

    No event is left out of a long sequence. Users are in order of id, so that the row order of events does not matter.
    Raises InputError when there is no such event.
    """
    own = events.filter(pl.col("task") == TASK).sort("user_id", "order_key", "seq")
    if own.is_empty():
        raise InputError("there are no recommendation events in training, and SASRec learns from nothing else.")
    place = own.select(pl.int_range(pl.len()).over("user_id")).to_series().to_numpy()
    starts = np.flatnonzero(place % most == 0)
    return TokenLists(own["item_id"].cast(pl.Int32).to_numpy(), np.append(starts, own.height).astype(np.int64))


def histories(cases: pl.DataFrame, known: npt.NDArray[np.bool_], most: int) -> TokenLists:
    """The last `most` recommendation events before each case, oldest first; searches and unknown items are left out.

    known: bool [n_items + 1]. Items that training never met have a row that means nothing, so they are not looked at.
    Raises InputError for an item that is not one of 1..n_items.
    """
    items, offsets = flatten(cases["hist_items"])
    tasks, _ = flatten(cases["hist_tasks"])
    items = items.astype(np.int32)
    _reject_unknown_items(cases, items, offsets, len(known) - 1)
    kept = (tasks.astype(np.int64) & TASK_BIT[TASK] > 0) & known[items]
    # Entries from here to the end of the case's list that are kept, this one included.
    before = offsets_of(kept)
    left = np.repeat(before[offsets[1:]], np.diff(offsets)) - before[:-1]
    kept &= left <= most
    return TokenLists(items[kept], offsets_of(kept)[offsets])


def _reject_unknown_items(cases: pl.DataFrame, items: Int32Array, offsets: Int64Array, n_items: int) -> None:
    wrong = np.flatnonzero((items < 1) | (items > n_items))
    if wrong.size:
        case_id = cases["case_id"][int(np.searchsorted(offsets, wrong[0], side="right")) - 1]
        raise InputError(
            f"case {case_id}: item {items[wrong[0]]} of its history is not an item of the data that SASRec was fitted "
            f"on (1..{n_items}). Fit it on the same prepared data as the cases."
        )


def padded(rows: TokenLists, fill: int, width: int) -> Int64Array:
    """Rows as int64 [n, width], filled up on the right; no row is longer than width."""
    table = np.full((len(rows), width), fill, dtype=np.int64)
    table[np.arange(width) < rows.lengths[:, None]] = rows.ids
    return table

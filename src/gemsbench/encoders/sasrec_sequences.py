"""Sequences of recommendation events: windows to train on, and the histories of cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array, flatten, offsets_of
from gemsbench.protocol.histories import TASK_BIT
from gemsbench.training.token_lists import Int32Array, TokenLists

TASK = "rec"


@dataclass(frozen=True, eq=False)
class TrainingWindows:
    """Windows of the users' sequences.

    items: the ids of each window, oldest first; opens: bool [n], whether the first of them is its user's first event.
    Where it is not, it has been the last one of the window before, and is there to be looked at, not to be learned.
    """

    items: TokenLists
    opens: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_targets(self) -> int:
        """Number of events to be learned: each one of every user once."""
        return len(self.items.ids) - int((~self.opens).sum())


def training_windows(events: pl.DataFrame, most: int) -> TrainingWindows:
    """Recommendation events of each user in windows of at most `most` of them, at least 2, that overlap by one.

    Users are in order of id and their events in order of (order_key, seq), whatever the row order. Events with equal
    order keys are learned from each other in the order of seq, though the history of a case holds none of its own
    time, so no case asks for that: 16 % of the targets on movielens-small, 26 % on journey-small.
    Raises InputError when there is no such event.
    """
    own = events.filter(pl.col("task") == TASK).sort("user_id", "order_key", "seq")
    if own.is_empty():
        raise InputError("there are no recommendation events in training, and SASRec learns from nothing else.")
    user = pl.col("user_id")
    placed = own.select(place=pl.int_range(pl.len()).over(user), left=pl.int_range(pl.len(), 0, -1).over(user))
    place, left = placed["place"].to_numpy(), placed["left"].to_numpy()
    opens = place == 0
    starts = np.flatnonzero(opens | ((place % (most - 1) == 0) & (left > 1)))
    offsets = offsets_of(np.minimum(left[starts], most))
    rows = np.repeat(starts - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])
    items = own["item_id"].cast(pl.Int32).to_numpy()[rows]
    return TrainingWindows(TokenLists(items, offsets), opens[starts])


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

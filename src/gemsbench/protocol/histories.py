"""What the user did before a target: the last N entries, strictly earlier, twins as one, never the target itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data import schema
from gemsbench.protocol.splits import is_target

IntArray = npt.NDArray[np.int64]
TASK_BIT = {"rec": 1, "src": 2}
CHUNK = 200_000  # targets per block; bounds the working memory, does not change the result
CELLS = 8_000_000  # looked-up events per block


@dataclass(frozen=True)
class _Events:
    """The events that histories of one kind of target may hold, sorted by user, order key and seq."""

    place: IntArray  # user rank and order key in one number; equal times share it
    user_place: IntArray  # smallest place of the event's user
    item: IntArray
    pair: IntArray
    group: IntArray
    task_bit: IntArray
    query: IntArray
    event_id: IntArray
    next_in_pair: IntArray  # position, or a number past every position
    previous_in_pair: IntArray  # position or -1


def build_cases(interactions: pl.DataFrame, history_length: int) -> pl.DataFrame:
    """One case per target event with its history (schema.CASES), sorted by split, task, user and seq.

    History: the last history_length entries of the user with a smaller order_key; from train, for test targets from
    train and valid; without the target's item, pair and group (request); events of one pair are one entry, placed and
    named (hist_event_ids) by its latest event, with the tasks as bitmask and its latest query. A recommendation target
    needs an entry; a search target may have none.
    """
    ordered = interactions.sort("user_id", "order_key", "seq")
    new_user = pl.col("user_id") != pl.col("user_id").shift(1)
    new_place = new_user | (pl.col("order_key") != pl.col("order_key").shift(1))
    ordered = ordered.with_columns(place=new_place.fill_null(True).cum_sum().cast(pl.Int64))
    first = pl.when(new_user.fill_null(True)).then("place")
    ordered = ordered.with_columns(user_place=first.forward_fill())
    train, test = (pl.col("split") == split for split in ("train", "test"))
    held_out = ordered.filter(~train).filter(is_target())
    targets = pl.concat([ordered.filter(train), held_out]).drop("timestamp", "time_kind", "rating", "event_id")
    targets = targets.sort(pl.col("split").to_physical(), pl.col("task").to_physical(), "user_id", "seq")
    cases = [
        *_histories(_events(ordered.filter(train)), targets.filter(~test), history_length),
        *_histories(_events(ordered.filter(~test)), targets.filter(test), history_length),
    ]
    # One block of memory: parquet's row groups follow the blocks.
    table = pl.concat(cases, rechunk=True).with_columns(case_id=pl.int_range(pl.len(), dtype=pl.Int64))
    return schema.conform(table, schema.CASES, "cases")


def _histories(events: _Events, targets: pl.DataFrame, length: int) -> Iterator[pl.DataFrame]:
    """Cases (schema.CASES without case_id) in blocks, in the order of targets; at least one block, maybe empty."""
    for start in range(0, max(targets.height, 1), CHUNK):
        block = _block(events, targets.slice(start, CHUNK), length).rename({"item_id": "target_item"})
        block = block.filter((pl.col("task") == "src") | (pl.col("hist_items").list.len() > 0))
        yield block.select(column for column in schema.CASES if column != "case_id")


def _events(allowed: pl.DataFrame) -> _Events:
    after, before = _pair_chain(_int64(allowed["user_id"]), _int64(allowed["pair_id"]))
    return _Events(
        place=_int64(allowed["place"]),
        user_place=_int64(allowed["user_place"]),
        item=_int64(allowed["item_id"]),
        pair=_int64(allowed["pair_id"]),
        group=_int64(allowed["group_id"]),
        task_bit=_int64(allowed["task"].replace_strict(TASK_BIT, return_dtype=pl.Int64)),
        query=_int64(allowed["query_id"]),
        event_id=_int64(allowed["event_id"]),
        next_in_pair=after,
        previous_in_pair=before,
    )


def _pair_chain(user: IntArray, pair: IntArray) -> tuple[IntArray, IntArray]:
    """Positions of the next (or n) and the previous (or -1) event of each event's user and pair."""
    n = user.size
    after, before = np.full(n, n, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    order = np.lexsort((pair, user))  # stable: events of one pair stay in their order
    earlier, later = order[:-1], order[1:]
    linked = (user[earlier] == user[later]) & (pair[earlier] == pair[later])
    after[earlier[linked]] = later[linked]
    before[later[linked]] = earlier[linked]
    return after, before


def _block(events: _Events, targets: pl.DataFrame, length: int) -> pl.DataFrame:
    """Histories of a block of targets: filled from the newest entry backwards, oldest first in the result."""
    own = {name: _int64(targets[column]) for name, column in _OWN.items()}
    first = np.searchsorted(events.place, own["user_place"], side="left")
    end = np.searchsorted(events.place, own["place"], side="left")
    found = np.full((targets.height, length), -1, dtype=np.int64)
    count = np.zeros(targets.height, dtype=np.int64)
    active, reach = np.flatnonzero(end > first), end.copy()
    width = length + 4
    while active.size:
        for rows in _slices(active, width):
            _fill(events, own, rows, first, end, reach, width, found, count)
        reach[active] -= width
        active = active[(count[active] < length) & (reach[active] > first[active])]
        width *= 2
    return _as_lists(events, own, targets, found[:, ::-1], count)


_OWN = {
    "place": "place",
    "user_place": "user_place",
    "item": "item_id",
    "pair": "pair_id",
    "group": "group_id",
}


def _slices(rows: IntArray, width: int) -> Iterator[IntArray]:
    step = max(1, CELLS // width)
    for start in range(0, rows.size, step):
        yield rows[start : start + step]


def _fill(
    events: _Events,
    own: dict[str, IntArray],
    rows: IntArray,
    first: IntArray,
    end: IntArray,
    reach: IntArray,
    width: int,
    found: IntArray,
    count: IntArray,
) -> None:
    """Look at the `width` events before `reach` of each row and store the next entries of its history."""
    position = reach[rows, None] - 1 - np.arange(width)
    inside = position >= first[rows, None]
    row, column = np.nonzero(inside)
    at, target = position[row, column], rows[row]
    keep = _visible(events, own, at, target)
    keep[keep] &= ~_has_later_twin(events, own, at[keep], target[keep], end)
    row, at = row[keep], at[keep]
    # np.nonzero is row-major: within a row the newest event comes first.
    starts = np.searchsorted(row, np.arange(rows.size))
    slot = count[rows[row]] + np.arange(row.size) - starts[row]
    fits = slot < found.shape[1]
    found[rows[row[fits]], slot[fits]] = at[fits]
    count[rows] = np.minimum(count[rows] + np.bincount(row, minlength=rows.size), found.shape[1])


def _visible(events: _Events, own: dict[str, IntArray], at: IntArray, target: IntArray) -> npt.NDArray[np.bool_]:
    """Whether the target's history may show an event that is earlier: not of its item, its pair or its request."""
    group = own["group"][target]
    same_group = (group >= 0) & (events.group[at] == group)
    same = (events.item[at] == own["item"][target]) | (events.pair[at] == own["pair"][target])
    return np.asarray(~(same | same_group))


def _has_later_twin(
    events: _Events, own: dict[str, IntArray], at: IntArray, target: IntArray, end: IntArray
) -> npt.NDArray[np.bool_]:
    """True where a later event of the same pair is visible too: that one stands for the pair."""
    later = events.next_in_pair[at]
    seen = later < end[target]
    hidden = np.flatnonzero(seen)
    while hidden.size:  # a later twin may itself be one that is not shown; look at the one after it
        hidden = hidden[~_visible(events, own, later[hidden], target[hidden])]
        later[hidden] = events.next_in_pair[later[hidden]]
        seen[hidden] = later[hidden] < end[target[hidden]]
        hidden = hidden[seen[hidden]]
    return seen


def _as_lists(
    events: _Events, own: dict[str, IntArray], targets: pl.DataFrame, found: IntArray, count: IntArray
) -> pl.DataFrame:
    row, column = np.nonzero(found >= 0)
    at = found[row, column]
    tasks, queries = _collapse(events, own, at, row)
    flat = {
        "hist_items": (events.item[at], pl.Int32()),
        "hist_tasks": (tasks, pl.Int8()),
        "hist_queries": (queries, pl.Int32()),
        "hist_event_ids": (events.event_id[at], pl.Int64()),
    }
    lists = []
    for name, (values, kind) in flat.items():
        square = np.zeros(found.shape, dtype=np.int64)
        square[row, column] = values
        wide = pl.Series(name, square.ravel()).cast(kind).reshape(found.shape).arr.to_list()
        filled = pl.DataFrame([wide, pl.Series("count", count)])
        lists.append(filled.select(pl.col(name).list.tail("count")).to_series())
    return targets.select(*(c for c in schema.CASES if c in targets.columns), "item_id").with_columns(lists)


def _collapse(events: _Events, own: dict[str, IntArray], at: IntArray, target: IntArray) -> tuple[IntArray, IntArray]:
    """Tasks (bitmask) and latest query over the visible events of each entry's pair."""
    tasks, queries = events.task_bit[at].copy(), events.query[at].copy()
    earlier = events.previous_in_pair[at]
    open_ = np.flatnonzero(earlier >= 0)
    while open_.size:
        twin = earlier[open_]
        visible = _visible(events, own, twin, target[open_])
        tasks[open_] |= np.where(visible, events.task_bit[twin], 0)
        queries[open_] = np.where((queries[open_] == 0) & visible, events.query[twin], queries[open_])
        earlier[open_] = events.previous_in_pair[twin]
        open_ = open_[earlier[open_] >= 0]
    return tasks, queries


def _int64(column: pl.Series) -> IntArray:
    return column.cast(pl.Int64).to_numpy()

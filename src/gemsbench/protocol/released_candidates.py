"""Negatives as the released code of arXiv 2601.09496 draws them: uniform over entries, only the row's own are left out.

An entry is what that code takes for one item (see data/released_log.py). Other things that the user touched are not
excluded. Draws are keyed by (seed, recipe, task, split, user, number of the row), so that a list depends on nothing
but its row and the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data import schema
from gemsbench.data.flat_lists import IntArray, gathered, list_columns
from gemsbench.errors import InputError
from gemsbench.protocol.candidates import CELLS, SAMPLER, Touched, case_keys, draw
from gemsbench.seeds import UInt64Array, mix64


@dataclass(frozen=True)
class Entries:
    """The corpus in a fixed order: entries first seen in train, then in valid, then in test, each sorted by name.

    names [E]; item int64 [E], the item_id that an entry stands for; within: split -> number of entries that negatives
    of that split are drawn from, its own and those of the splits before it.
    """

    names: pl.Series
    item: IntArray
    within: dict[str, int]


@dataclass(frozen=True)
class Rows:
    """Examples as numbers, one per row of `table`, sorted by case_id.

    table: case_id, user_id, task, query_id, split, order_key. targets and history hold entry numbers, flat; those of
    row q are targets[target_offsets[q]:target_offsets[q + 1]], and likewise for history (whole, oldest first) and
    history_tasks.
    """

    table: pl.DataFrame
    targets: IntArray
    target_offsets: IntArray
    history: IntArray
    history_tasks: IntArray
    history_offsets: IntArray


def released_candidates(
    rows: Rows, entries: Entries, users: pl.DataFrame, *, seed: int, recipe: str, negatives: int
) -> pl.DataFrame:
    """Candidates of every valid and test row (schema.CANDIDATES), in an order drawn per case.

    items: all targets and `negatives` entries, as item ids, each once: where two entries are one item the list is
    shorter. positives: all targets in the order of the row, none where it has none. Raises InputError when the corpus
    is too small.
    """
    parts = [_of_split(rows, entries, users, split, seed, recipe, negatives) for split in ("valid", "test")]
    return schema.conform(pl.concat(parts).sort("case_id"), schema.CANDIDATES, "candidates")


def _of_split(
    rows: Rows, entries: Entries, users: pl.DataFrame, split: str, seed: int, recipe: str, negatives: int
) -> pl.DataFrame:
    at = np.flatnonzero(rows.table.select(pl.col("split") == split).to_series().to_numpy())
    asked = rows.table[at]
    n = entries.within[split]
    excluded = _excluded(rows, at, n, negatives)
    drawn = np.empty((at.size, negatives), dtype=np.int32)  # entry + 1
    draw(_row_keys(asked, users, seed, recipe, "negatives"), np.arange(at.size), Touched(excluded, n + 1), n, drawn)
    order = _row_keys(asked, users, seed, recipe, "order")
    width = max(int(np.diff(rows.target_offsets)[at].max(initial=0)) + negatives, 1)
    step = max(1, CELLS // width)
    blocks = [slice(start, start + step) for start in range(0, at.size, step)]
    parts = [_lists(rows, entries, at[block], drawn[block] - 1, order[block]) for block in blocks]
    lists = pl.concat(parts) if parts else _lists(rows, entries, at, drawn - 1, order)
    return pl.concat([asked.select("case_id"), lists], how="horizontal").with_columns(
        sampler=pl.lit(SAMPLER), seed=pl.lit(seed, dtype=pl.Int64)
    )


def _excluded(rows: Rows, at: IntArray, n: int, negatives: int) -> IntArray:
    """Sorted place-of-row * (n + 1) + entry + 1 of each row's own entries; row places count within `at`."""
    parts = []
    for flat, offsets in ((rows.targets, rows.target_offsets), (rows.history, rows.history_offsets)):
        values, lengths = _gathered(flat, offsets, at)
        own = np.repeat(np.arange(at.size), lengths)
        parts.append((own * (n + 1) + values + 1)[values < n])
    keys = np.unique(np.concatenate(parts))
    left = n - int(np.bincount(keys // (n + 1)).max(initial=0))
    if at.size and left < negatives:
        raise InputError(
            f"the corpus of {n} entries leaves {left} for a case that needs {negatives} negatives. "
            "Use a recipe with more items."
        )
    return keys


def _gathered(flat: IntArray, offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """The values of the lists named by rows, and the lengths of these lists."""
    lengths = np.diff(offsets)[rows]
    return flat[gathered(offsets[rows], lengths)], lengths


def _row_keys(asked: pl.DataFrame, users: pl.DataFrame, seed: int, recipe: str, purpose: str) -> UInt64Array:
    """One key per row: a user may have several validation rows of a task, which count 0, 1, ... in case_id order."""
    number = asked.select(pl.int_range(pl.len(), dtype=pl.UInt64).over("user_id", "task", "split")).to_series()
    return mix64(case_keys(asked, users, seed, recipe, purpose), number.to_numpy())


def _lists(
    rows: Rows, entries: Entries, at: IntArray, drawn: npt.NDArray[np.int32], order: UInt64Array
) -> pl.DataFrame:
    """Items and positives of the rows `at`, as lists of item ids."""
    values, lengths = _gathered(rows.targets, rows.target_offsets, at)
    targets = np.zeros((at.size, int(lengths.max(initial=0))), dtype=np.int64)  # 0 is no item
    place = np.arange(targets.shape[1]) < lengths[:, None]
    targets[place] = entries.item[values]
    shown = np.concatenate([targets, entries.item[drawn]], axis=1)
    positives = list_columns({"positives": pl.Series(entries.item[values], dtype=pl.Int32)}, lengths)
    return positives.select(_distinct("items", shown, order), pl.col("positives").list.unique(maintain_order=True))


def _distinct(name: str, items: IntArray, order: UInt64Array) -> pl.Series:
    """The items of each row, each once and without 0, in an order drawn per row."""
    key = mix64(order[:, None], items.view(np.uint64))  # one to one within a row
    key[items == 0] = np.iinfo(np.uint64).max
    items = np.take_along_axis(items, np.argsort(key, axis=1), axis=1)
    keep = items > 0
    keep[:, 1:] &= items[:, 1:] != items[:, :-1]
    packed = np.take_along_axis(items, np.argsort(~keep, axis=1, kind="stable"), axis=1)
    wide = pl.Series(name, packed.astype(np.int32).ravel()).reshape(packed.shape).arr.to_list()
    frame = pl.DataFrame([wide, pl.Series("kept", keep.sum(axis=1))])
    return frame.select(pl.col(name).list.head("kept")).to_series()

"""Who competes with the target: uniform negatives that the user never touched, drawn once per case.

Every draw is a hash of (seed, recipe, task, split, hash of the user's raw id, number of the draw), so that a list does
not depend on which other users, cases or processes there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.seeds import UInt64Array, hash64_many, mix64, stream_seed

NEGATIVES = 99
SAMPLER = "uniform"
CELLS = 1_000_000  # draws per block; bounds the working memory, does not change the result

IntArray = npt.NDArray[np.int64]
ItemArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


def build_candidates(
    cases: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    n_items: int,
    *,
    seed: int,
    recipe: str,
    negatives: int = NEGATIVES,
) -> pl.DataFrame:
    """Candidates of every valid and test case (schema.CANDIDATES): target and negatives in an order drawn per case.

    Negatives are uniform without replacement over items 1..n_items minus all that the user touched in any split or
    task (other clicks of the same request are among these). Raises InputError when a user has too few items left.
    """
    asked = cases.filter(pl.col("split") != "train").sort("case_id")
    touched = _touched(interactions, n_items)
    _check_enough(asked, touched, n_items, negatives)
    drawn = np.empty((asked.height, negatives + 1), dtype=np.int32)
    drawn[:, 0] = asked["target_item"].to_numpy()
    keys = case_keys(asked, users, seed, recipe, "negatives")
    draw(keys, _int64(asked["user_id"]), touched, n_items, drawn[:, 1:])
    order = case_keys(asked, users, seed, recipe, "order")
    for block in _blocks(np.arange(asked.height), drawn.shape[1]):
        rank = np.argsort(mix64(order[block, None], drawn[block].astype(np.uint64)), axis=1)
        drawn[block] = np.take_along_axis(drawn[block], rank, axis=1)
    lists = pl.Series("items", drawn.ravel()).reshape(drawn.shape).arr.to_list()
    table = asked.select(
        "case_id",
        lists,
        positives=pl.concat_list("target_item"),
        sampler=pl.lit(SAMPLER),
        seed=pl.lit(seed, dtype=pl.Int64),
    )
    return schema.conform(table, schema.CANDIDATES, "candidates")


def case_keys(cases: pl.DataFrame, users: pl.DataFrame, seed: int, recipe: str, purpose: str) -> UInt64Array:
    """One 64-bit key per case from (seed, recipe, task, split, purpose) and the hash of the user's raw id."""
    kinds = cases.select("task", "split").unique()
    salts = kinds.with_columns(
        salt=pl.Series(
            [stream_seed(seed, recipe, task, split, purpose) for task, split in kinds.iter_rows()], dtype=pl.UInt64
        )
    )
    people = users.join(cases.select("user_id").unique(), on="user_id", how="semi")
    hashes = pl.DataFrame({"user_id": people["user_id"], "hash": hash64_many(people["raw_id"])})
    keyed = (
        cases.select("user_id", "task", "split")
        .join(salts, on=["task", "split"], how="left", maintain_order="left")
        .join(hashes, on="user_id", how="left", maintain_order="left")
    )
    return mix64(keyed["salt"].to_numpy(), keyed["hash"].to_numpy())


@dataclass(frozen=True)
class Touched:
    """Items that each user touched, as user * (n_items + 1) + item, distinct and sorted."""

    keys: IntArray
    base: int  # n_items + 1

    def of(self, user: IntArray) -> tuple[IntArray, IntArray]:
        """The bounds of each user's items in keys."""
        return np.searchsorted(self.keys, user * self.base), np.searchsorted(self.keys, (user + 1) * self.base)


def _touched(interactions: pl.DataFrame, n_items: int) -> Touched:
    base = n_items + 1
    keys = np.sort(_int64(interactions["user_id"]) * base + _int64(interactions["item_id"]))
    return Touched(keys[np.diff(keys, prepend=-1) > 0], base)


def _check_enough(asked: pl.DataFrame, touched: Touched, n_items: int, negatives: int) -> None:
    first, end = touched.of(_int64(asked["user_id"].unique()))
    left = n_items - (end - first)
    if left.size and left.min() < negatives:
        raise InputError(
            f"{np.count_nonzero(left < negatives)} of {left.size} users have fewer than {negatives} items that they "
            f"never touched (the smallest number left is {left.min()} of {n_items}). Use a recipe with more items."
        )


def draw(keys: UInt64Array, user: IntArray, touched: Touched, n_items: int, out: ItemArray) -> None:
    """Fill out [Q, negatives] with the first eligible distinct items of each case's sequence of draws.

    keys: one per case [Q]; user: whose items of `touched` are not eligible [Q]; items are 1..n_items, enough of them
    eligible. The sequence depends on the key alone.
    """
    negatives = out.shape[1]
    # With many items most sequences need nothing left out: these are done after one cheap look.
    todo = [rows[~_plain(keys, user, touched, n_items, rows, out)] for rows in _blocks(np.arange(keys.size), negatives)]
    width = negatives + 16
    while todo and (again := np.concatenate(todo)).size:
        todo = []
        for rows in _blocks(again, width):
            items = _sequence(keys[rows], width, n_items).astype(np.int64)
            keep = ~_contains(touched.keys, user[rows, None] * touched.base + items) & _first_in_row(items)
            rank = np.cumsum(keep, axis=1)
            done = rank[:, -1] >= negatives
            out[rows[done]] = items[done][keep[done] & (rank[done] <= negatives)].reshape(-1, negatives)
            todo.append(rows[~done])
        width *= 2  # from the first draw again: a longer look at the same sequence


def _plain(
    keys: UInt64Array, user: IntArray, touched: Touched, n_items: int, rows: IntArray, out: ItemArray
) -> BoolArray:
    """Fill the rows of out whose first draws are all distinct and untouched; True for these rows."""
    items = _sequence(keys[rows], out.shape[1], n_items)
    ordered = np.sort(items, axis=1)
    distinct: BoolArray = np.all(ordered[:, 1:] != ordered[:, :-1], axis=1)
    first, end = touched.of(user[rows])
    row = np.repeat(np.arange(rows.size), end - first)
    starts = np.cumsum(end - first) - (end - first)
    item = touched.keys[np.arange(row.size) - starts[row] + first[row]] - user[rows][row] * touched.base
    # Ascending, as rows and the items of a row are.
    drawn = (np.arange(rows.size)[:, None] * touched.base + ordered).ravel()
    distinct[row[_contains(drawn, row * touched.base + item)]] = False
    out[rows[distinct]] = items[distinct]
    return distinct


def _sequence(keys: UInt64Array, width: int, n_items: int) -> ItemArray:
    """The first draws of each case, items 1..n_items."""
    draws = mix64(keys[:, None], np.arange(width, dtype=np.uint64)) % np.uint64(n_items)
    return draws.astype(np.int32) + np.int32(1)


def _blocks(rows: IntArray, width: int) -> Iterator[IntArray]:
    step = max(1, CELLS // max(width, 1))
    for start in range(0, rows.size, step):
        yield rows[start : start + step]


def _contains(ordered: IntArray, values: IntArray) -> BoolArray:
    if not ordered.size:
        return np.zeros(values.shape, dtype=bool)
    at = np.searchsorted(ordered, values)
    return np.asarray(ordered[np.minimum(at, ordered.size - 1)] == values)


def _first_in_row(items: IntArray) -> BoolArray:
    """True where an item occurs for the first time in its row."""
    width = items.shape[1]
    ordered = np.sort(items * width + np.arange(width), axis=1)
    repeated = np.zeros(items.shape, dtype=bool)
    repeated[:, 1:] = ordered[:, 1:] // width == ordered[:, :-1] // width
    first = np.empty(items.shape, dtype=bool)
    np.put_along_axis(first, ordered % width, ~repeated, axis=1)
    return first


def _int64(column: pl.Series) -> IntArray:
    return column.cast(pl.Int64).to_numpy()

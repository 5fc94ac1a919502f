"""Who competes with the target: uniform negatives that the user never touched, drawn once per case.

Every draw is a hash of (seed, recipe, task, split, hash of the user's raw id, number of the draw), so that a list does
not depend on which other users, cases or processes there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.seeds import UInt64Array, hash64_many, mix64, stream_seed

NEGATIVES = 99
SAMPLER = "uniform"
CELLS = 4_000_000  # draws per block; bounds the working memory, does not change the result

IntArray = npt.NDArray[np.int64]


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
    touched = interactions.select("user_id", "item_id").unique().sort("user_id", "item_id")
    _check_enough(asked, touched, n_items, negatives)
    user, target = _int64(asked["user_id"]), _int64(asked["target_item"])
    excluded = _int64(touched["user_id"]) * (n_items + 1) + _int64(touched["item_id"])
    keys = case_keys(asked, users, seed, recipe, "negatives")
    drawn = np.empty((asked.height, negatives + 1), dtype=np.int64)
    drawn[:, 0] = target
    _draw(keys, user, excluded, n_items, drawn[:, 1:])
    order = case_keys(asked, users, seed, recipe, "order")
    for start in range(0, asked.height, CELLS // drawn.shape[1]):
        block = slice(start, start + CELLS // drawn.shape[1])
        rank = np.argsort(mix64(order[block, None], drawn[block].view(np.uint64)), axis=1)
        drawn[block] = np.take_along_axis(drawn[block], rank, axis=1)
    lists = pl.Series("items", drawn.astype(np.int32).ravel()).reshape(drawn.shape).arr.to_list()
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


def _check_enough(asked: pl.DataFrame, touched: pl.DataFrame, n_items: int, negatives: int) -> None:
    taken = touched.join(asked.select("user_id").unique(), on="user_id", how="semi").group_by("user_id").len()
    short = taken.filter(n_items - pl.col("len") < negatives)
    if short.height:
        left = n_items - int(short["len"].to_numpy().max())
        raise InputError(
            f"{short.height} of {taken.height} users have fewer than {negatives} items that they never touched "
            f"(the smallest number left is {left} of {n_items} items). Use a recipe with more items."
        )


def _draw(keys: UInt64Array, user: IntArray, excluded: IntArray, n_items: int, out: IntArray) -> None:
    """Fill out (cases x negatives) with the first eligible distinct items of each case's sequence of draws."""
    negatives = out.shape[1]
    todo = np.arange(keys.size)
    width = negatives + 16
    while todo.size:
        short = []
        step = max(1, CELLS // width)
        for start in range(0, todo.size, step):
            rows = todo[start : start + step]
            draws = mix64(keys[rows, None], np.arange(width, dtype=np.uint64)) % np.uint64(n_items)
            items = draws.astype(np.int64) + 1
            keep = ~_contains(excluded, user[rows, None] * (n_items + 1) + items) & _first_in_row(items)
            rank = np.cumsum(keep, axis=1)
            done = rank[:, -1] >= negatives
            out[rows[done]] = items[done][keep[done] & (rank[done] <= negatives)].reshape(-1, negatives)
            short.append(rows[~done])
        todo = np.concatenate(short)
        width *= 2  # from the first draw again: a longer look at the same sequence


def _contains(ordered: IntArray, values: IntArray) -> npt.NDArray[np.bool_]:
    at = np.searchsorted(ordered, values)
    return np.asarray(ordered[np.minimum(at, ordered.size - 1)] == values)


def _first_in_row(items: IntArray) -> npt.NDArray[np.bool_]:
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

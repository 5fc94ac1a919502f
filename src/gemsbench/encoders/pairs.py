"""Pairs of texts for the joint bi-encoder: (query, item) of train searches, (item, item) of train recommendations.

Sem-BSR (arXiv 2508.10478) tunes one encoder on both. Everything is made from the train split, and texts are numbers:
rows of one table of distinct texts, so that "no text repeats in a batch" is a question about integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import seeds
from gemsbench.encoders.distinct_texts import item_texts
from gemsbench.identifiers.vectors import BoolArray

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

Int64Array = npt.NDArray[np.int64]

NO_TEXT = -1
_LOOK_AHEAD = 8  # batches of rows looked at before all that are left
_LEAST_FILLED = 0.5  # of the first batch of a pass; emptier ones are not made


@dataclass(frozen=True, eq=False)
class TextTable:
    """Distinct texts, sorted; of_item int64 [n_items + 1] and of_query int64 [largest query_id + 1] are rows of it.

    The largest query_id is that of queries and events together. NO_TEXT stands for padding, an item without text and a
    query_id without a query.
    """

    texts: pl.Series
    of_item: Int64Array
    of_query: Int64Array

    @staticmethod
    def of(data: TrainingData, query_prompt: str = "") -> TextTable:
        """The texts of all items and of the queries that train and valid cases ask; query_prompt stands before each.

        Raises InputError when no item has a text.
        """
        texts, has_text = item_texts(data.items)
        queries = data.queries.sort("query_id")
        asked = pl.Series("text", [query_prompt]).new_from_index(0, queries.height) + queries["text"]
        distinct = pl.concat([texts.filter(pl.Series(has_text)).alias("text"), asked.alias("text")]).unique().sort()

        def rows(values: pl.Series) -> Int64Array:
            numbers = values.replace_strict(distinct, range(len(distinct)), default=NO_TEXT, return_dtype=pl.Int64)
            return numbers.to_numpy()

        of_item = np.full(len(texts) + 1, NO_TEXT, np.int64)
        of_item[1:][has_text] = rows(texts)[has_text]
        ids = queries["query_id"].cast(pl.Int64).to_numpy()
        largest = max(int(found.max(initial=0)) for found in (ids, data.events["query_id"].to_numpy()))
        of_query = np.full(largest + 1, NO_TEXT, np.int64)
        of_query[ids] = rows(asked)
        return TextTable(distinct, of_item, of_query)


def search_pairs(data: TrainingData, table: TextTable) -> Int64Array:
    """Distinct (query, item) of train searches as rows of the table, int64 [n, 2], sorted."""
    events = data.events.filter((pl.col("split") == "train") & (pl.col("task") == "src") & (pl.col("query_id") > 0))
    queries, items = (events[name].cast(pl.Int64).to_numpy() for name in ("query_id", "item_id"))
    return np.unique(_usable(np.stack([table.of_query[queries], table.of_item[items]], axis=1)), axis=0)


def recommendation_pairs(data: TrainingData, table: TextTable, window: int, most: int, seed: int) -> Int64Array:
    """(earlier item, later item) of one user within `window` consecutive train recommendation events, int64 [n, 2].

    A pair is kept with probability min(1, sqrt(m / f)) of each of its items, where f is the item's number of such
    events and m the median of f over items; of what is kept, at most `most` pairs drawn at random. A pair that occurs
    often is there as often. Rows of the table, in an order that only the events, their times and the seed decide.
    """
    events = data.events.filter((pl.col("split") == "train") & (pl.col("task") == "rec"))
    events = events.sort("user_id", "order_key", "item_id")
    users, items = (events[name].cast(pl.Int64).to_numpy() for name in ("user_id", "item_id"))
    found = [np.empty((0, 2), np.int64)]
    for distance in range(1, min(window, len(users))):
        same_user = users[distance:] == users[:-distance]
        found.append(np.stack([items[:-distance][same_user], items[distance:][same_user]], axis=1))
    pairs = np.concatenate(found)
    rng = seeds.stream(seed, "bi-encoder", "recommendation pairs")
    pairs = pairs[rng.random(len(pairs)) < _keep_probability(items, data.n_items)[pairs].prod(axis=1)]
    pairs = _usable(table.of_item[pairs])
    return pairs if len(pairs) <= most else pairs[np.sort(rng.permutation(len(pairs))[:most])]


def _keep_probability(items: Int64Array, n_items: int) -> npt.NDArray[np.float64]:
    """Share of an item's pairs that stay, float64 [n_items + 1]: popular ones lose most."""
    events = np.bincount(items, minlength=n_items + 1)
    typical = np.median(events[events > 0]) if items.size else 1.0
    kept: npt.NDArray[np.float64] = np.minimum(1.0, np.sqrt(typical / np.maximum(events, 1)))
    return kept


def _usable(pairs: Int64Array) -> Int64Array:
    """Pairs of two texts that are there and not the same one."""
    kept: Int64Array = pairs[(pairs != NO_TEXT).all(axis=1) & (pairs[:, 0] != pairs[:, 1])]
    return kept


def batches_without_repeats(pairs: Int64Array, size: int, rng: np.random.Generator) -> list[Int64Array]:
    """One pass over shuffled pairs (int64 [n, 2]) in batches of rows in which no text stands twice, in either column.

    Each batch takes, in shuffled order, the first `size` of the remaining pairs that repeat none of its texts, as the
    no-duplicates sampler of sentence-transformers does. The pass ends before a batch that would hold a single pair or
    less than half of the first one: what is left then shares few texts, and gets its turn in another shuffle.
    """
    remaining = rng.permutation(len(pairs))
    batches: list[Int64Array] = []
    while len(remaining):
        looked_at = remaining[: _LOOK_AHEAD * size]
        taken = np.flatnonzero(_first_without_repeats(pairs[looked_at]))[:size]
        if len(taken) < size and len(looked_at) < len(remaining):
            taken = np.flatnonzero(_first_without_repeats(pairs[remaining]))[:size]
        if len(taken) < max(2, _LEAST_FILLED * len(batches[0]) if batches else 2):
            break
        batches.append(remaining[taken])
        remaining = np.delete(remaining, taken)
    return batches


def _first_without_repeats(pairs: Int64Array) -> BoolArray:
    """Which pairs one would take going through them in order and leaving out each that repeats a text: bool [n].

    In rounds: a pair is taken when no undecided pair before it shares a text with it, and pairs that share a text
    with a taken one are out. Equal to the pass one by one, in about log n rounds.
    """
    n_texts = int(pairs.max(initial=-1)) + 1
    used = np.zeros(n_texts, np.bool_)
    first = np.zeros(n_texts, np.int64)
    taken = np.zeros(len(pairs), np.bool_)
    undecided = np.arange(len(pairs))
    while len(undecided):
        texts = pairs[undecided]
        np.put(first, texts[::-1], np.repeat(undecided[::-1], 2))  # the last write stands: the earliest pair
        accepted = (first[texts] == undecided[:, None]).all(axis=1)
        taken[undecided[accepted]] = True
        used[texts[accepted]] = True
        undecided = undecided[~used[texts].any(axis=1)]
    return taken

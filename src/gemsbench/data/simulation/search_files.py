"""Simulated searches in the files of Ai et al. (SIGIR 2017): query_text, train.qrels, test.qrels.

As there, three in ten of a user's reviews (rounded down) are hidden, the others make the training triples; about one
hidden review in seventy makes a test triple (5,541 of 408,723 in the real Electronics files).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gemsbench.data.product_search import QRELS, QUERIES
from gemsbench.data.queries import path_query
from gemsbench.data.simulation.line_writing import join, write_lines
from gemsbench.data.simulation.raw_ids import asins, reviewer_ids
from gemsbench.data.simulation.topic_tree import TopicTree
from gemsbench.data.simulation.world import BoolArray, IntArray
from gemsbench.seeds import stream

HIDDEN = 0.3
_TESTED = 0.0136  # of the hidden reviews
_TWO_QUERIES = 0.054  # of the items; the real files have 1.054 triples per user and item
_CHUNK = 200_000


def write_searches(
    folder: Path, log: pl.DataFrame, item_topic: IntArray, tree: TopicTree, root: str, seed: int
) -> None:
    """Write the three files into folder. log: user, item (int64); item_topic: the topic of each item number."""
    rng = stream(seed, "searches")
    ordered = log.select("user", "item").sort("user", "item")
    user, item = ordered["user"].to_numpy(), ordered["item"].to_numpy()
    hidden = hidden_reviews(user, rng)
    tested = hidden & (rng.random(user.size) < _TESTED)
    second = np.where(
        rng.random(item_topic.size) < _TWO_QUERIES, rng.integers(tree.table.height, size=item_topic.size), item_topic
    )
    names = tree.table.select("department", "group", "leaf").iter_rows()
    write_lines(folder / QUERIES, [pl.Series([path_query((root, *path)) for path in names])])
    for split, part in (("train", ~hidden), ("test", tested)):
        write_lines(folder / QRELS[split], _triples(user[part], item[part], item_topic, second))


def hidden_reviews(user: IntArray, rng: np.random.Generator) -> BoolArray:
    """Which reviews of each user are hidden: floor(0.3 n) of n, at random. user: int64, equal ones adjacent."""
    start = np.flatnonzero(np.diff(user, prepend=-1))
    number = np.diff(np.append(start, user.size))
    shuffled = np.lexsort((rng.random(user.size), user))
    rank = np.empty(user.size, dtype=np.int64)
    rank[shuffled] = np.arange(user.size) - np.repeat(start, number)
    return np.asarray(rank < np.repeat(np.floor(HIDDEN * number + 1e-9), number))


def _triples(user: IntArray, item: IntArray, topic: IntArray, second: IntArray) -> Iterator[pl.Series]:
    for start in range(0, user.size, _CHUNK):
        people, things = user[start : start + _CHUNK], item[start : start + _CHUNK]
        first, other = topic[things], second[things]
        several = first != other
        people, things = np.concatenate([people, people[several]]), np.concatenate([things, things[several]])
        columns = {
            "user": reviewer_ids(people),
            "query": pl.Series(np.concatenate([first, other[several]])),
            "item": asins(things),
        }
        c = pl.col
        line = join(c("user"), "_", c("query").cast(pl.String), " 0 ", c("item"), " 1 ")  # a space ends the real lines
        yield pl.DataFrame(columns).select(line).to_series()

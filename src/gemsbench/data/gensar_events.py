"""Purchases and searches of Amazon as the public scripts of GenSAR (arXiv 2504.05730) order, cut and split them.

A user's events are ordered by day; on one day all purchases come before all searches, and either by product, which is
the order of the review file. Nothing keeps a search away from its own purchase.
"""

from __future__ import annotations

import polars as pl

from gemsbench.data import schema
from gemsbench.seeds import hash64_many, mix64, stream_seed

TASK_CODE = {"rec": 1, "src": 2}  # purchases sort before the searches of their day
LEAST_EVENTS = 3  # of a user and task: test, validation, and at least one to train on


def searches_of(triples: pl.DataFrame, reviews: pl.DataFrame, seed: int) -> pl.DataFrame:
    """One search per user and product that the triples name, at the time of the review: user, item, query, timestamp.

    triples: user, item, query (int64). Of several queries one is drawn by a hash of seed, user and product. A review
    that is in the file twice gives its search twice, as a join does.
    """
    offered = triples.group_by("user", "item").agg(pl.col("query").unique().sort())
    single = pl.col("query").list.len() == 1
    several = offered.filter(~single).sort("user", "item")
    draw = mix64(stream_seed(seed, "query of a pair"), hash64_many(several["user"]), hash64_many(several["item"]))
    number = pl.Series("number", draw, dtype=pl.UInt64) % several["query"].list.len().cast(pl.UInt64)
    chosen = several.with_columns(number.cast(pl.Int64)).select(
        "user", "item", pl.col("query").list.get(pl.col("number"))
    )
    one = offered.filter(single).with_columns(pl.col("query").list.first())
    pairs = pl.concat([one, chosen])
    return reviews.select("user", "item", "timestamp").join(pairs, on=["user", "item"], how="inner")


def ordered_events(reviews: pl.DataFrame, searches: pl.DataFrame) -> pl.DataFrame:
    """user, item, task, query (-1 for a purchase), timestamp of users who have both, in the order of the scripts."""
    shared = ["user", "item", "query", "timestamp"]
    rec = reviews.with_columns(query=pl.lit(-1, dtype=pl.Int64)).select(*shared, task=pl.lit("rec"))
    src = searches.select(*shared, task=pl.lit("src"))
    both = rec.select("user").unique().join(src.select("user").unique(), on="user", how="semi")
    events = pl.concat([rec, src]).with_columns(pl.col("task").cast(schema.TASK))
    events = events.join(both, on="user", how="semi")
    return events.sort("user", "timestamp", pl.col("task").to_physical(), "item", "query")


def with_both_before(events: pl.DataFrame) -> pl.DataFrame:
    """The events that have an earlier purchase and an earlier search of their user.

    The scripts do not count a search's own purchase where it is the last before it; that never matters here: an
    earlier search has an earlier purchase of its own.
    """
    rec = pl.col("task") == "rec"
    before = (rec.cum_sum().over("user") - rec, (~rec).cum_sum().over("user") - ~rec)
    return events.filter((before[0] > 0) & (before[1] > 0))


def split_per_task(events: pl.DataFrame) -> pl.DataFrame:
    """With `split`: per user and task the last event is test, the last but one valid; shorter ones are dropped."""
    key = ["user", "task"]
    left = pl.len().over(key) - 1 - pl.int_range(pl.len()).over(key)
    split = pl.when(left == 0).then(pl.lit("test")).when(left == 1).then(pl.lit("valid")).otherwise(pl.lit("train"))
    return events.filter(pl.len().over(key) >= LEAST_EVENTS).with_columns(split=split.cast(schema.SPLIT))

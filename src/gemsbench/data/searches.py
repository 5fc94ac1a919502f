"""Searches of a purchase: one per pair, logged ones first, else one made from the item's category paths."""

from __future__ import annotations

import polars as pl

from gemsbench.data import schema
from gemsbench.seeds import hash64_many, mix64


def folded(column: str) -> pl.Expr:
    """Control characters and runs of white space become one space; nothing else of a query is touched."""
    return pl.col(column).str.replace_all(r"[\p{Cc}\s]+", " ").str.strip_chars(" ")


def one_search_per_pair(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Keep one src event per (user, pair): logged before synthetic, then by a seeded hash of user, item and query.

    events: user_id, pair, task, query, query_source, draw (uint64 of user and item), ...
    """
    key = ["user_id", "pair"]
    search = pl.col("task") == "src"
    several = search & (search.sum().over(key) > 1)
    rivals = events.filter(several)
    if rivals.is_empty():
        return events
    texts = rivals["query"].unique()
    hashes = pl.DataFrame({"query": texts, "hash": pl.Series(hash64_many(texts), dtype=pl.UInt64)})
    rivals = rivals.join(hashes, on="query", how="left", maintain_order="left")
    choice = pl.Series(mix64(seed, rivals["draw"].to_numpy(), rivals["hash"].to_numpy()), dtype=pl.UInt64)
    # "logged" sorts before "synthetic"; the query breaks a tie of two hashes.
    chosen = rivals.with_columns(choice=choice).sort(*key, "query_source", "choice", "query", "item_id", "timestamp")
    chosen = chosen.unique(key, keep="first", maintain_order=True)
    return pl.concat([events.filter(~several), chosen.select(events.columns)])


def synthetic_searches(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """A src twin for every rec event without one whose item has queries: same user, item, time, pair and group.

    The query is number draw mod n of the item's n sorted queries (items: item_id, queries). Same columns as events.
    """
    searched = events.filter(pl.col("task") == "src").select("user_id", "pair").unique()
    bought = events.filter(pl.col("task") == "rec").join(searched, on=["user_id", "pair"], how="anti")
    offered = items.select("item_id", "queries").filter(pl.col("queries").list.len() > 0)
    twins = bought.join(offered, on="item_id", how="inner")
    number = pl.col("draw") % pl.col("queries").list.len()
    return twins.with_columns(
        task=pl.lit("src").cast(schema.TASK),
        query=pl.col("queries").list.get(number.cast(pl.Int64)),
        query_source=pl.lit("synthetic"),
    ).select(events.columns)

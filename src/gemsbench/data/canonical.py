"""From a recipe's raw log to canonical tables: dense ids, one search per purchase, one total order per user."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from gemsbench.data import schema
from gemsbench.data.event_order import with_order
from gemsbench.data.invariants import pin_violations
from gemsbench.data.item_text import clean_text
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.searches import folded, one_search_per_pair, synthetic_searches
from gemsbench.errors import CheckError, InputError
from gemsbench.seeds import hash64_many, mix64, stream_seed

RAW_EVENTS: schema.Schema = {
    "user": pl.String(),
    "item": pl.String(),
    "task": schema.TASK,
    "query": pl.String(),
    "query_source": pl.String(),
    "timestamp": pl.Int64(),
    "pair": pl.String(),
    "group": pl.String(),
    "rating": pl.Float32(),
    "position": pl.Int32(),
}
RAW_ITEMS: schema.Schema = {
    "raw_id": pl.String(),
    "title": pl.String(),
    "description": pl.String(),
    "brand": pl.String(),
    "text": pl.String(),
    "category_paths": pl.List(pl.List(pl.String)),
    "queries": pl.List(pl.String),
}
# A fixed salt keeps the ids of two releases comparable and keeps the source's ids out of the published tables.
USER_SALT = "gemsbench user "
_KEY = ["user_id", "item_id", "task", "query"]
_SHOWN = 5


@dataclass(frozen=True)
class CanonicalTables:
    """items (n_train 0 until the split is known), queries, users, interactions (schema.INTERACTIONS without split).

    counts: the loader's funnel, then what happened here. skipped: malformed lines of the raw files, or the first of
    them; malformed: their number. n_items of queries is 0 until the split is known.
    """

    items: pl.DataFrame
    queries: pl.DataFrame
    users: pl.DataFrame
    interactions: pl.DataFrame
    counts: Mapping[str, int]
    skipped: tuple[str, ...] = ()
    malformed: int = 0


def hashed_users(users: pl.Series) -> pl.Series:
    """raw_id of each user (str): the salted sha256 of the source's id, in hexadecimal."""
    hashed = [hashlib.sha256((USER_SALT + user).encode()).hexdigest() for user in users]
    return pl.Series("raw_id", hashed, dtype=pl.String)


def canonical_tables(log: RawLog, recipe: Recipe, seed: int) -> CanonicalTables:
    """Canonical tables of a raw log; the same for every order of its rows.

    Raises InputError for a malformed log, CheckError when a pinned count of the recipe does not hold.
    """
    broken = pin_violations(log.counts, recipe)
    if broken:
        raise CheckError(f"{recipe.name}: " + " ".join(violation.message for violation in broken))
    items = _items(log.items, recipe.name)
    users = pl.DataFrame({"user": log.events["user"].cast(pl.String).unique().sort()})
    users = users.with_row_index("user_id").with_columns(pl.col("user_id").cast(pl.Int32))
    events = _encoded(log.events, items, users, recipe.name)
    events = events.with_columns(_draws(events, items, users, stream_seed(seed, recipe.name, "events")))

    counts = dict(log.counts)
    counts["canonical: events read"] = events.height
    events = events.filter((pl.col("task") == "rec") | (pl.col("query") != ""))
    counts["canonical: searches without words dropped"] = counts["canonical: events read"] - events.height
    once = _first_of_duplicates(events)
    counts["canonical: repeated (user, item, task, query) dropped"] = events.height - once.height
    events = one_search_per_pair(once, stream_seed(seed, recipe.name, "search of a pair"))
    counts["canonical: further searches of a pair dropped"] = once.height - events.height
    if recipe.split_unit == "pair":
        twins = synthetic_searches(events, items)
        counts["canonical: searches made from purchases"] = twins.height
        events = pl.concat([events, twins])
    queries = _queries(events, items)
    interactions = with_order(_with_query_ids(events, queries), recipe.time_kind)
    tables = CanonicalTables(
        _finished_items(items, queries),
        queries.pipe(schema.conform, schema.QUERIES, "queries"),
        _finished_users(users, interactions),
        interactions,
        counts,
        log.skipped,
        len(log.skipped) if log.malformed is None else log.malformed,
    )
    return CanonicalTables(**(vars(tables) | {"counts": counts | _totals(tables)}))


def _items(raw: pl.DataFrame, name: str) -> pl.DataFrame:
    items = raw.cast({c: t for c, t in RAW_ITEMS.items() if c in raw.columns})
    items = schema.conform(items, RAW_ITEMS, f"{name}: items").sort("raw_id")
    repeated = items.filter(pl.col("raw_id").is_duplicated())["raw_id"].unique().sort()
    if len(repeated):
        raise InputError(f"{name}: {len(repeated)} item ids occur twice, e.g. {', '.join(repeated[:_SHOWN])}.")
    items = items.with_columns(clean_text(items[c]) for c in ("title", "description", "brand", "text"))
    folded = pl.col("queries").list.eval(pl.element().str.strip_chars()).list.unique().list.sort()
    ids = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("item_id")
    return items.with_columns(ids, folded.list.eval(pl.element().filter(pl.element() != "")))


def _encoded(raw: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame, name: str) -> pl.DataFrame:
    raw = raw.cast({c: t for c, t in RAW_EVENTS.items() if c in raw.columns})
    events = schema.conform(raw, RAW_EVENTS, f"{name}: events")
    events = events.join(items.select("item_id", item="raw_id"), on="item", how="left")
    unknown = events.filter(pl.col("item_id").is_null())["item"].unique().sort()
    if len(unknown):
        raise InputError(
            f"{name}: {len(unknown)} items of the events are not among the items, e.g. "
            f"{', '.join(unknown[:_SHOWN])}. Add their rows or drop their events."
        )
    events = events.join(users, on="user", how="left").drop("user", "item")
    rec = pl.col("task") == "rec"
    return events.with_columns(
        query=pl.when(rec).then(pl.lit("")).otherwise(folded("query")),
        query_source=pl.when(rec).then(pl.lit("")).otherwise("query_source"),
    )


def _draws(events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame, seed: int) -> pl.Series:
    """One 64-bit number per (user, item), from their raw ids: the same in every subset and order of the log."""
    by_user, by_item = hash64_many(users["user"]), hash64_many(items["raw_id"])
    user, item = by_user[events["user_id"].to_numpy()], by_item[events["item_id"].to_numpy() - 1]
    return pl.Series("draw", mix64(seed, user, item), dtype=pl.UInt64)


def _first_of_duplicates(events: pl.DataFrame) -> pl.DataFrame:
    """The earliest event of each (user, item, task, query); logged before synthetic at the same time."""
    repeated = pl.struct(_KEY).is_duplicated()
    again = events.filter(repeated)
    order = [*_KEY, "timestamp", "query_source", "position", "pair", "group", "rating"]
    first = again.sort(order, nulls_last=True).unique(_KEY, keep="first", maintain_order=True)
    return pl.concat([events.filter(~repeated), first])


def _queries(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    asked = events.filter(pl.col("task") == "src").select("query", logged=pl.col("query_source") == "logged")
    made = items.select(query="queries").explode("query", empty_as_null=False, keep_nulls=False)
    made = made.with_columns(logged=pl.lit(False))
    both = pl.concat([asked, made], how="vertical_relaxed")
    table = both.group_by(text="query").agg(pl.col("logged").any())
    return table.sort("text").select(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("query_id"),
        "text",
        pl.lit(0, dtype=pl.Int32).alias("n_items"),
        pl.when("logged")
        .then(pl.lit("logged"))
        .otherwise(pl.lit("synthetic"))
        .cast(schema.QUERY_SOURCE)
        .alias("source"),
    )


def _with_query_ids(events: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    ids = queries.select("query_id", query="text")
    return events.join(ids, on="query", how="left").with_columns(pl.col("query_id").fill_null(0))


def _finished_items(items: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    ids = items.select("item_id", query="queries").explode("query", empty_as_null=False, keep_nulls=False)
    ids = ids.join(queries.select("query_id", query="text"), on="query", how="left")
    per_item = ids.group_by("item_id").agg(query_ids=pl.col("query_id").sort())
    return (
        items.join(per_item, on="item_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("query_ids").fill_null(pl.lit([], dtype=pl.List(pl.Int32))), n_train=pl.lit(0, dtype=pl.Int32)
        )
        .pipe(schema.conform, schema.ITEMS, "items")
    )


def _finished_users(users: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    per_task = interactions.group_by("user_id").agg(
        n_src=(pl.col("task") == "src").sum().cast(pl.Int32), n_rec=(pl.col("task") == "rec").sum().cast(pl.Int32)
    )
    return (
        users.with_columns(raw_id=hashed_users(users["user"]))
        .join(per_task, on="user_id", how="left", maintain_order="left")
        .with_columns(pl.col("n_src", "n_rec").fill_null(0))
        .pipe(schema.conform, schema.USERS, "users")
    )


def _totals(tables: CanonicalTables) -> dict[str, int]:
    searches = int((tables.interactions["task"] == "src").sum())
    return {
        "canonical: users": tables.users.height,
        "canonical: items": tables.items.height,
        "canonical: queries": tables.queries.height,
        "canonical: rec events": tables.interactions.height - searches,
        "canonical: src events": searches,
    }

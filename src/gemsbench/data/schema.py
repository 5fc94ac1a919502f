"""Columns and types of the canonical tables; every writer and reader goes through `conform`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import polars as pl

from gemsbench.errors import InputError

Schema: TypeAlias = Mapping[str, pl.DataType]

TASKS = ("rec", "src")
SPLITS = ("train", "valid", "test")
TASK = pl.Enum(TASKS)
SPLIT = pl.Enum(SPLITS)
TIME_KIND = pl.Enum(["exact", "day", "month", "none"])
QUERY_SOURCE = pl.Enum(["synthetic", "logged"])

# item_id 1..n (0 is padding and never occurs); text "" when missing, never null; n_train counts train events.
ITEMS: Schema = {
    "item_id": pl.Int32(),
    "raw_id": pl.String(),
    "title": pl.String(),
    "description": pl.String(),
    "brand": pl.String(),
    "text": pl.String(),
    "category_paths": pl.List(pl.List(pl.String)),
    "query_ids": pl.List(pl.Int32),
    "n_train": pl.Int32(),
}
# query_id 1..n; 0 means "no query". n_items counts the items that train searches or category paths lead to: nothing of
# valid and test events is in it.
QUERIES: Schema = {"query_id": pl.Int32(), "text": pl.String(), "n_items": pl.Int32(), "source": QUERY_SOURCE}
# user_id 0..n-1; raw_id is a salted sha256 of the source's id.
USERS: Schema = {"user_id": pl.Int32(), "raw_id": pl.String(), "n_src": pl.Int32(), "n_rec": pl.Int32()}
# timestamp: seconds UTC, null where time_kind is "none"; order_key: what "earlier" means (equal is not earlier).
INTERACTIONS: Schema = {
    "event_id": pl.Int64(),
    "user_id": pl.Int32(),
    "item_id": pl.Int32(),
    "task": TASK,
    "query_id": pl.Int32(),
    "timestamp": pl.Int64(),
    "time_kind": TIME_KIND,
    "order_key": pl.Int64(),
    "pair_id": pl.Int64(),
    "group_id": pl.Int64(),
    "rating": pl.Float32(),
    "split": SPLIT,
    "seq": pl.Int32(),
}
# hist_* oldest first; hist_tasks is a bitmask: 1 rec, 2 src, 3 a purchase and the search made from it.
CASES: Schema = {
    "case_id": pl.Int64(),
    "user_id": pl.Int32(),
    "task": TASK,
    "query_id": pl.Int32(),
    "target_item": pl.Int32(),
    "split": SPLIT,
    "order_key": pl.Int64(),
    "hist_items": pl.List(pl.Int32),
    "hist_tasks": pl.List(pl.Int8),
    "hist_queries": pl.List(pl.Int32),
    "hist_event_ids": pl.List(pl.Int64),
}
# items holds the positives, in an order drawn per case.
CANDIDATES: Schema = {
    "case_id": pl.Int64(),
    "items": pl.List(pl.Int32),
    "positives": pl.List(pl.Int32),
    "sampler": pl.String(),
    "seed": pl.Int64(),
}

NULLABLE = frozenset({"timestamp", "rating"})
TABLES: Mapping[str, Schema] = {
    "items": ITEMS,
    "queries": QUERIES,
    "users": USERS,
    "interactions": INTERACTIONS,
    "cases": CASES,
    "candidates": CANDIDATES,
}


def conform(table: pl.DataFrame, schema: Schema, name: str) -> pl.DataFrame:
    """Return table with exactly the schema's columns, in order; raises InputError on a missing column, type or null."""
    missing = [column for column in schema if column not in table.columns]
    if missing:
        raise InputError(f"{name}: missing columns {', '.join(missing)} (it has {', '.join(table.columns)}).")
    table = table.select(list(schema))
    wrong = [f"{c} is {table.schema[c]}, not {t}" for c, t in schema.items() if table.schema[c] != t]
    if wrong:
        raise InputError(f"{name}: wrong column types: {'; '.join(wrong)}.")
    nulls = [column for column in schema if column not in NULLABLE and table[column].null_count()]
    if nulls:
        raise InputError(f"{name}: null values in {', '.join(nulls)}.")
    return table

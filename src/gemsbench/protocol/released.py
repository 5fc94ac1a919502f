"""Canonical tables of a released recipe: what the code of arXiv 2601.09496 hands on, in the form that all else reads.

Nothing of our own rules is applied: histories may hold the target, a row may have no target or several, negatives may
be things the user touched. Every such recipe says so, and its numbers stand in a table of their own.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from gemsbench.data import schema
from gemsbench.data.canonical import RAW_ITEMS, hashed_users
from gemsbench.data.flat_lists import IntArray, gathered, list_columns
from gemsbench.data.item_text import clean_text
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.data.searches import folded
from gemsbench.errors import InputError
from gemsbench.protocol.released_candidates import Entries, Rows, released_candidates
from gemsbench.protocol.released_negatives import SHORTER, is_shorter

EXAMPLES: schema.Schema = {
    "task": schema.TASK,
    "split": schema.SPLIT,
    "user": pl.String(),
    "query": pl.String(),
    "timestamp": pl.Int64(),
    "targets": pl.List(pl.String),
    "history": pl.List(pl.String),
    "history_tasks": pl.List(pl.Int8),
}
CORPUS: schema.Schema = {"entry": pl.String(), "raw_id": pl.String(), "split": schema.SPLIT}
_SHOWN = 5


def released_tables(
    log: ReleasedLog, recipe: Recipe, seed: int, negatives: int
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """The six canonical tables (schema.TABLES) of a released log, and counts for its funnel.

    One case per example, with an unknown event (hist_event_ids -1) and no query (hist_queries 0) for each entry of its
    history, and 0 as target where a test row has none. One event per example, and per target of a test row. Raises
    InputError for a log that is not what ReleasedLog promises, or whose corpus is too small for the negatives.
    """
    items = _items(log.items, recipe.name)
    entries = _entries(log.corpus, items, recipe.name)
    users = pl.DataFrame({"user": log.examples["user"].unique().sort()})
    users = users.with_columns(user_id=pl.int_range(pl.len(), dtype=pl.Int32))
    examples = _ordered(log.examples, recipe.name)
    queries = _queries(examples, items)
    rows = _rows(examples, entries, users, queries, recipe.name)
    events = _events(rows, entries, recipe)
    users = _users(users, events)
    tables = {
        "items": _finished_items(items, queries, events),
        "queries": _finished_queries(queries, items, events),
        "users": users,
        "interactions": events,
        "cases": _cases(rows, entries, log.max_history),
        "candidates": released_candidates(rows, entries, users, seed=seed, recipe=recipe.name, negatives=negatives),
    }
    tables = {name: schema.conform(table, schema.TABLES[name], name) for name, table in tables.items()}
    return tables, _counts(tables, negatives)


def _items(raw: pl.DataFrame, name: str) -> pl.DataFrame:
    """RawLog's items with item_id, sorted by raw_id; texts cleaned, queries folded as those of the searches are."""
    items = raw.cast({c: t for c, t in RAW_ITEMS.items() if c in raw.columns})
    items = schema.conform(items, RAW_ITEMS, f"{name}: items").sort("raw_id")
    repeated = items.filter(pl.col("raw_id").is_duplicated())["raw_id"].unique().sort()
    if len(repeated):
        raise InputError(f"{name}: {len(repeated)} item ids occur twice, e.g. {', '.join(repeated[:_SHOWN])}.")
    return items.with_columns(
        *(clean_text(items[c]) for c in ("title", "description", "brand", "text")),
        item_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int32),
    )


def _entries(raw: pl.DataFrame, items: pl.DataFrame, name: str) -> Entries:
    raw = raw.cast({c: t for c, t in CORPUS.items() if c in raw.columns})
    corpus = schema.conform(raw, CORPUS, f"{name}: corpus").sort(pl.col("split").to_physical(), "entry")
    if corpus["entry"].n_unique() < corpus.height:
        raise InputError(f"{name}: an entry of the corpus occurs twice.")
    corpus = corpus.join(items.select("raw_id", "item_id"), on="raw_id", how="left", maintain_order="left")
    if corpus["item_id"].null_count():
        missing = corpus.filter(pl.col("item_id").is_null())["raw_id"]
        raise InputError(
            f"{name}: {len(missing)} entries of the corpus stand for no item, e.g. {', '.join(missing[:_SHOWN])}."
        )
    ends = np.cumsum([int((corpus["split"] == split).sum()) for split in schema.SPLITS])
    within = dict(zip(schema.SPLITS, ends.tolist(), strict=True))
    return Entries(corpus["entry"], corpus["item_id"].cast(pl.Int64).to_numpy(), within)


def _ordered(raw: pl.DataFrame, name: str) -> pl.DataFrame:
    """The examples in the order of their case ids: equal keys only where time, first target and query are equal."""
    raw = raw.cast({c: t for c, t in EXAMPLES.items() if c in raw.columns})
    examples = schema.conform(raw, EXAMPLES, f"{name}: examples")
    if examples["timestamp"].null_count():
        raise InputError(f"{name}: examples without a timestamp.")
    lengths = pl.col("history").list.len() != pl.col("history_tasks").list.len()
    if examples.filter(lengths).height:
        raise InputError(f"{name}: examples whose history and history_tasks differ in length.")
    several = (pl.col("split") != "test") & (pl.col("targets").list.len() != 1)
    if examples.filter(several).height:
        raise InputError(f"{name}: a train or valid example needs exactly one target.")
    rec = pl.col("task") == "rec"
    examples = examples.with_columns(query=pl.when(rec).then(pl.lit("")).otherwise(folded("query")))
    return examples.sort(
        pl.col("split").to_physical(),
        pl.col("task").to_physical(),
        "user",
        "timestamp",
        pl.col("targets").list.first(),
        "query",
        maintain_order=True,
    )


def _queries(examples: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """query_id, text, source: what is asked, and the items' own queries, which make a text synthetic."""
    made = items.select(text="queries").explode("text", empty_as_null=False, keep_nulls=False)
    made = made.with_columns(folded("text"), logged=pl.lit(False))
    asked = examples.select(text="query").with_columns(logged=pl.lit(True))
    table = pl.concat([asked, made]).filter(pl.col("text") != "").group_by("text").agg(pl.col("logged").all())
    kind = pl.when("logged").then(pl.lit("logged")).otherwise(pl.lit("synthetic")).cast(schema.QUERY_SOURCE)
    return table.sort("text").select(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("query_id"), "text", source=kind
    )


def _rows(examples: pl.DataFrame, entries: Entries, users: pl.DataFrame, queries: pl.DataFrame, name: str) -> Rows:
    table = (
        examples.select("user", "task", "split", "query", order_key="timestamp")
        .join(users, on="user", how="left", maintain_order="left")
        .join(queries.select("query_id", query="text"), on="query", how="left", maintain_order="left")
        .with_columns(pl.col("query_id").fill_null(0), case_id=pl.int_range(pl.len(), dtype=pl.Int64))
    )
    kind = pl.Enum(entries.names)
    tasks = examples["history_tasks"].list.explode(empty_as_null=False)
    targets, target_offsets = _numbers(examples["targets"], kind, name)
    history, history_offsets = _numbers(examples["history"], kind, name)
    return Rows(
        table.select("case_id", "user_id", "task", "query_id", "split", "order_key"),
        targets,
        target_offsets,
        history,
        tasks.cast(pl.Int64).to_numpy(),
        history_offsets,
    )


def _numbers(lists: pl.Series, kind: pl.Enum, name: str) -> tuple[IntArray, IntArray]:
    """Flat entry numbers and offsets of a column of entry lists."""
    flat = lists.list.explode(empty_as_null=False)
    numbers = flat.cast(kind, strict=False)
    if numbers.null_count():
        unknown = flat.filter(numbers.is_null()).unique().sort()
        raise InputError(
            f"{name}: {len(unknown)} entries of the examples are not in the corpus, e.g. "
            f"{', '.join(map(str, unknown[:_SHOWN]))}."
        )
    offsets = np.concatenate([[0], np.cumsum(lists.list.len().cast(pl.Int64).to_numpy())])
    return numbers.to_physical().cast(pl.Int64).to_numpy(), offsets


def _events(rows: Rows, entries: Entries, recipe: Recipe) -> pl.DataFrame:
    """schema.INTERACTIONS: an event per target, sorted by user and time; targets of one row are one group."""
    lengths = np.diff(rows.target_offsets)
    events = rows.table[np.repeat(np.arange(len(lengths)), lengths)].with_columns(
        item_id=pl.Series(entries.item[rows.targets], dtype=pl.Int32),
        several=pl.Series(np.repeat(lengths, lengths) > 1, dtype=pl.Boolean),
        time_kind=pl.col("task").cast(pl.String).replace_strict(dict(recipe.time_kind), return_dtype=schema.TIME_KIND),
    )
    events = events.sort("user_id", "order_key", "case_id", maintain_order=True).with_columns(
        event_id=pl.int_range(pl.len(), dtype=pl.Int64), seq=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    )
    events = events.with_columns(
        timestamp="order_key",
        pair_id="event_id",
        group_id=pl.when("several").then(pl.col("event_id").min().over("case_id")).otherwise(-1),
        rating=pl.lit(None, dtype=pl.Float32),
    )
    return schema.conform(events, schema.INTERACTIONS, "interactions")


def _cases(rows: Rows, entries: Entries, max_history: int) -> pl.DataFrame:
    lengths = np.diff(rows.history_offsets)
    shown = np.minimum(lengths, max_history) if max_history else lengths
    at = gathered(rows.history_offsets[1:] - shown, shown)
    lists = list_columns(
        {
            "hist_items": pl.Series(entries.item[rows.history[at]], dtype=pl.Int32),
            "hist_tasks": pl.Series(rows.history_tasks[at], dtype=pl.Int8),
            "hist_queries": pl.zeros(len(at), dtype=pl.Int32, eager=True),
            "hist_event_ids": pl.repeat(-1, len(at), dtype=pl.Int64, eager=True),
        },
        shown,
    )
    n_targets = np.diff(rows.target_offsets)
    target = np.zeros(len(n_targets), dtype=np.int32)
    target[n_targets > 0] = entries.item[rows.targets[rows.target_offsets[:-1][n_targets > 0]]]
    return pl.concat([rows.table.with_columns(target_item=pl.Series(target)), lists], how="horizontal")


def _users(users: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    per_task = events.group_by("user_id").agg(
        *((pl.col("task") == task).sum().cast(pl.Int32).alias(f"n_{task}") for task in schema.TASKS)
    )
    users = users.with_columns(raw_id=hashed_users(users["user"]))
    users = users.join(per_task, on="user_id", how="left", maintain_order="left")
    return schema.conform(users.with_columns(pl.col("n_src", "n_rec").fill_null(0)), schema.USERS, "users")


def _finished_items(items: pl.DataFrame, queries: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    made = _made_queries(items).join(queries.select("query_id", query="text"), on="query")
    per_item = made.group_by("item_id").agg(query_ids=pl.col("query_id").unique().sort())
    train = events.filter(pl.col("split") == "train").group_by("item_id").agg(n_train=pl.len().cast(pl.Int32))
    return (
        items.join(per_item, on="item_id", how="left", maintain_order="left")
        .join(train, on="item_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("query_ids").fill_null(pl.lit([], dtype=pl.List(pl.Int32))), pl.col("n_train").fill_null(0)
        )
    )


def _finished_queries(queries: pl.DataFrame, items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    searched = events.filter(pl.col("split") == "train", pl.col("query_id") > 0).select("query_id", "item_id")
    made = _made_queries(items).join(queries.select("query_id", query="text"), on="query")
    pairs = pl.concat([searched, made.select("query_id", "item_id")]).unique()
    counted = pairs.group_by("query_id").agg(n_items=pl.len().cast(pl.Int32))
    joined = queries.join(counted, on="query_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("n_items").fill_null(0))


def _made_queries(items: pl.DataFrame) -> pl.DataFrame:
    made = items.select("item_id", query="queries").explode("query", empty_as_null=False, keep_nulls=False)
    return made.with_columns(folded("query")).filter(pl.col("query") != "")


def _counts(tables: dict[str, pl.DataFrame], negatives: int) -> dict[str, int]:
    cases = tables["cases"]
    return {
        "released: cases": cases.height,
        "released: test cases without a target": cases.filter(pl.col("target_item") == 0).height,
        "released: cases with an empty history": cases.filter(pl.col("hist_items").list.len() == 0).height,
        SHORTER: tables["candidates"].filter(is_shorter(negatives)).height,
    }

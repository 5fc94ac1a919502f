"""Leave-one-out: which events are asked about, which may be learned from.

Unit "pair" (searches made from purchases): a purchase and its search share a pair_id and are held out of both tasks
together. Unit "task" (independent behaviours): per user and task; a request (group_id) is one unit, because its
clicks share the query and the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from gemsbench.data import schema
from gemsbench.errors import InputError

MIN_UNITS = 3  # one to test, one to validate, one to learn from


@dataclass(frozen=True)
class Split:
    """Interactions with their split (schema.INTERACTIONS), and what the split did, stage -> count."""

    interactions: pl.DataFrame
    counts: Mapping[str, int]


def split_interactions(events: pl.DataFrame, unit: Literal["pair", "task"], *, both_behaviours: bool) -> Split:
    """Give every event its split; drop events that would give a held-out event away.

    events: the columns of schema.INTERACTIONS except split. Within a user (pair) or a user's task (task) the last unit
    is test, the last but one valid, the rest train; fewer than three units are all train.
    Dropped: train events whose pair_id or (user, item) is held out, valid events whose pair_id or (user, item) is test
    in any task; events later than one that is held out after them (a search logged long after its purchase), so that
    train <= valid <= test in order_key per user and task.
    Users left without a train event (of each task if both_behaviours) keep all their events as train: they are
    learned from and never asked.
    """
    events = events.sort("user_id", "order_key", "seq")
    marked = _mark_pairs(events) if unit == "pair" else _mark_tasks(events)
    marked = _with_drop_reason(marked)
    unasked = _users_below(marked.filter(pl.col("reason") == ""), both_behaviours)
    marked = marked.with_columns(restored=pl.col("user_id").is_in(unasked.implode())).with_columns(
        split=pl.when("restored").then(pl.lit("train")).otherwise("split").cast(schema.SPLIT),
        reason=pl.when("restored").then(pl.lit("")).otherwise("reason"),
    )
    reasons = marked["reason"]
    asked = marked.filter((pl.col("split") == "test") & (reasons == ""))["user_id"].n_unique()
    counts = {
        "events dropped: their pair or (user, item) is held out": int((reasons == "held out").sum()),
        "events dropped: later than a held-out event": int((reasons == "late").sum()),
        "users with too few training events (never asked)": unasked.len(),
        "users without a held-out event": marked["user_id"].n_unique() - asked,
        "rec events kept": int(((reasons == "") & (marked["task"] == "rec")).sum()),
        "src events kept": int(((reasons == "") & (marked["task"] == "src")).sum()),
    }
    kept = marked.filter(reasons == "")
    if _distinct_pairs(kept) != _distinct_pairs(events):
        raise InputError("pairs: one pair holds several items. Give a purchase and its search a pair of their own.")
    return Split(_renumber(kept), counts)


def is_target() -> pl.Expr:
    """True for the events that are asked: every train event; of the held-out ones the last per user, task and split.

    Other clicks of a held-out request carry its split too: nobody learns from them and they are never negatives.
    """
    last = pl.col("seq") == pl.col("seq").max().over("user_id", "task", "split")
    return (pl.col("split") == "train") | last


def _distinct_pairs(events: pl.DataFrame) -> int:
    """Number of distinct (user, item)."""
    key = events["user_id"].cast(pl.Int64) * 2**32 + events["item_id"].cast(pl.Int64)
    return key.n_unique()


def _mark_pairs(events: pl.DataFrame) -> pl.DataFrame:
    # A pair stands where its first event stands: a search logged later does not move the purchase.
    keys = ["user_id", "pair_id"]
    pairs = events.group_by(keys, maintain_order=True).agg(pl.col("order_key", "seq").first())
    pairs = pairs.sort("user_id", "order_key", "seq").with_columns(_leave_one_out("user_id"))
    return events.join(pairs.select(*keys, "split"), on=keys, how="left", maintain_order="left")


def _mark_tasks(events: pl.DataFrame) -> pl.DataFrame:
    alone = pl.col("group_id") < 0
    # Groups and single events must not share a number: even for groups, odd for events.
    numbered = events.with_row_index("row").with_columns(
        unit=pl.when(alone).then(pl.col("row").cast(pl.Int64) * 2 + 1).otherwise(pl.col("group_id") * 2)
    )
    keys = ["user_id", "task", "unit"]
    units = numbered.group_by(keys, maintain_order=True).agg(pl.col("order_key", "seq").last())
    units = units.sort("user_id", "task", "order_key", "seq").with_columns(_leave_one_out("user_id", "task"))
    return numbered.join(units.select(*keys, "split"), on=keys, how="left", maintain_order="left").drop("row", "unit")


def _leave_one_out(*keys: str) -> pl.Expr:
    from_last = pl.int_range(pl.len(), 0, -1).over(keys)
    split = (
        pl.when(pl.len().over(keys) < MIN_UNITS)
        .then(pl.lit("train"))
        .when(from_last == 1)
        .then(pl.lit("test"))
        .when(from_last == 2)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    return split.cast(schema.SPLIT).alias("split")


def _with_drop_reason(marked: pl.DataFrame) -> pl.DataFrame:
    """Add `reason`: "held out", "late", or "" for events that stay."""
    train, valid, test = (pl.col("split") == split for split in schema.SPLITS)
    task = ["user_id", "task"]
    marked = _with_told(marked)
    # Null (nothing held out after the event) compares as null, which `when` takes as false.
    test_key = pl.col("order_key").filter(test).max().over(task)
    late_valid = valid & (pl.col("order_key") > pl.col("test_key"))
    valid_key = pl.col("order_key").filter(valid & (pl.col("reason") == "")).max().over(task)
    late_train = train & (pl.col("order_key") > pl.min_horizontal("valid_key", "test_key"))
    return (
        marked.with_columns(test_key=test_key)
        .with_columns(
            reason=pl.when("told").then(pl.lit("held out")).when(late_valid).then(pl.lit("late")).otherwise(pl.lit(""))
        )
        .with_columns(valid_key=valid_key)
        .with_columns(
            reason=pl.when((pl.col("reason") == "") & late_train).then(pl.lit("late")).otherwise(pl.col("reason"))
        )
        .drop("test_key", "valid_key", "told")
    )


def _with_told(marked: pl.DataFrame) -> pl.DataFrame:
    """Add `told`: the event would give a held-out one away; free the rest of a request whose end is told for training.

    A request may span time. Without its last click it would stand before training events, and these would count as
    late although the user is not asked about anything before them.
    """
    train, valid, test = (pl.col("split") == split for split in schema.SPLITS)
    task, told = ["user_id", "task"], pl.col("told")
    marked = marked.with_columns(from_held_out=_known_from(marked, ~train), from_test=_known_from(marked, test))
    marked = marked.with_columns(told=(train & pl.col("from_held_out")) | (valid & pl.col("from_test")))
    marked = marked.drop("from_held_out", "from_test")
    last_valid = pl.col("order_key").filter(valid & ~told).max().over(task)
    last_train = pl.col("order_key").filter(train & ~told).max().over(task)
    cut = valid & ~told & (valid & told).any().over(task) & (last_train > last_valid).fill_null(False)
    return marked.with_columns(split=pl.when(cut).then(pl.lit("train")).otherwise("split").cast(schema.SPLIT))


def _known_from(marked: pl.DataFrame, rows: pl.Expr) -> pl.Series:
    """True where one of the rows has this event's pair or its user and item; a window over all events takes longer."""
    pair, item = (_has_key_of(marked, marked.filter(rows), ["user_id", key]) for key in ("pair_id", "item_id"))
    return pair | item


def _has_key_of(marked: pl.DataFrame, rows: pl.DataFrame, key: list[str]) -> pl.Series:
    hit = rows.select(key).unique().with_columns(hit=pl.lit(True))
    return marked.select(key).join(hit, on=key, how="left", maintain_order="left")["hit"].fill_null(False)


def _users_below(kept: pl.DataFrame, both_behaviours: bool) -> pl.Series:
    train = pl.col("split") == "train"
    enough = (train & (pl.col("task") == "rec")).any() & (train & (pl.col("task") == "src")).any()
    if not both_behaviours:
        enough = train.any()
    return kept.group_by("user_id").agg(enough=enough).filter(~pl.col("enough"))["user_id"]


def _renumber(kept: pl.DataFrame) -> pl.DataFrame:
    return (
        kept.sort("user_id", "order_key", "seq")
        .with_columns(
            event_id=pl.int_range(pl.len(), dtype=pl.Int64),
            seq=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"),
        )
        .pipe(schema.conform, schema.INTERACTIONS, "interactions")
    )

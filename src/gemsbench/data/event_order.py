"""What "earlier" means: the order key of every event, and its place in the user's total order."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from gemsbench.data import schema

# A day or month time is its first second: what happened then lies anywhere in the seconds that follow.
RESOLUTION: Mapping[str, int] = {"exact": 0, "day": 86_400, "month": 31 * 86_400, "none": 0}
_COLUMNS = {column: kind for column, kind in schema.INTERACTIONS.items() if column != "split"}


def with_order(events: pl.DataFrame, time_kind: Mapping[str, str]) -> pl.DataFrame:
    """Return interactions (schema.INTERACTIONS without split), sorted by user and total order.

    events: user_id, item_id, task, query_id, timestamp, pair, group, rating, position, draw (uint64 of user and item).
    order_key is the timestamp; in a log without any time, a seeded hash rank (of draw, among the user's events). Where
    only some events have a time, a rank would put all others before every time, so these get a pseudo-time instead:
    drawn uniformly between the user's first time and the end of the last (of the log's times for a user without any).
    It is later than the user's first time, so that there is always something earlier.
    """
    timed = pl.col("timestamp").is_not_null()
    kind = pl.col("task").cast(pl.String).replace_strict(dict(time_kind), return_dtype=pl.String)
    events = events.with_columns(
        time_kind=pl.when(timed).then(kind).otherwise(pl.lit("none")).cast(schema.TIME_KIND),
        order_key=_order_key(events, max(RESOLUTION[name] for name in time_kind.values())),
    )
    events = _sorted(events)
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    events = events.with_columns(event_id=number, seq=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"))
    return events.with_columns(
        pair_id=_first_event(events, "pair"),
        group_id=pl.when(pl.col("group") == "").then(-1).otherwise(_first_event(events, "group")),
    ).pipe(schema.conform, _COLUMNS, "interactions")


def _sorted(events: pl.DataFrame) -> pl.DataFrame:
    """Every event has its own place: pairs and ratings, slow to sort by, only break what hashes leave equal."""
    keys = ["user_id", "order_key", "position", "draw", "item_id", "task", "query_id"]
    ordered = events.sort(keys)
    if ordered.select(pl.all_horizontal(pl.col(key) == pl.col(key).shift(1) for key in keys).any()).item():
        ordered = events.sort(*keys, "pair", "rating")
    return ordered


def _first_event(events: pl.DataFrame, key: str) -> pl.Series:
    """The smallest event_id of each event's user and key (text)."""
    if (events[key] == "").all():
        key = "user_id"  # one group per user, which takes no hashing of millions of texts
    return events.select(pl.col("event_id").min().over(*dict.fromkeys(("user_id", key)))).to_series()


def _order_key(events: pl.DataFrame, resolution: int) -> pl.Expr:
    if events["timestamp"].null_count() == events.height:
        return pl.col("draw").rank("dense").over("user_id").cast(pl.Int64)
    time = pl.col("timestamp")
    first = pl.coalesce(time.min().over("user_id"), time.min())
    end = pl.coalesce(time.max().over("user_id"), time.max()) + resolution
    # 53 bits: what a float64 holds exactly.
    part = (pl.col("draw") // 2**11).cast(pl.Float64) / 2.0**53
    return pl.coalesce(time, first + 1 + ((end - first - 1).clip(0).cast(pl.Float64) * part).floor().cast(pl.Int64))

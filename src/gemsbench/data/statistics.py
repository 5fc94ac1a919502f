"""What stats.json says of a prepared recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from gemsbench.data.invariants import filled
from gemsbench.data.item_text import UNKNOWN_ITEM

SKIPPED_SHOWN = 20
_DESCRIPTIONS = ("title", "description", "brand", "category_paths")


def table_statistics(
    tables: Mapping[str, pl.DataFrame],
    counts: Mapping[str, int] | None = None,
    skipped: Sequence[str] = (),
    malformed: int | None = None,
) -> dict[str, Any]:
    """Sizes, densities (percent of users x items), shares (0..1) and the funnel of the canonical tables.

    tables: items, queries, users, interactions. counts, skipped, malformed: those of CanonicalTables. stages: the keys
    of the funnel in their order, which a JSON file with sorted keys loses. item_share: of items with a value in the
    column; text: of those whose text is more than the words for an item without any.
    """
    items, events = tables["items"], tables["interactions"]
    users = tables["users"].height
    inter = {task: int((events["task"] == task).sum()) for task in ("rec", "src")}
    cells = users * items.height
    has = {column.removesuffix("_paths"): filled(column) for column in _DESCRIPTIONS}
    has["text"] = filled("text") & (pl.col("text") != UNKNOWN_ITEM)
    shares = items.select(value.mean().fill_null(0.0).alias(name) for name, value in has.items())
    return {
        "users": users,
        "items": items.height,
        "queries": tables["queries"].height,
        **{f"inter_{task}": number for task, number in inter.items()},
        **{f"density_{task}": 100.0 * number / cells if cells else 0.0 for task, number in inter.items()},
        "item_share": {name: float(shares[name][0]) for name in shares.columns},
        "ties": {task: _tied_share(events.filter(pl.col("task") == task)) for task in ("rec", "src")},
        "funnel": dict(counts or {}),
        "stages": list(counts or {}),
        "skipped": {"lines": len(skipped) if malformed is None else malformed, "first": list(skipped[:SKIPPED_SHOWN])},
    }


def _tied_share(events: pl.DataFrame) -> float:
    """Share of a task's events with a time that another event of the user and task has too."""
    timed = events.filter(pl.col("timestamp").is_not_null())
    tied = timed.select(pl.struct("user_id", "timestamp").is_duplicated().mean()).item()
    return float(tied or 0.0)

"""The figures of stats.json on a table small enough to count by hand."""

from __future__ import annotations

from collections.abc import Callable

from gemsbench.data.canonical import canonical_tables
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.statistics import SKIPPED_SHOWN, table_statistics


def test_figures(build_log: Callable[..., RawLog], build_recipe: Callable[..., Recipe]) -> None:
    events = [
        {"user": "a", "item": "x", "timestamp": 1},
        {"user": "a", "item": "y", "timestamp": 1},
        {"user": "a", "item": "z", "timestamp": 2},
        {"user": "b", "item": "x", "timestamp": 1},
    ]
    items = [
        {"raw_id": "x", "queries": ["q"], "category_paths": [["c", "d"]]},
        {"raw_id": "y", "description": "d"},
        {"raw_id": "z", "title": "", "text": UNKNOWN_ITEM},
        {"raw_id": "w", "brand": "b"},
    ]
    made = canonical_tables(build_log(events, items), build_recipe(), 1)
    tables = {name: getattr(made, name) for name in ("items", "queries", "users", "interactions")}
    skipped = [f"f:{n}: bad" for n in range(25)]
    assert (
        table_statistics(tables, {"read": 4, "kept": 3}, skipped)
        == {
            "users": 2,
            "items": 4,
            "queries": 1,
            "inter_rec": 4,
            "inter_src": 2,
            "density_rec": 50.0,  # 4 of 8 cells
            "density_src": 25.0,
            "item_share": {"title": 0.75, "description": 0.25, "brand": 0.25, "category": 0.25, "text": 0.75},
            "ties": {"rec": 0.5, "src": 0.0},
            "funnel": {"read": 4, "kept": 3},
            "stages": ["read", "kept"],
            "skipped": {"lines": 25, "first": skipped[:SKIPPED_SHOWN]},
        }
    )
    capped = table_statistics(tables, {}, skipped, malformed=9_000)["skipped"]
    assert capped == {"lines": 9_000, "first": skipped[:20]}

"""Small raw logs and recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from gemsbench.data.canonical import RAW_EVENTS, RAW_ITEMS
from gemsbench.data.recipe import RawLog, Recipe

EVENT_DEFAULTS = {
    "task": "rec",
    "query": "",
    "query_source": "",
    "timestamp": None,
    "pair": "",
    "group": "",
    "rating": None,
    "position": 0,
}
ITEM_DEFAULTS = {"description": "", "brand": "", "category_paths": [], "queries": []}


def raw_log(events: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]) -> RawLog:
    """A RawLog of rows with defaults: pair is (user, item), title and text are the item's id."""
    event_rows = [{**EVENT_DEFAULTS, "pair": f"{row['user']} {row['item']}", **row} for row in events]
    item_rows = [{"title": row["raw_id"], "text": row["raw_id"], **ITEM_DEFAULTS, **row} for row in items]
    return RawLog(pl.DataFrame(event_rows, schema=RAW_EVENTS), pl.DataFrame(item_rows, schema=RAW_ITEMS), {})


@pytest.fixture(scope="session")
def build_log() -> Callable[..., RawLog]:
    """raw_log, as a fixture: test files cannot import each other."""
    return raw_log


def plain_recipe(**fields: Any) -> Recipe:
    """A recipe without raw files; split by purchase unless said otherwise."""
    values: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "settings": object,
        "load": lambda folder, settings: None,
        "split_unit": "pair",
        "time_kind": {"rec": "exact", "src": "exact"},
        "licence": "",
        "citation": "",
    }
    return Recipe(**(values | fields))


@pytest.fixture(scope="session")
def build_recipe() -> Callable[..., Recipe]:
    """plain_recipe, as a fixture."""
    return plain_recipe

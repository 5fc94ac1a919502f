"""Users with one behaviour only leave; the others keep their order, events and raw ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data.canonical import canonical_tables
from gemsbench.protocol.both_behaviours import users_with_both


def test_only_users_with_both_stay(recipe: Callable[..., Any]) -> None:
    made = recipe("task")
    tables = canonical_tables(made.load(Path("unread"), made.settings()), made, 3)
    kinds = tables.interactions.group_by("user_id").agg(pl.col("task").n_unique()).filter(pl.col("task") == 2)
    kept = users_with_both(tables)
    assert 0 < kept.users.height == kinds.height < tables.users.height
    assert kept.users["user_id"].to_list() == list(range(kept.users.height))
    assert kept.counts["users with one behaviour only (removed)"] == tables.users.height - kept.users.height

    def events_by_raw_id(of: Any) -> set[tuple[Any, ...]]:
        joined = of.interactions.join(of.users, on="user_id")
        return set(joined.select("raw_id", "item_id", "task", "order_key", "query_id").rows())

    before = tables.users.join(kinds, on="user_id", how="semi")["raw_id"].to_list()
    assert kept.users["raw_id"].to_list() == before
    assert events_by_raw_id(kept) == {row for row in events_by_raw_id(tables) if row[0] in set(before)}

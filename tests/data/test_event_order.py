"""Places of events and names of their pairs and groups, whatever order the rows came in."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.event_order import with_order

EXACT = {"rec": "exact", "src": "exact"}


def events(*rows: dict[str, Any]) -> pl.DataFrame:
    """Events with all that with_order needs; equal but for what is said."""
    plain = {"user_id": 0, "item_id": 1, "task": "rec", "query_id": 0, "timestamp": 5, "pair": "a", "group": ""}
    kinds = {
        **{"user_id": pl.Int32, "item_id": pl.Int32, "task": schema.TASK, "query_id": pl.Int32, "timestamp": pl.Int64},
        **{"pair": pl.String, "group": pl.String, "rating": pl.Float32, "position": pl.Int32, "draw": pl.UInt64},
    }
    return pl.DataFrame([plain | {"rating": 1.0, "position": 0, "draw": 7} | row for row in rows], schema=kinds)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_and_ratings_order_what_everything_else_leaves_equal(seed: int) -> None:
    rows = [{"pair": pair, "rating": rating} for pair in "abc" for rating in (1.0, 2.0)]
    mixed = events(*rows).sample(fraction=1.0, shuffle=True, seed=seed)
    ordered = with_order(mixed, EXACT)
    assert ordered["rating"].to_list() == [1.0, 2.0] * 3
    assert ordered["pair_id"].to_list() == [0, 0, 2, 2, 4, 4]
    assert ordered["seq"].to_list() == ordered["event_id"].to_list() == list(range(6))


def test_a_pair_and_a_group_are_named_after_their_first_event_per_user() -> None:
    rows = [
        {"user_id": user, "timestamp": time, "pair": pair, "group": group}
        for user in (0, 1)
        for time, pair, group in ((1, "x", "g"), (2, "y", ""), (3, "x", "g"), (4, "y", "h"))
    ]
    ordered = with_order(events(*rows), EXACT)
    assert ordered["pair_id"].to_list() == [0, 1, 0, 1, 4, 5, 4, 5]
    assert ordered["group_id"].to_list() == [0, -1, 0, 3, 4, -1, 4, 7]


def test_a_log_without_groups_has_none() -> None:
    assert with_order(events({"timestamp": 1}, {"timestamp": 2}), EXACT)["group_id"].to_list() == [-1, -1]

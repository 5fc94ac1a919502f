"""Histories against a slow reference that reads the rules word by word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl
import pytest

from gemsbench.protocol import histories
from gemsbench.protocol.histories import build_cases
from gemsbench.protocol.splits import is_target, split_interactions

Make = Callable[..., Any]
Entry = tuple[int, int, int, int]  # item, tasks, query, event


def reference(events: pl.DataFrame, length: int) -> dict[tuple[Any, ...], list[Entry]]:
    """History of every target, by (user, task, split, order_key, item)."""
    by_user: dict[int, list[dict[str, Any]]] = {}
    for event in events.sort("user_id", "seq").iter_rows(named=True):
        by_user.setdefault(event["user_id"], []).append(event)
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for target in events.filter(is_target()).iter_rows(named=True):
        allowed = {"train"} if target["split"] != "test" else {"train", "valid"}
        visible = [
            event
            for event in by_user[target["user_id"]]
            if event["split"] in allowed
            and event["order_key"] < target["order_key"]
            and event["item_id"] != target["item_id"]
            and event["pair_id"] != target["pair_id"]
            and not (target["group_id"] >= 0 and event["group_id"] == target["group_id"])
        ]
        pairs: dict[int, list[dict[str, Any]]] = {}
        for event in visible:
            pairs.setdefault(event["pair_id"], []).append(event)
        entries = []
        for twins in sorted(pairs.values(), key=lambda twins: twins[-1]["seq"]):
            tasks = sum({1 if event["task"] == "rec" else 2 for event in twins})
            query = next((event["query_id"] for event in reversed(twins) if event["query_id"]), 0)
            entries.append((twins[-1]["item_id"], tasks, query, twins[-1]["event_id"]))
        if entries or target["task"] == "src":
            key = tuple(target[name] for name in ("user_id", "task", "split", "order_key", "item_id"))
            found[key] = entries[-length:]
    return found


def as_entries(cases: pl.DataFrame) -> dict[tuple[Any, ...], list[Entry]]:
    """The same from a cases table."""
    return {
        (c["user_id"], c["task"], c["split"], c["order_key"], c["target_item"]): list(
            zip(c["hist_items"], c["hist_tasks"], c["hist_queries"], c["hist_event_ids"], strict=True)
        )
        for c in cases.iter_rows(named=True)
    }


def blurred_pairs(events: pl.DataFrame) -> pl.DataFrame:
    """Merge purchases of neighbouring items into pairs of several items, spread over time and baskets."""
    return events.with_columns(pair_id=pl.col("item_id").cast(pl.Int64) // 3, item_id=pl.col("item_id") // 2 + 1)


@pytest.mark.parametrize("length", [1, 4, 50])
@pytest.mark.parametrize("seed", range(3))
def test_histories_equal_the_slow_reference(world: Make, unit: Literal["pair", "task"], seed: int, length: int) -> None:
    events = world(unit, seed=seed, late_searches=True).events
    split = split_interactions(events, unit, both_behaviours=True).interactions
    cases = build_cases(split, length)
    assert as_entries(cases) == reference(split, length)
    assert cases.height > 100


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_many_events_are_one_entry(world: Make, seed: int) -> None:
    """Events of one pair at several times, some inside the target's basket."""
    made = world("pair", seed=seed, late_searches=True)
    events = made.with_events(blurred_pairs(made.events)).events
    # One event per user, item, task and time, so that the reference can name every target.
    events = events.unique(["user_id", "item_id", "task", "order_key"], maintain_order=True)
    split = events.with_columns(split=pl.lit("train")).cast({"split": pl.Enum(["train", "valid", "test"])})
    split = split.with_columns(event_id=pl.int_range(pl.len(), dtype=pl.Int64))
    found = as_entries(build_cases(split, 5))
    expected = reference(split, 5)
    assert found == expected
    assert any(entry[1] == 3 for entries in found.values() for entry in entries)


def test_small_blocks_give_the_same_histories(
    world: Make, unit: Literal["pair", "task"], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = split_interactions(world(unit).events, unit, both_behaviours=True).interactions
    whole = build_cases(events, 3)
    monkeypatch.setattr(histories, "CHUNK", 7)
    monkeypatch.setattr(histories, "CELLS", 20)
    assert build_cases(events, 3).equals(whole)


def test_rows_in_another_order_give_the_same_cases(world: Make) -> None:
    events = split_interactions(world().events, "pair", both_behaviours=True).interactions
    assert build_cases(events.sample(fraction=1.0, shuffle=True, seed=1), 4).equals(build_cases(events, 4))


def test_what_a_user_did_at_the_same_time_is_not_earlier(world: Make) -> None:
    table = pl.DataFrame(
        {
            "user_id": 0,
            "item_id": [1, 1, 2, 3, 3],
            "order_key": [1, 1, 2, 2, 2],
            "task": ["rec", "src", "rec", "rec", "src"],
            "query_id": [0, 4, 0, 0, 5],
            "pair_id": [1, 1, 2, 3, 3],
            "group_id": -1,
        }
    )
    events = world(n_users=1).with_events(table).events
    cases = build_cases(split_interactions(events, "pair", both_behaviours=True).interactions, 5)
    found = as_entries(cases)
    # One entry for the purchase and its search; nothing of time 2 sees anything else of time 2.
    first = [(1, 3, 4, 1)]
    assert found[0, "rec", "valid", 2, 2] == first or found[0, "rec", "test", 2, 2] == first
    assert all(entries in ([], first) for entries in found.values())


def test_a_long_history_of_one_item_is_searched_to_its_start(world: Make) -> None:
    """500 repeats of the target before it: the two entries that count lie far back."""
    items = [7, 8, *([9] * 500)]
    table = pl.DataFrame({"item_id": items, "order_key": range(len(items)), "pair_id": range(len(items))})
    table = table.with_columns(user_id=pl.lit(0), task=pl.lit("rec"), query_id=pl.lit(0), group_id=pl.lit(-1))
    events = world(n_users=1).with_events(table).events.with_columns(split=pl.lit("train"))
    cases = build_cases(events.cast({"split": pl.Enum(["train", "valid", "test"])}), 2)
    last = cases.sort("order_key").row(-1, named=True)
    assert last["target_item"] == 9
    assert last["hist_items"] == [7, 8]


def test_case_ids_number_the_cases_in_a_fixed_order(world: Make) -> None:
    cases = world().tables()["cases"]
    assert cases["case_id"].to_list() == list(range(cases.height))
    assert cases["split"].unique(maintain_order=True).to_list() == ["train", "valid", "test"]


def test_a_recommendation_case_has_a_history(world: Make, unit: Literal["pair", "task"]) -> None:
    cases = world(unit).tables()["cases"]
    empty = cases.filter(pl.col("hist_items").list.len() == 0)
    assert set(empty["task"].to_list()) == {"src"}

"""Leave-one-out: what is held out, what is dropped, who is never asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.protocol.splits import is_target, split_interactions

Make = Callable[..., Any]
HELD_OUT = pl.col("split") != "train"


def rows(world: Make, events: list[tuple[int, int, str, int, int, int]]) -> pl.DataFrame:
    """Events of user 0 from (item, key, task, query, pair, group)."""
    table = pl.DataFrame(
        events, schema=["item_id", "order_key", "task", "query_id", "pair_id", "group_id"], orient="row"
    )
    return world(n_users=1).with_events(table.with_columns(user_id=pl.lit(0))).events


def splits_of(events: pl.DataFrame, unit: Literal["pair", "task"], both: bool = True) -> list[tuple[int, str, str]]:
    kept = split_interactions(events, unit, both_behaviours=both).interactions
    return sorted(kept.select("item_id", "task", "split").rows())


def test_a_held_out_purchase_is_held_out_of_both_tasks(world: Make) -> None:
    events = rows(
        world,
        [(item, item, task, query, item, -1) for item in (1, 2, 3, 4) for task, query in (("rec", 0), ("src", 1))],
    )
    split = {1: "train", 2: "train", 3: "valid", 4: "test"}
    assert splits_of(events, "pair") == sorted((i, task, split[i]) for i in split for task in ("rec", "src"))


def test_the_task_without_a_query_on_the_last_purchase_has_no_test_event(world: Make) -> None:
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),
            *((item, item, "src", 1, item, -1) for item in (1, 2, 3)),
        ],
    )
    assert (4, "src", "test") not in splits_of(events, "pair")
    assert (3, "src", "valid") in splits_of(events, "pair")
    assert (4, "rec", "test") in splits_of(events, "pair")


def test_a_search_logged_long_after_its_purchase_is_dropped(world: Make) -> None:
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),
            *((item, item, "src", 1, item, -1) for item in (2, 3, 4)),
            (1, 9, "src", 1, 1, -1),
        ],
    )
    found = splits_of(events, "pair")
    assert (1, "src", "train") not in found
    assert (1, "rec", "train") in found
    assert (4, "rec", "test") in found


def test_per_task_the_last_two_requests_are_held_out_whole(world: Make) -> None:
    clicks = [(1, 1, 10), (2, 2, 20), (3, 3, 30), (4, 3, 30), (5, 4, 40), (6, 4, 40)]
    events = rows(
        world,
        [
            *((item, key, "src", group, 100 + item, group) for item, key, group in clicks),
            *((item, item, "rec", 0, 200 + item, -1) for item in (11, 12, 13)),
        ],
    )
    split = {1: "train", 2: "train", 3: "valid", 4: "valid", 5: "test", 6: "test"}
    found = splits_of(events, "task")
    assert [row for row in found if row[1] == "src"] == sorted((i, "src", split[i]) for i in split)
    assert [row[2] for row in found if row[1] == "rec"] == ["train", "valid", "test"]
    kept = split_interactions(events, "task", both_behaviours=True).interactions
    asked = kept.filter(is_target(), HELD_OUT, pl.col("task") == "src")
    assert asked.sort("order_key")["item_id"].to_list() == [4, 6]


def test_a_request_of_several_times_stands_where_its_last_click_stands(world: Make) -> None:
    clicks = [(1, 1, 10), (2, 2, 20), (3, 5, 30), (4, 4, 40), (5, 9, 40)]
    events = rows(
        world,
        [
            *((item, key, "src", group, 100 + item, group) for item, key, group in clicks),
            *((item, item, "rec", 0, 200 + item, -1) for item in (11, 12, 13)),
        ],
    )
    found = [row for row in splits_of(events, "task") if row[1] == "src"]
    split = {1: "train", 2: "train", 3: "valid", 4: "test", 5: "test"}
    assert found == [(item, "src", split[item]) for item in split]


def test_train_ends_before_the_validation_search_that_is_kept(world: Make) -> None:
    """The validation purchase was searched at 3 and at 20, the test purchase at 10: 20 goes, so 7 is after 3."""
    searches = [(1, 1, 1), (2, 7, 2), (3, 3, 3), (3, 20, 3), (4, 10, 4)]
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),
            *((item, key, "src", 1 + key, pair, -1) for item, key, pair in searches),
        ],
    )
    found = [row for row in splits_of(events, "pair") if row[1] == "src"]
    assert found == [(1, "src", "train"), (3, "src", "valid"), (4, "src", "test")]


def test_a_train_event_of_an_item_held_out_in_the_other_task_is_dropped(world: Make) -> None:
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),
            *((item, key, "src", 1, 50 + item, -1) for key, item in enumerate((4, 5, 6, 7, 1))),
        ],
    )
    found = splits_of(events, "task")
    assert (4, "src", "train") not in found  # 4 is the rec test item
    assert (1, "rec", "train") not in found  # 1 is the src test item
    assert (5, "src", "train") in found


def test_a_validation_event_of_an_item_that_is_test_in_the_other_task_is_dropped(world: Make) -> None:
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),  # 3 valid, 4 test
            *((item, key, "src", 1, 50 + item, -1) for key, item in enumerate((5, 6, 4, 3))),  # 4 valid, 3 test
        ],
    )
    assert splits_of(events, "task") == [
        *((item, "rec", "train") for item in (1, 2)),
        (3, "src", "test"),
        (4, "rec", "test"),
        *((item, "src", "train") for item in (5, 6)),
    ]


def test_a_dropped_validation_event_does_not_cost_training_events(world: Make) -> None:
    """Item 9 is bought again: its validation purchase goes, so the train search at 7 comes after nothing held out."""
    bought = [(1, 1), (2, 2), (3, 3), (9, 5), (9, 10)]
    events = rows(
        world,
        [*((item, key, "rec", 0, key, -1) for item, key in bought), (1, 1, "src", 1, 1, -1), (2, 7, "src", 1, 2, -1)],
    )
    found = splits_of(events, "pair")
    assert (2, "src", "train") in found
    assert [row for row in found if row[2] != "train"] == [(9, "rec", "test")]


def test_a_request_cut_at_its_end_does_not_make_what_came_after_it_late(world: Make) -> None:
    """The last click (9) of the validation request is a test item of the other task; 4 was clicked in between."""
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2)),
            *((item, key, "rec", 0, item, -1) for item, key in ((6, 40), (9, 95))),
            *((item, item, "src", 1, 100 + item, -1) for item in (3,)),
            *((item, key, "src", 1, 100 + item, group) for item, key, group in ((5, 10, 7), (4, 50, 8), (9, 80, 7))),
            (8, 90, "src", 1, 108, -1),
        ],
    )
    found = splits_of(events, "task")
    assert {(3, "src", "train"), (4, "src", "train"), (5, "src", "train"), (8, "src", "test")} <= set(found)
    assert (9, "rec", "test") in found and (9, "src", "valid") not in found


def test_users_below_the_minimum_keep_everything_as_training(world: Make) -> None:
    few = [(item, item, "rec", 0, item, -1) for item in (1, 2)] + [(1, 1, "src", 1, 1, -1)]
    assert {row[2] for row in splits_of(rows(world, few), "pair")} == {"train"}
    # Only the last purchase has a search: without it the user has no search to learn from.
    one_search = [*((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)), (4, 4, "src", 1, 4, -1)]
    assert {row[2] for row in splits_of(rows(world, one_search), "pair")} == {"train"}
    assert "test" in {row[2] for row in splits_of(rows(world, one_search), "pair", both=False)}


def test_a_pair_of_several_items_is_refused(world: Make) -> None:
    events = rows(
        world,
        [
            *((item, item, "rec", 0, item, -1) for item in (1, 2, 3, 4)),
            *((item, item, "src", 1, item, -1) for item in (1, 2, 3, 4)),
            (9, 9, "src", 1, 1, -1),
        ],
    )
    with pytest.raises(InputError, match="pair"):
        split_interactions(events, "pair", both_behaviours=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("late", [False, True])
def test_nothing_held_out_can_be_learned(world: Make, unit: Literal["pair", "task"], seed: int, late: bool) -> None:
    before = world(unit, seed=seed, late_searches=late).events
    result = split_interactions(before, unit, both_behaviours=True)
    events = result.interactions
    held_out, train = events.filter(HELD_OUT), events.filter(~HELD_OUT)
    assert held_out.height > 20
    valid, test = (held_out.filter(split=split) for split in ("valid", "test"))
    for key in ("pair_id", "item_id"):
        assert train.join(held_out, on=["user_id", key], how="semi").is_empty()
        assert valid.join(test, on=["user_id", key], how="semi").is_empty()
    asked = held_out.filter(is_target())
    assert asked.group_by("user_id", "task", "split").len()["len"].max() == 1
    keys = (
        events.filter(is_target())
        .group_by("user_id", "task")
        .agg(
            *(pl.col("order_key").filter(pl.col("split") == s).min().alias(s) for s in ("valid", "test")),
            train=pl.col("order_key").filter(pl.col("split") == "train").max(),
        )
    )
    assert keys.filter(pl.col("train") > pl.min_horizontal("valid", "test")).is_empty()
    assert keys.filter(pl.col("valid") > pl.col("test")).is_empty()
    tasks = train.group_by("user_id").agg(pl.col("task").n_unique())
    lacking = tasks.filter(pl.col("task") < 2)["user_id"]
    assert held_out.filter(pl.col("user_id").is_in(lacking.implode())).is_empty()
    assert set(events.select("user_id", "item_id").rows()) == set(before.select("user_id", "item_id").rows())
    assert events["event_id"].to_list() == list(range(events.height))
    dropped = sum(number for name, number in result.counts.items() if "dropped" in name)
    assert before.height - dropped == events.height


def test_the_split_does_not_depend_on_the_order_of_rows(world: Make, unit: Literal["pair", "task"]) -> None:
    events = world(unit, late_searches=True).events
    shuffled = events.sample(fraction=1.0, shuffle=True, seed=3)
    one = split_interactions(events, unit, both_behaviours=True)
    two = split_interactions(shuffled, unit, both_behaviours=True)
    assert one.interactions.equals(two.interactions)
    assert one.counts == two.counts

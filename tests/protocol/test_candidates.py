"""Candidate lists: properties, independence of what else there is, and a scalar reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.protocol import candidates
from gemsbench.protocol.candidates import build_candidates, case_keys
from gemsbench.seeds import hash64, mix64, stream_seed

Make = Callable[..., Any]


def draw(tables: dict[str, pl.DataFrame], seed: int = 7, negatives: int = 20, **changed: Any) -> pl.DataFrame:
    arguments = {"cases": tables["cases"], "interactions": tables["interactions"], "users": tables["users"]} | changed
    return build_candidates(**arguments, n_items=tables["items"].height, seed=seed, recipe="world", negatives=negatives)


def test_lists_are_distinct_untouched_and_hold_the_target_once(world: Make, unit: Literal["pair", "task"]) -> None:
    tables = world(unit).tables()
    held_out = tables["cases"].filter(pl.col("split") != "train")
    assert tables["candidates"]["case_id"].to_list() == held_out["case_id"].to_list()
    touched: dict[int, set[int]] = {}
    for user, item in tables["interactions"].select("user_id", "item_id").iter_rows():
        touched.setdefault(user, set()).add(item)
    lists = held_out.join(tables["candidates"], on="case_id")
    for row in lists.iter_rows(named=True):
        assert len(set(row["items"])) == len(row["items"]) == 21
        assert row["positives"] == [row["target_item"]]
        assert set(row["items"]) & touched[row["user_id"]] == {row["target_item"]}
        assert 1 <= min(row["items"]) <= max(row["items"]) <= tables["items"].height


def test_a_list_is_the_first_eligible_draws_of_its_own_sequence(world: Make) -> None:
    tables = world().tables()
    n_items = tables["items"].height
    case = tables["cases"].filter(split="test", task="src").row(3, named=True)
    touched = set(tables["interactions"].filter(user_id=case["user_id"])["item_id"])
    raw_id = tables["users"]["raw_id"][case["user_id"]]
    key = mix64(stream_seed(7, "world", "src", "test", "negatives"), hash64(raw_id))
    expected: list[int] = []
    number = 0
    while len(expected) < 20:
        item = int(mix64(key, number)) % n_items + 1
        number += 1
        if item not in touched and item not in expected:
            expected.append(item)
    stored = tables["candidates"].filter(case_id=case["case_id"])["items"].to_list()[0]
    assert set(stored) == {*expected, case["target_item"]}


def test_a_list_does_not_depend_on_other_users_their_order_or_the_block(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = world().tables()
    whole = draw(tables)
    some = tables["cases"].filter(pl.col("user_id") % 3 == 1)
    users = tables["interactions"].filter(pl.col("user_id") % 3 == 1)
    assert draw(tables, cases=some, interactions=users).equals(whole.join(some, on="case_id", how="semi"))
    shuffled = {name: tables[name].sample(fraction=1.0, shuffle=True, seed=2) for name in ("cases", "interactions")}
    assert draw(tables, **shuffled, users=tables["users"].reverse()).equals(whole)
    monkeypatch.setattr(candidates, "CELLS", 100)
    assert draw(tables).equals(whole)


def test_renumbered_users_keep_their_lists(world: Make) -> None:
    tables = world().tables()
    last = tables["users"].height - 1
    changed = {
        name: tables[name].with_columns(user_id=last - pl.col("user_id")) for name in ("cases", "interactions", "users")
    }
    assert draw(tables, **changed).equals(draw(tables))


def test_seed_recipe_task_split_and_purpose_each_change_the_draw(world: Make) -> None:
    tables = world().tables()
    one, two = draw(tables), draw(tables, seed=8)
    assert not one["items"].equals(two["items"])
    cases, users = tables["cases"].filter(pl.col("split") != "train"), tables["users"]
    keys = [case_keys(cases, users, 7, "world", "negatives"), case_keys(cases, users, 7, "other", "negatives")]
    keys.append(case_keys(cases, users, 7, "world", "order"))
    assert len(np.unique(np.concatenate(keys))) == 3 * cases.height


def test_draws_are_uniform_over_the_items(world: Make) -> None:
    """Every item is as likely as any other for users who touched none of the counted ones."""
    tables = world(n_users=400, n_items=200, per_user=(3, 6)).tables()
    items = draw(tables)["items"].explode().to_numpy()
    counts = np.bincount(items, minlength=201)[1:]
    expected = len(items) / 200
    assert abs(counts / expected - 1).max() < 6 / np.sqrt(expected) + 0.1  # a touched item is missing a little


def test_the_place_of_the_target_is_uniform(world: Make) -> None:
    tables = world(n_users=500).tables()
    lists = tables["candidates"]["items"].explode().to_numpy().reshape(-1, 21)
    targets = tables["cases"].filter(pl.col("split") != "train")["target_item"].to_numpy()
    places = np.bincount(np.argmax(lists == targets[:, None], axis=1), minlength=21)
    expected = len(targets) / 21
    assert ((places - expected) ** 2 / expected).sum() < 60  # chi-square with 20 degrees of freedom, p < 1e-5


def test_every_eligible_item_can_be_needed(world: Make) -> None:
    """As many negatives as the busiest user has untouched items: the draw must find every one of them."""
    tables = world().tables()
    touched = tables["interactions"].group_by("user_id").agg(pl.col("item_id").n_unique())["item_id"].max()
    most = tables["items"].height - int(touched)
    lists = draw(tables, negatives=most)
    assert lists["items"].list.n_unique().unique().to_list() == [most + 1]
    with pytest.raises(InputError, match=r"1 of \d+ users have fewer than .* more items"):
        draw(tables, negatives=most + 1)

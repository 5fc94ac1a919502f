"""Case rules against a slow reference that reads them word by word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from gemsbench.data.recipe import CaseRules
from gemsbench.errors import InputError
from gemsbench.protocol.candidates import build_candidates
from gemsbench.protocol.case_rules import MADE, SHORT, UNDRAWN, apply_case_rules, check_length
from gemsbench.protocol.invariants import protocol_violations
from gemsbench.seeds import hash64, mix64, stream_seed

Make = Callable[..., Any]
KEY = ("user_id", "task", "target_item", "split", "order_key", "query_id")


@pytest.fixture
def tables(world: Make) -> dict[str, pl.DataFrame]:
    made: dict[str, pl.DataFrame] = world(n_users=60, per_user=(3, 14)).tables()
    return made


@pytest.fixture
def repeats(world: Make) -> dict[str, pl.DataFrame]:
    """Few items and many requests: users have the same item and task several times, at other times or queries."""
    made: dict[str, pl.DataFrame] = world("task", n_users=60, per_user=(6, 14)).tables()
    train = made["cases"].filter(pl.col("split") == "train")
    assert train.select(pl.struct("user_id", "target_item", "task").is_duplicated().sum()).item() > 50
    return made


def ruled(tables: dict[str, pl.DataFrame], rules: CaseRules, seed: int = 1) -> Any:
    return apply_case_rules(tables["cases"], tables, rules, seed=seed, recipe="r")


def events_before(case: dict[str, Any]) -> int:
    return sum(2 if tasks == 3 else 1 for tasks in case["hist_tasks"])


@pytest.mark.parametrize("least", [1, 2, 3, 5, 8])
def test_a_case_needs_enough_events_before_it(tables: dict[str, pl.DataFrame], least: int) -> None:
    found = ruled(tables, CaseRules(min_history=least))
    wanted = [case for case in tables["cases"].iter_rows(named=True) if events_before(case) >= least]
    assert [{**case, "case_id": n} for n, case in enumerate(wanted)] == list(found.cases.iter_rows(named=True))
    assert found.counts == {MADE: tables["cases"].height, SHORT: tables["cases"].height - len(wanted), UNDRAWN: 0}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_of_each_user_the_last_training_case_and_a_share_of_the_others_stay(
    tables: dict[str, pl.DataFrame], share: float
) -> None:
    kept = ruled(tables, CaseRules(train_share=share)).cases
    before, after = defaultdict(list), defaultdict(list)
    for rows, table in ((before, tables["cases"]), (after, kept)):
        for case in table.filter(pl.col("split") == "train").iter_rows(named=True):
            rows[case["user_id"]].append(case)
    for user, cases in before.items():
        assert len(after[user]) == 1 + round(share * (len(cases) - 1))
        last = max(case["order_key"] for case in cases)
        assert last in {case["order_key"] for case in after[user]}
        alone = [case for case in cases if case["order_key"] == last]
        if len({case["target_item"] for case in alone}) == 1 and share == 0.0:
            assert after[user][0]["task"] == min(case["task"] for case in alone)  # of twins the recommendation
    held_out = pl.col("split") != "train"
    assert kept.filter(held_out).drop("case_id").equals(tables["cases"].filter(held_out).drop("case_id"))


def test_the_choice_depends_on_raw_ids_and_seed_alone(tables: dict[str, pl.DataFrame]) -> None:
    rules = CaseRules(train_share=0.3)
    whole = ruled(tables, rules).cases
    shuffled = {**tables, "cases": tables["cases"].sample(fraction=1.0, shuffle=True, seed=3)}
    assert set(ruled(shuffled, rules).cases.select(KEY).iter_rows()) == set(whole.select(KEY).iter_rows())
    some = pl.col("user_id") % 2 == 0
    part = ruled({**tables, "cases": tables["cases"].filter(some)}, rules).cases
    assert part.drop("case_id").equals(whole.filter(some).drop("case_id"))
    other = ruled(tables, rules, seed=2).cases
    assert other.height == whole.height and not other.equals(whole)


def test_repeated_items_are_told_apart_by_time_and_query(repeats: dict[str, pl.DataFrame]) -> None:
    rules = CaseRules(train_share=0.3)
    whole = sorted(ruled(repeats, rules).cases.select(KEY).iter_rows())
    for seed in range(5):
        shuffled = {**repeats, "cases": repeats["cases"].sample(fraction=1.0, shuffle=True, seed=seed)}
        assert sorted(ruled(shuffled, rules).cases.select(KEY).iter_rows()) == whole


def test_of_last_cases_that_differ_in_their_query_alone_the_draw_decides(repeats: dict[str, pl.DataFrame]) -> None:
    cases = repeats["cases"].filter(pl.col("split") == "train", pl.col("task") == "src")
    last = cases.filter(pl.col("order_key") == pl.col("order_key").max().over("user_id")).unique("user_id")
    again = last.with_columns(pl.col("query_id") % 12 + 1)
    both = pl.concat([last, again]).sort(KEY).with_columns(case_id=pl.int_range(pl.len(), dtype=pl.Int64))
    rules = CaseRules(train_share=0.0)
    one = ruled({**repeats, "cases": both}, rules).cases
    other = ruled({**repeats, "cases": both.reverse()}, rules).cases
    assert sorted(one.select(KEY).iter_rows()) == sorted(other.select(KEY).iter_rows())
    assert one.height == last.height > 20
    assert 0 < one.join(again, on=KEY, how="semi").height < one.height


def drawn_slowly(tables: dict[str, pl.DataFrame], rules: CaseRules, seed: int) -> list[tuple[Any, ...]]:
    """Keys of the cases that stay: enough events before them, then the last of a user and the first of the draw."""
    users, items = tables["users"]["raw_id"], tables["items"]["raw_id"]
    queries = ["", *tables["queries"]["text"]]

    def pair(case: dict[str, Any]) -> int:
        key = stream_seed(seed, "r", "train share")
        return int(mix64(key, hash64(users[case["user_id"]]), hash64(items[case["target_item"] - 1])))

    def draw(case: dict[str, Any]) -> int:
        task = ["rec", "src"].index(case["task"])
        return int(mix64(pair(case), task, case["order_key"], hash64(queries[case["query_id"]])))

    long = [case for case in tables["cases"].iter_rows(named=True) if events_before(case) >= rules.min_history]
    train = defaultdict(list)
    for case in long:
        if case["split"] == "train":
            train[case["user_id"]].append(case)
    kept = [case for case in long if case["split"] != "train"]
    for cases in train.values():
        last = min(cases, key=lambda case: (-case["order_key"], pair(case), case["task"] == "src", draw(case)))
        others = sorted((case for case in cases if case is not last), key=draw)
        kept += [last, *others[: round(rules.train_share * len(others))]]
    return sorted(tuple(case[name] for name in KEY) for case in kept)


@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_both_rules_together_agree_with_the_slow_reading(
    tables: dict[str, pl.DataFrame], repeats: dict[str, pl.DataFrame], least: int, share: float
) -> None:
    rules = CaseRules(min_history=least, train_share=share)
    for made in (tables, repeats):
        found = ruled(made, rules, seed=3)
        assert sorted(found.cases.select(KEY).iter_rows()) == drawn_slowly(made, rules, 3)
        assert min(found.counts.values()) > 0


def broken(tables: dict[str, pl.DataFrame], recipe: Make, rules: CaseRules) -> set[str]:
    made = replace(recipe("pair"), cases=rules)
    return {violation.invariant for violation in protocol_violations(tables, made, 7, negatives=20)}


def test_cases_that_break_the_rules_are_found(tables: dict[str, pl.DataFrame], recipe: Make) -> None:
    assert broken(tables, recipe, CaseRules()) == set()
    assert broken(tables, recipe, CaseRules(min_history=3)) == {"R-h"}
    assert broken(tables, recipe, CaseRules(train_share=0.3)) == {"R-s"}
    rules = CaseRules(min_history=3, train_share=0.3)
    cases = ruled(tables, rules).cases
    lists = build_candidates(
        cases,
        tables["interactions"],
        tables["users"],
        tables["items"].height,
        seed=7,
        recipe="world",
        negatives=20,
    )
    kept = {**tables, "cases": cases, "candidates": lists}
    assert broken(kept, recipe, rules) == set()
    assert broken(kept, recipe, CaseRules(min_history=4)) == {"R-h"}
    assert broken(kept, recipe, CaseRules(train_share=0.05)) == {"R-s"}


def test_without_rules_nothing_changes(tables: dict[str, pl.DataFrame]) -> None:
    found = ruled(tables, CaseRules())
    assert found.cases.equals(tables["cases"]) and found.counts == {}


def test_histories_must_be_long_enough_to_count_in() -> None:
    check_length(CaseRules(min_history=5), 5, "r")
    with pytest.raises(InputError, match=r"r: asks for 5 events .* history_length is 4\. Set .* to at least 5"):
        check_length(CaseRules(min_history=5), 4, "r")

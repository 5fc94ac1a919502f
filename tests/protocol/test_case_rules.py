"""Case rules against a slow reference that reads them word by word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from gemsbench.data.recipe import CaseRules
from gemsbench.errors import InputError
from gemsbench.protocol.case_rules import MADE, SHORT, UNDRAWN, apply_case_rules, check_length

Make = Callable[..., Any]
KEY = ("user_id", "task", "target_item", "split", "order_key")


@pytest.fixture
def tables(world: Make) -> dict[str, pl.DataFrame]:
    made: dict[str, pl.DataFrame] = world(n_users=60, per_user=(3, 14)).tables()
    return made


def ruled(tables: dict[str, pl.DataFrame], rules: CaseRules, seed: int = 1) -> Any:
    return apply_case_rules(tables["cases"], tables["users"], tables["items"], rules, seed=seed, recipe="r")


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


def test_without_rules_nothing_changes(tables: dict[str, pl.DataFrame]) -> None:
    found = ruled(tables, CaseRules())
    assert found.cases.equals(tables["cases"]) and found.counts == {}


def test_histories_must_be_long_enough_to_count_in() -> None:
    check_length(CaseRules(min_history=5), 5, "r")
    with pytest.raises(InputError, match=r"r: asks for 5 events .* history_length is 4\. Set .* to at least 5"):
        check_length(CaseRules(min_history=5), 4, "r")

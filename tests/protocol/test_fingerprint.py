"""The fingerprint names the questions and the ranking rules, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from gemsbench.protocol import fingerprint
from gemsbench.protocol.fingerprint import protocol_fingerprint


def test_equal_tables_have_equal_fingerprints(world: Callable[..., Any]) -> None:
    one, two = world().tables(), world().tables()
    assert protocol_fingerprint(one["cases"], one["candidates"]) == protocol_fingerprint(
        two["cases"], two["candidates"]
    )


def test_any_change_of_a_case_or_a_candidate_shows(world: Callable[..., Any]) -> None:
    tables = world().tables()
    cases, lists = tables["cases"], tables["candidates"]
    seen = {
        protocol_fingerprint(cases, lists),
        protocol_fingerprint(cases.head(-1), lists),
        protocol_fingerprint(cases.with_columns(pl.col("hist_items").list.reverse()), lists),
        protocol_fingerprint(cases, lists.with_columns(pl.col("items").list.reverse())),
    }
    assert len(seen) == 4


@pytest.mark.parametrize("rule", ["TIE_RULE", "DECODING", "SCORE_END"])
def test_the_ranking_rules_are_part_of_it(
    world: Callable[..., Any], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = world().tables()
    before = protocol_fingerprint(tables["cases"], tables["candidates"])
    monkeypatch.setattr(fingerprint, rule, "another")
    assert protocol_fingerprint(tables["cases"], tables["candidates"]) != before

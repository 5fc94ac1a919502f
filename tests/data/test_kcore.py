"""The k-core is the largest set in which everything has k events."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from gemsbench.data.kcore import k_core

events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def frame(pairs: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row").cast(pl.String)


def by_hand(pairs: list[tuple[int, int]], k: int) -> list[tuple[int, int]]:
    """Remove one offender at a time: another order of removal than the code under test."""
    kept = list(pairs)
    while True:
        for side in (1, 0):
            weak = [p for p in kept if sum(q[side] == p[side] for q in kept) < k]
            if weak:
                kept = [p for p in kept if p[side] != weak[0][side]]
                break
        else:
            return kept


@settings(max_examples=60, deadline=None)
@given(events, st.integers(2, 4))
def test_equals_removal_one_by_one_and_keeps_the_order(pairs: list[tuple[int, int]], k: int) -> None:
    assert k_core(frame(pairs), k).rows() == [(str(u), str(i)) for u, i in by_hand(pairs, k)]


def test_needs_several_rounds() -> None:
    # c falls first, then z, then b: only the square of a and d remains.
    pairs = [("a", "x"), ("a", "y"), ("d", "x"), ("d", "y"), ("b", "z"), ("b", "x"), ("c", "z")]
    kept = k_core(pl.DataFrame(pairs, schema=["user", "item"], orient="row"), 2)
    assert set(kept.rows()) == {("a", "x"), ("a", "y"), ("d", "x"), ("d", "y")}


def test_k_of_one_keeps_everything_and_other_columns_stay() -> None:
    table = pl.DataFrame({"who": ["a", "b"], "what": ["x", "x"], "when": [1, 2]})
    assert k_core(table, 1, user="who", item="what").equals(table)
    assert k_core(table, 2, user="who", item="what").is_empty()

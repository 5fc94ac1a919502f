"""The three averages of the released code, and what a random scorer gets in each."""

from __future__ import annotations

from math import comb, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemsbench.errors import InputError
from gemsbench.evaluation.eval_modes import MODES, chance_levels, mode_metrics
from gemsbench.evaluation.metrics import rank_positives, summary
from gemsbench.evaluation.ragged import offsets_of

Rows = list[list[int]]
row_of_ranks = st.lists(st.integers(1, 30), max_size=6, unique=True)
rows_of_ranks = st.lists(row_of_ranks, min_size=1, max_size=12).filter(any)


def metrics(rows: Rows, ks: tuple[int, ...] = (5, 10)) -> dict[str, dict[str, float]]:
    flat = np.array([rank for row in rows for rank in row], dtype=np.int64)
    return mode_metrics(flat, offsets_of(np.array([len(row) for row in rows])), ks)


def by_hand(row: list[int], k: int) -> tuple[float, float]:
    found = sorted(rank for rank in row if rank <= k)
    if not found:
        return 0.0, 0.0
    ideal = sum(1 / log2(place + 1) for place in range(1, len(found) + 1))
    return 1.0, sum(1 / log2(rank + 1) for rank in found) / ideal


def test_two_hits_one_at_the_top_one_at_the_end() -> None:
    """A hit further down makes NDCG@10 smaller than NDCG@5: only hits that were found are in the ideal."""
    found = metrics([[1, 10]])["rows"]
    assert found["ndcg@5"] == 1.0
    assert found["ndcg@10"] == pytest.approx(0.790, abs=5e-4)
    assert metrics([[1, 2, 90, 91, 92, 93, 94, 95]])["rows"]["ndcg@5"] == pytest.approx(1.0)


def test_modes_by_hand() -> None:
    rows = [[3, 1], [], [7], [20, 4]]
    found = metrics(rows)
    assert [found[mode]["n"] for mode in MODES] == [3, 4, 5]
    assert [found[mode]["hit@5"] for mode in MODES] == pytest.approx([2 / 3, 2 / 4, 1 / 5])
    assert [found[mode]["hit@10"] for mode in MODES] == pytest.approx([3 / 3, 3 / 4, 2 / 5])
    assert found["targets"]["ndcg@10"] == pytest.approx((1 / 2 + 1 / 3) / 5)


@given(rows_of_ranks)
@settings(max_examples=60, deadline=None)
def test_rows_and_rows_empty_are_the_sums_over_rows_divided_by_their_own_number(rows: Rows) -> None:
    found = metrics(rows)
    asked = [row for row in rows if row]
    for k in (5, 10):
        values = np.array([by_hand(row, k) for row in rows]).sum(axis=0)
        assert [found["rows"][f"{name}@{k}"] for name in ("hit", "ndcg")] == pytest.approx(values / len(asked))
        for name in ("hit", "ndcg"):
            share = len(asked) / len(rows)
            assert found["rows_empty"][f"{name}@{k}"] == pytest.approx(found["rows"][f"{name}@{k}"] * share)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_with_one_target_each_all_modes_are_the_usual_metric(ranks: list[int]) -> None:
    found = metrics([[rank] for rank in ranks])
    scores = np.concatenate([-np.abs(np.arange(1, 31) - 0.0) for _ in ranks]).astype(np.float32)
    positive = np.concatenate([np.arange(1, 31) == rank for rank in ranks])
    usual = summary(rank_positives(scores, offsets_of(np.full(len(ranks), 30)), positive))
    for mode in MODES:
        for name in ("hit@5", "hit@10", "ndcg@5", "ndcg@10"):
            assert found[mode][name] == pytest.approx(usual[name])


def test_the_chance_column_of_the_audit() -> None:
    """Random scorer, 100 candidates: rows at least 0.05; rows_empty at most 0.05 x mean targets per row."""
    one = chance_levels(np.ones(50, dtype=int), np.full(50, 100))
    for mode in MODES:
        assert one[mode]["hit@5"] == pytest.approx(0.05)
        assert one[mode]["hit@10"] == pytest.approx(0.10)
        assert one[mode]["ndcg@10"] == pytest.approx(sum(1 / log2(p + 1) for p in range(1, 11)) / 100)
    search = np.repeat([0, 1, 2], [315, 685, 0])  # 0.685 targets per row, as validation rows of Qilin search have
    levels = chance_levels(search, search + 99)
    assert levels["rows"]["hit@5"] == pytest.approx(0.05)
    assert levels["rows_empty"]["hit@5"] == pytest.approx(0.05 * 0.685)  # the 0.034 of the audit
    assert levels["targets"]["hit@5"] == pytest.approx(0.05)
    several = np.repeat([1, 2, 5], [60, 20, 20])  # 2.0 per row
    levels = chance_levels(several, several + 99)
    assert 0.05 < levels["rows"]["hit@5"] <= 0.05 * several.mean()
    sizes = several + 99
    assert levels["targets"]["hit@5"] == pytest.approx(np.sum(5 / sizes) / several.sum())


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_rows_empty_is_rows_times_the_share_of_rows_with_a_target(kinds: list[tuple[int, int]]) -> None:
    counts = np.array([n for n, _ in kinds])
    sizes = counts + np.array([more for _, more in kinds]) + 1
    if not counts.any():
        return
    levels = chance_levels(counts, sizes)
    for name in ("hit@5", "hit@10", "ndcg@5", "ndcg@10"):
        assert levels["rows_empty"][name] == pytest.approx(levels["rows"][name] * np.mean(counts > 0))
        assert 0.0 <= levels["rows_empty"][name] <= levels["rows"][name] <= 1.0 + 1e-12


def test_chance_levels_are_what_a_random_scorer_gets() -> None:
    rng = np.random.default_rng(3)
    counts = np.tile([0, 1, 2, 5, 8], 4_000)
    sizes = counts + np.tile([99, 97, 99, 30, 7], 4_000)
    rows = [(rng.permutation(size)[:n] + 1).tolist() for n, size in zip(counts, sizes, strict=True)]
    found, expected = metrics(rows), chance_levels(counts, sizes)
    for mode in MODES:
        assert found[mode]["n"] == expected[mode]["n"]
        for name in ("hit@5", "hit@10", "ndcg@5", "ndcg@10"):
            assert found[mode][name] == pytest.approx(expected[mode][name], abs=0.01)


def test_chance_of_a_hit_is_hypergeometric() -> None:
    assert chance_levels([3], [50], ks=(7,))["rows"]["hit@7"] == pytest.approx(1 - comb(47, 7) / comb(50, 7))
    everything = chance_levels([2], [4])  # fewer candidates than places
    assert everything["rows"]["hit@5"] == pytest.approx(1.0)
    assert everything["targets"]["hit@5"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("rows", [[[]], [[], []]])
def test_rows_without_any_target_are_refused(rows: Rows) -> None:
    with pytest.raises(InputError, match="none of"):
        metrics(rows)
    with pytest.raises(InputError, match="none of"):
        chance_levels(np.zeros(len(rows), dtype=int), np.full(len(rows), 99))


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="start at 1"):
        metrics([[0, 3]])
    with pytest.raises(InputError, match="same rank"):
        metrics([[1], [3, 3]])
    with pytest.raises(InputError, match="more targets than candidates"):
        chance_levels([5], [4])
    with pytest.raises(InputError, match="one number per row"):
        chance_levels([5, 1], [9])

from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemsbench.errors import CheckError, InputError
from gemsbench.evaluation import metrics
from gemsbench.evaluation.metrics import Ranks, rank_positives, summary
from gemsbench.evaluation.ragged import offsets_of

INF = np.inf


def flat(cases: list[tuple[list[float], list[int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, offsets, positive) of cases given as (scores, positions of the positives)."""
    values = np.array([v for scores, _ in cases for v in scores], dtype=np.float32)
    positive = np.array([i in places for scores, places in cases for i in range(len(scores))], dtype=bool)
    return values, offsets_of(np.array([len(scores) for scores, _ in cases])), positive


def ranks_of(*cases: tuple[list[float], list[int]]) -> Ranks:
    return rank_positives(*flat(list(cases)))


def by_hand(scores: list[float], places: list[int]) -> list[int]:
    """Ranks of the positives, read off a sorted list in which negatives go first among equals."""
    order = sorted(range(len(scores)), key=lambda i: (-np.float32(scores[i]), i in places, i))
    return [order.index(i) + 1 for i in sorted(places, key=order.index)]


score_value = st.one_of(st.integers(-3, 3).map(float), st.just(-INF), st.floats(-1e6, 1e6, width=32))


@st.composite
def case(draw: st.DrawFn, most_positives: int = 3, most: int = 24) -> tuple[list[float], list[int]]:
    scores = draw(st.lists(score_value, min_size=1, max_size=most))
    n = draw(st.integers(1, min(most_positives, len(scores))))
    places = draw(st.permutations(range(len(scores))))[:n]
    return scores, sorted(places)


cases = st.lists(case(), min_size=1, max_size=6)
one_positive = st.lists(case(most_positives=1), min_size=1, max_size=6)


# Goldens: scores, places of the positives, pessimistic ranks, ties with negatives.
GOLDENS = [
    ([3.0, 1.0, 2.0], [0], [1], 0),
    ([3.0, 1.0, 2.0], [1], [3], 0),
    ([1.0, 1.0, 1.0, 1.0], [0], [4], 3),
    ([2.0, 1.0, 2.0, 0.0], [0], [2], 1),
    ([-INF, -INF, 0.5], [0], [3], 1),
    ([5.0, 4.0, 3.0, 2.0], [1, 3], [2, 4], 0),
    ([1.0, 1.0, 1.0], [0, 2], [2, 3], 2),  # both positives tie with the one negative, which goes first
    ([2.0, 2.0, 1.0], [0, 1], [1, 2], 0),  # equal positives take one place each
    ([-0.0, 0.0], [0], [2], 1),
    ([INF, 1.0], [0], [1], 0),
]


@pytest.mark.parametrize(("scores", "places", "expected", "ties"), GOLDENS)
def test_hand_ranks(scores: list[float], places: list[int], expected: list[int], ties: int) -> None:
    ranks = ranks_of((scores, places))
    assert ranks.ranks.tolist() == expected
    assert ranks.negatives_tied.sum() == ties
    assert bool(metrics.tied(ranks)[0]) == (ties > 0)


def test_positive_at_every_index() -> None:
    scores = [9.0, 7.0, 5.0, 3.0, 1.0]
    for place in range(5):
        assert ranks_of((scores, [place])).ranks.tolist() == [place + 1]


def test_golden_metrics_with_ties() -> None:
    """Three cases of one positive: rank 1; rank 3 (tied with two); rank 7."""
    twelve = [float(-i) for i in range(12)]
    values = summary(ranks_of((twelve, [0]), ([5.0, 5.0, 5.0, *twelve], [1]), (twelve, [6])))
    assert values["n"] == 3
    assert values["tie_rate"] == pytest.approx(1 / 3)
    assert values["hit@5"] == pytest.approx(2 / 3)
    assert values["hit@10"] == pytest.approx(1.0)
    assert values["ndcg@5"] == pytest.approx((1 + 1 / log2(4)) / 3)
    assert values["ndcg@10"] == pytest.approx((1 + 1 / log2(4) + 1 / log2(8)) / 3)
    tie = (1 + 1 / log2(3) + 1 / log2(4)) / 3
    assert values["ndcg@5_exp"] == pytest.approx((1 + tie) / 3)
    assert values["hit@5_exp"] == values["hit@5"]


def test_golden_several_positives() -> None:
    """Positives at ranks 1, 4 and 8 of twelve: the ideal puts three of them first."""
    ranks = ranks_of(([float(-i) for i in range(12)], [0, 3, 7]))
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert metrics.ndcg(ranks.ranks, ranks.offsets, 5)[0] == pytest.approx((1 + 1 / log2(5)) / ideal)
    assert metrics.ndcg(ranks.ranks, ranks.offsets, 10)[0] == pytest.approx((1 + 1 / log2(5) + 1 / log2(9)) / ideal)
    assert ranks.best.tolist() == [1]


def test_ideal_is_cut_at_k() -> None:
    """With six positives on the first six places, NDCG@5 is 1 although one positive is outside."""
    ranks = ranks_of(([float(-i) for i in range(9)], [0, 1, 2, 3, 4, 5]))
    assert metrics.ndcg(ranks.ranks, ranks.offsets, 5)[0] == pytest.approx(1.0)


@given(cases)
def test_ranks_equal_a_sorted_list(drawn: list[tuple[list[float], list[int]]]) -> None:
    ranks = ranks_of(*drawn)
    assert ranks.ranks.tolist() == [rank for scores, places in drawn for rank in by_hand(scores, places)]
    order = metrics.pessimistic_order(*flat(drawn))
    _, offsets, positive = flat(drawn)
    for q in range(len(drawn)):
        part = order[offsets[q] : offsets[q + 1]]
        assert sorted(part) == list(range(1, len(part) + 1))
        assert sorted(part[positive[offsets[q] : offsets[q + 1]]]) == by_hand(*drawn[q])


@given(cases)
def test_bounds(drawn: list[tuple[list[float], list[int]]]) -> None:
    values = summary(ranks_of(*drawn))
    for name, value in values.items():
        if name != "n":
            assert -1e-12 <= value <= 1 + 1e-12
    for name in ("hit", "ndcg"):
        for k in (5, 10):
            assert values[f"{name}@{k}"] <= values[f"{name}@{k}_exp"] + 1e-12  # pessimism never flatters
    assert values["hit@5"] <= values["hit@10"]


@given(one_positive)
def test_identities_hold_with_one_positive(drawn: list[tuple[list[float], list[int]]]) -> None:
    values = summary(ranks_of(*drawn))
    metrics.check_one_positive_identities(values, "a run")
    for k in (5, 10):  # expectations are means of one-positive outcomes, so they obey them too
        values[f"hit@{k}"], values[f"ndcg@{k}"] = values[f"hit@{k}_exp"], values[f"ndcg@{k}_exp"]
    metrics.check_one_positive_identities(values, "its expectation")


@given(cases, st.randoms(use_true_random=False))
def test_order_of_candidates_and_cases_does_not_matter(drawn: list[tuple[list[float], list[int]]], random) -> None:
    before = summary(ranks_of(*drawn))
    shuffled = []
    for scores, places in drawn:
        order = list(range(len(scores)))
        random.shuffle(order)
        shuffled.append(([scores[i] for i in order], [order.index(p) for p in places]))
    random.shuffle(shuffled)
    assert summary(ranks_of(*shuffled)) == pytest.approx(before)


@given(st.lists(case(), min_size=1, max_size=4))
def test_a_monotone_transform_does_not_matter(drawn: list[tuple[list[float], list[int]]]) -> None:
    levels = {value: i for i, value in enumerate(sorted({np.float32(v) for scores, _ in drawn for v in scores}))}
    moved = [([float(np.exp(levels[np.float32(v)] / 20)) for v in scores], places) for scores, places in drawn]
    assert summary(ranks_of(*moved)) == summary(ranks_of(*drawn))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -INF]), min_size=1, max_size=6), st.data())
def test_expectation_equals_all_tie_breakings(scores: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, min(3, len(scores))))
    places = sorted(data.draw(st.permutations(range(len(scores))))[:n])
    ranks = ranks_of((scores, places))
    for k in (1, 2, 5):
        hits, gains, count = 0.0, 0.0, 0
        for order in permutations(range(len(scores))):
            ranked = sorted(order, key=lambda i: -scores[i])  # stable: ties in the order of the permutation
            at = [ranked.index(p) + 1 for p in places]
            ideal = sum(1 / log2(r + 1) for r in range(1, min(k, n) + 1))
            hits += min(at) <= k
            gains += sum(1 / log2(r + 1) for r in at if r <= k) / ideal
            count += 1
        assert metrics.expected_hit(ranks, k)[0] == pytest.approx(hits / count)
        assert metrics.expected_ndcg(ranks, k)[0] == pytest.approx(gains / count)


def hundred(n: int, scores: np.ndarray, places: np.ndarray) -> dict[str, float]:
    positive = np.zeros((n, 100), dtype=bool)
    positive[np.arange(n), places] = True
    return summary(rank_positives(scores.astype(np.float32).ravel(), np.arange(n + 1) * 100, positive.ravel()))


def test_constant_oracle_and_random_scorers() -> None:
    n, rng = 40_000, np.random.default_rng(5)
    places = rng.integers(0, 100, n)
    constant = hundred(n, np.zeros((n, 100)), places)
    names = ["hit@5", "hit@10", "ndcg@5", "ndcg@10"]
    assert [constant[name] for name in names] == [0, 0, 0, 0]
    assert constant["tie_rate"] == 1.0
    chance = [
        0.05,
        0.10,
        sum(1 / log2(r + 1) for r in range(1, 6)) / 100,
        sum(1 / log2(r + 1) for r in range(1, 11)) / 100,
    ]
    assert [round(c, 4) for c in chance] == [0.05, 0.1, 0.0295, 0.0454]
    assert [constant[f"{name}_exp"] for name in names] == pytest.approx(chance)
    oracle = hundred(n, np.eye(100)[places], places)
    assert [oracle[name] for name in names] == [1, 1, 1, 1]
    random = hundred(n, rng.random((n, 100)), places)
    squares = [
        0.05,
        0.10,
        sum(log2(r + 1) ** -2 for r in range(1, 6)) / 100,
        sum(log2(r + 1) ** -2 for r in range(1, 11)) / 100,
    ]
    for name, mean, square in zip(names, chance, squares, strict=True):
        assert abs(random[name] - mean) < 3 * np.sqrt((square - mean**2) / n)
        assert abs(random[name] - random[f"{name}_exp"]) < 1e-4


def test_chunks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 9, size=57)
    positive = np.zeros(lengths.sum(), dtype=bool)
    positive[offsets_of(lengths)[:-1]] = True
    positive |= rng.random(len(positive)) < 0.2
    scores = rng.integers(0, 4, len(positive)).astype(np.float32)
    whole = rank_positives(scores, offsets_of(lengths), positive)
    monkeypatch.setattr(metrics, "CASES_AT_A_TIME", 10)
    parts = rank_positives(scores, offsets_of(lengths), positive)
    for field in ("ranks", "offsets", "above", "negatives_tied", "positives_tied"):
        assert np.array_equal(getattr(whole, field), getattr(parts, field))


def test_nan_and_missing_positives_raise() -> None:
    with pytest.raises(InputError, match="1 of 3 scores are NaN"):
        ranks_of(([1.0, np.nan, 2.0], [0]))
    with pytest.raises(InputError, match="1 cases have no positive"):
        ranks_of(([1.0, 2.0], [0]), ([1.0, 2.0], []))
    with pytest.raises(InputError, match="no cases"):
        summary(rank_positives(np.empty(0, np.float32), np.zeros(1, np.int64), np.empty(0, bool)))


@pytest.mark.parametrize(
    ("hit5", "hit10", "ndcg5", "ndcg10", "message"),
    [
        (0.1812, 0.2, 0.1846, 0.19, r"NDCG@5 <= Hit@5"),
        (0.30, 0.35, 0.10, 0.12, r"Hit@5 / log2 6"),
        (0.30, 0.25, 0.20, 0.19, r"Hit@5 <= Hit@10"),
        (0.30, 0.31, 0.20, 0.25, r"\(Hit@10 - Hit@5\) / log2 11"),
        (0.30, 0.40, 0.20, 0.21, r"\(Hit@10 - Hit@5\) / log2 11"),
    ],
)
def test_impossible_numbers_are_named(hit5: float, hit10: float, ndcg5: float, ndcg10: float, message: str) -> None:
    values = {"hit@5": hit5, "hit@10": hit10, "ndcg@5": ndcg5, "ndcg@10": ndcg10}
    with pytest.raises(CheckError, match=message):
        metrics.check_one_positive_identities(values, "a run")

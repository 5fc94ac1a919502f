"""Training pairs and negatives: what is rejected, what is not, and that draws are uniform."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from gemsbench.errors import InputError
from gemsbench.evaluation.sorted_keys import contains
from gemsbench.methods.train_pairs import TrainPairs


def _pairs(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> TrainPairs:
    events = pl.DataFrame(pairs, schema={"user_id": pl.Int32, "item_id": pl.Int32}, orient="row")
    return TrainPairs.of(events, n_users, n_items)


@given(st.lists(st.integers(-5, 30)), st.lists(st.integers(-5, 30)))
def test_contains_is_set_membership(keys: list[int], wanted: list[int]) -> None:
    found = contains(np.unique(np.array(keys, dtype=np.int64)), np.array(wanted, dtype=np.int64))
    assert found.tolist() == [value in set(keys) for value in wanted]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_no_negative_is_a_training_positive(pairs: list[tuple[int, int]], seed: int) -> None:
    known = _pairs(pairs, 5, 10)
    users = np.repeat(np.arange(5), 50)
    items = known.negatives(users, np.random.default_rng(seed))
    drawn = set(zip(users.tolist(), (items + 1).tolist(), strict=True))
    assert not drawn & set(pairs)
    assert items.min() >= 0
    assert items.max() < 10


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=40))
def test_pairs_are_distinct_and_independent_of_order(pairs: list[tuple[int, int]]) -> None:
    first, second = _pairs(pairs, 5, 10), _pairs(pairs[::-1] + pairs, 5, 10)
    np.testing.assert_array_equal(first.keys, second.keys)
    assert list(zip(first.users.tolist(), (first.items + 1).tolist(), strict=True)) == sorted(set(pairs))
    assert first.known_users.tolist() == [user in {u for u, _ in pairs} for user in range(5)]


def test_negatives_are_uniform_over_what_is_left() -> None:
    known = _pairs([(0, 1), (0, 2), (1, 5)], 2, 40)
    users = np.repeat(np.arange(2), 20_000)
    items = known.negatives(users, np.random.default_rng(0))
    for user, excluded in ((0, [0, 1]), (1, [4])):
        counts = np.bincount(items[users == user], minlength=40)
        assert counts[excluded].sum() == 0
        assert chisquare(np.delete(counts, excluded)).pvalue > 1e-4


def test_only_training_positives_are_rejected() -> None:
    # Item 7 stands for a held-out positive: it must come up as often as any other.
    items = _pairs([(0, 1)], 1, 10).negatives(np.zeros(9000, dtype=np.int64), np.random.default_rng(1))
    assert 800 < (items + 1 == 7).sum() < 1200


def test_same_generator_state_same_draws() -> None:
    known, users = _pairs([(0, 1), (1, 3)], 2, 30), np.repeat([0, 1], 100)
    draws = [known.negatives(users, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_user_with_every_item_is_named() -> None:
    with pytest.raises(InputError, match="user 1 has all 3 items"):
        _pairs([(0, 1), (1, 1), (1, 2), (1, 3)], 2, 3)


def test_no_events_are_refused() -> None:
    with pytest.raises(InputError, match="no training events"):
        _pairs([], 2, 3)

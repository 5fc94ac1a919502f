"""Groups of bounded size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.balanced_groups import balanced_groups, size_bounds


def points(n: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return seeds.stream(seed, "points").normal(size=(n, width))


def groups_of(rows: np.ndarray, n_groups: int, seed: int = 0) -> np.ndarray:
    return balanced_groups(rows, n_groups, seeds.stream(seed, "groups"))


@pytest.mark.parametrize(
    ("n", "n_groups", "bounds"), [(256, 10, (10, 52)), (64, 5, (10, 26)), (64, 10, (6, 14)), (16, 8, (2, 4))]
)
def test_bounds_are_those_of_the_official_code_where_they_can_be(
    n: int, n_groups: int, bounds: tuple[int, int]
) -> None:
    assert size_bounds(n, n_groups) == bounds


@pytest.mark.parametrize(("n", "n_groups"), [(256, 10), (64, 5), (64, 10), (16, 8), (17, 8), (20, 1)])
@pytest.mark.parametrize("kind", ["spread", "lopsided", "equal"])
def test_sizes_stay_within_bounds_and_no_group_has_one_member(n: int, n_groups: int, kind: str) -> None:
    rows = points(n)
    if kind == "lopsided":  # nearly all points in one place: plain k-means would make groups of one
        rows[: n - n_groups] *= 1e-3
        rows[n - n_groups :] += 100
    elif kind == "equal":
        rows[:] = 1.0
    least, most = size_bounds(n, n_groups)
    sizes = np.bincount(groups_of(rows, n_groups), minlength=n_groups)
    assert len(sizes) == n_groups
    assert sizes.min() >= least >= 2
    assert sizes.max() <= most


def test_it_finds_groups_that_are_there() -> None:
    centres = 20 * np.eye(5)
    truth = np.repeat(np.arange(5), [10, 11, 12, 13, 18])
    order = seeds.stream(0, "order").permutation(64)
    rows = (centres[truth] + 0.1 * points(64, 5))[order]
    found = groups_of(rows, 5)
    assert len(set(zip(found.tolist(), truth[order].tolist(), strict=True))) == 5


def test_an_assignment_is_the_cheapest_that_the_bounds_allow() -> None:
    # Six points, two groups of two to six: every split is tried around the centres of the split that was found.
    for seed in range(20):
        rows = points(6, 2, seed) * np.array([3.0, 1.0])
        found = groups_of(rows, 2, seed)
        centres = np.stack([rows[found == group].mean(axis=0) for group in range(2)])
        distances = np.square(rows[:, None] - centres).sum(axis=2)
        least, most = size_bounds(6, 2)
        costs = [
            distances[np.arange(6), split].sum()
            for split in map(list, itertools.product(range(2), repeat=6))
            if least <= sum(split) <= most and least <= 6 - sum(split) <= most
        ]
        assert distances[np.arange(6), found].sum() == pytest.approx(min(costs))


def test_equal_seeds_give_equal_groups_and_the_seed_matters() -> None:
    rows = points(64)
    np.testing.assert_array_equal(groups_of(rows, 5), groups_of(rows, 5))
    assert any(not np.array_equal(groups_of(rows, 5, seed), groups_of(rows, 5)) for seed in range(1, 5))


@pytest.mark.parametrize(("n", "n_groups"), [(16, 9), (3, 2), (16, 0)])
def test_groups_of_one_are_refused(n: int, n_groups: int) -> None:
    with pytest.raises(InputError, match=f"{n} codes cannot be split into {n_groups} groups.* 1..{n // 2}"):
        groups_of(points(n), n_groups)

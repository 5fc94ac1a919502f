"""Groups of bounded size: k-means whose assignment respects a least and a greatest number of members."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from gemsbench.errors import InputError

LEAST = 10  # members of a group in the official code of LETTER, where there are points enough
_ROUNDS = 10  # assignments and updates at most

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def size_bounds(n_points: int, n_groups: int) -> tuple[int, int]:
    """Least and greatest size of a group: min(10, n_points // n_groups) and 2 ceil(n_points / n_groups).

    Raises InputError where a group of one could not be avoided.
    """
    if n_groups < 1 or n_points < 2 * n_groups:
        raise InputError(
            f"{n_points} codes cannot be split into {n_groups} groups of two or more. Set groups to 1..{n_points // 2}."
        )
    return min(LEAST, n_points // n_groups), 2 * -(-n_points // n_groups)


def balanced_groups(points: npt.ArrayLike, n_groups: int, generator: np.random.Generator) -> Int64Array:
    """The group 0..n_groups-1 of every point, int64 [n]; sizes lie within size_bounds.

    points: [n, d], finite. Lloyd's algorithm from k-means++ centres; each assignment has the least sum of squared
    distances that the bounds allow. Raises InputError where a group of one could not be avoided.
    """
    rows = np.asarray(points, np.float64)
    least, most = size_bounds(len(rows), n_groups)
    centres = _first_centres(rows, n_groups, generator)
    groups = np.full(len(rows), -1)
    for _ in range(_ROUNDS):
        before, groups = groups, _assigned(_squared_distances(rows, centres), least, most)
        if np.array_equal(before, groups):
            break
        sums = np.zeros_like(centres)
        np.add.at(sums, groups, rows)
        centres = sums / np.bincount(groups, minlength=n_groups)[:, None]
    return groups


def _assigned(distances: Float64Array, least: int, most: int) -> Int64Array:
    """The group of every point; distances [n, groups]. Every group has `most` seats, `least` of which must be taken."""
    n_groups = distances.shape[1]
    # A seat that must be taken is cheaper by more than any exchange of places could save.
    bonus = 1 + len(distances) * np.ptp(distances)
    must = np.tile(np.arange(most) < least, n_groups)
    cost = np.repeat(distances, most, axis=1) - bonus * must
    _, seats = linear_sum_assignment(cost)
    return np.asarray(seats // most, np.int64)


def _first_centres(rows: Float64Array, n_groups: int, generator: np.random.Generator) -> Float64Array:
    """k-means++ (Arthur and Vassilvitskii, 2007): each further centre is a point drawn by its squared distance."""
    chosen = [int(generator.integers(len(rows)))]
    for _ in range(n_groups - 1):
        nearest = _squared_distances(rows, rows[chosen]).min(axis=1)
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        chosen.append(int(generator.choice(len(rows), p=weights)))
    return rows[chosen]


def _squared_distances(rows: Float64Array, centres: Float64Array) -> Float64Array:
    return np.asarray(np.square(rows[:, None] - centres[None]).sum(axis=2))

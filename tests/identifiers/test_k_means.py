"""k-means: no empty cluster, nothing sampled away, the same bits for the same rows in any order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gemsbench.errors import InputError
from gemsbench.identifiers.k_means import _seat_empty, k_means, nearest


def test_the_centroids_of_two_groups_are_the_means_of_all_their_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 3)).astype(np.float32)
    rows[:1500] += 50
    centroids = k_means(rows, 2, seed=3)
    expected = np.stack([rows[1500:].mean(0), rows[:1500].mean(0)])
    np.testing.assert_allclose(centroids[np.argsort(centroids[:, 0])], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_rows_give_the_same_bits_in_any_order(planting: SimpleNamespace, threads: int) -> None:
    rows = planting.planted(n=900)[0]
    rows[100:150] = rows[:50]
    one = k_means(rows, 16, seed=1, threads=threads)
    other = k_means(rows[np.random.default_rng(0).permutation(900)], 16, seed=1, threads=threads)
    assert one.tobytes() == other.tobytes()
    assert one.tobytes() != k_means(rows, 16, seed=2, threads=threads).tobytes()


def test_a_weight_is_a_number_of_equal_rows(planting: SimpleNamespace) -> None:
    rows = planting.planted(n=80)[0]
    weights = np.random.default_rng(0).integers(1, 9, 80)
    weighted = k_means(rows, 8, seed=0, weights=weights)
    assert weighted.tobytes() == k_means(np.repeat(rows, weights, axis=0), 8, seed=0).tobytes()
    assert weighted.tobytes() != k_means(rows, 8, seed=0).tobytes()


def test_every_centroid_has_a_row() -> None:
    for seed in range(5):  # faiss alone leaves a cluster empty with seed 2
        rows = np.exp(4 * np.random.default_rng(seed).normal(size=(150, 4))).astype(np.float32)
        assert len(np.unique(nearest(rows, k_means(rows, 64, seed, iterations=1)))) == 64


def test_a_centroid_without_rows_moves_to_the_farthest_row() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
    moved = _seat_empty(rows, np.array([[1.0], [500.0]], np.float32), allow_empty=False)
    np.testing.assert_array_equal(moved, [[1.0], [9.0]])


def test_rows_too_few_or_too_alike_are_refused() -> None:
    rows = np.repeat(np.arange(10, dtype=np.float32)[:, None], 3, axis=0)
    with pytest.raises(InputError, match=r"10 vectors that can be told apart .* Lower codebook_size to at most 10"):
        k_means(rows, 11, seed=0)
    assert set(k_means(rows, 10, seed=0)[:, 0]) == set(range(10))
    # They differ by the rounding of a squared distance.
    alike = (1e4 + 1e-3 * np.random.default_rng(0).integers(0, 3, (2000, 64))).astype(np.float32)
    with pytest.raises(InputError, match="cannot fill a codebook of 64"):
        k_means(alike, 64, seed=0)


def test_too_few_rows_may_be_allowed() -> None:
    rows = np.array([[1.0], [1.0], [2.0]], np.float32)
    centroids = k_means(rows, 5, seed=0, allow_empty=True)
    assert centroids.shape == (5, 1)
    assert set(centroids[:, 0]) == {1.0, 2.0}


def test_the_nearest_centroid_is_found(planting: SimpleNamespace) -> None:
    rows, centroids = planting.planted(n=700)[0], planting.planted(n=30, seed=5)[0]
    distances = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(2)
    np.testing.assert_array_equal(nearest(rows, centroids), distances.argmin(1))

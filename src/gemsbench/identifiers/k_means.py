"""k-means on faiss with a fixed seed, a fixed number of threads and no empty cluster.

The result is a function of the multiset of rows: equal rows are one row with a weight, and the rows are put into an
order of their own first, so that the order of items changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.distinct_rows import Float32Array, Int64Array, distinct_rows

POINTS_PER_CODE = 39  # faiss asks for at least so many rows per cluster


@contextmanager
def faiss_threads(number: int) -> Iterator[None]:
    """Within the block faiss computes with this many threads; sums depend on it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def k_means(
    vectors: Float32Array,
    k: int,
    seed: int,
    iterations: int = 25,
    threads: int = 1,
    *,
    weights: Int64Array | None = None,
    allow_empty: bool = False,
) -> Float32Array:
    """Centroids float32 [k, d] of vectors float32 [n, d], finite; all n rows take part, none is sampled away.

    weights: int64 [n], how often each row stands there; None: once. Starts from k distinct random rows. A cluster that
    ends empty is moved onto the row farthest from its centroid. allow_empty: too few distinct rows are no error; the
    centroids that get no row then repeat others.
    Raises InputError when there are fewer than k distinct rows, or fewer than float32 can tell apart.
    """
    first, inverse = distinct_rows(vectors)
    rows = vectors[first]
    if len(rows) < k:
        if allow_empty:
            return rows[np.arange(k) % len(rows)]
        raise InputError(_too_few(len(rows), k))
    kmeans = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        seed=seeds.stream_seed(seed, "k-means") % 2**31,  # faiss takes 31 bits
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # the default takes a sample of 256 k rows without a word
    )
    with faiss_threads(threads):
        kmeans.train(rows, weights=np.bincount(inverse, weights=weights).astype(np.float32))
        return _seat_empty(rows, np.array(kmeans.centroids), allow_empty)


def codebook_load(n_vectors: int, codebook_size: int) -> dict[str, Any]:
    """JSON values: how many vectors there are per code, and whether these are too few for sound centroids."""
    return {
        "vectors_per_code": n_vectors / codebook_size,
        "few_vectors_per_code": n_vectors < POINTS_PER_CODE * codebook_size,
    }


def nearest(vectors: Float32Array, centroids: Float32Array, threads: int = 1) -> Int64Array:
    """Row of the nearest centroid [k, d] for every vector [n, d], int64 [n]."""
    with faiss_threads(threads):
        return _nearest(vectors, centroids)[0]


def _nearest(vectors: Float32Array, centroids: Float32Array) -> tuple[Int64Array, Float32Array]:
    """Nearest centroids int64 [n] and squared distances to them float32 [n]."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    distances, codes = index.search(np.ascontiguousarray(vectors), 1)
    return codes[:, 0], distances[:, 0]


def _seat_empty(rows: Float32Array, centroids: Float32Array, allow_empty: bool) -> Float32Array:
    """The centroids with each one that has no row moved onto a far row; rows are distinct."""
    for _ in range(len(centroids)):
        codes, distances = _nearest(rows, centroids)
        empty = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
        if not len(empty):
            return centroids
        centroids[empty] = rows[np.argsort(-distances, kind="stable")[: len(empty)]]
    if allow_empty:
        return centroids
    raise InputError(_too_few(len(centroids) - len(empty), len(centroids)))


def _too_few(distinct: int, k: int) -> str:
    sound = max(1, distinct // POINTS_PER_CODE)
    return (
        f"k-means: {distinct} vectors that can be told apart cannot fill a codebook of {k} codes. Lower codebook_size "
        f"to at most {distinct}; {sound} is sound ({POINTS_PER_CODE} vectors per code)."
    )

"""Residual k-means: one k-means per level, on what the levels before it have left (RQ-KMeans, arXiv 2508.10478).

Greedy: the code of a level is the nearest centroid of its residual. The defaults of faiss.ResidualQuantizer search a
beam and train level by level on growing dimensions, which is another algorithm with other codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.distinct_rows import Float32Array, Int64Array, distinct_rows
from gemsbench.identifiers.k_means import k_means, nearest

_CHUNK = 8192  # rows subtracted at a time


@dataclass(frozen=True, eq=False)
class ResidualKMeans:
    """codebooks: float32 [L, K, d]. codes: int64 [n, L]. variance_left: share of the variance after each level."""

    codebooks: Float32Array
    codes: Int64Array
    variance_left: tuple[float, ...]


def residual_k_means(
    vectors: Float32Array, levels: int, codebook_size: int, seed: int, iterations: int = 25, threads: int = 1
) -> ResidualKMeans:
    """Fit on vectors float32 [n, d], finite, and quantise them.

    Equal vectors get equal codes, and the order of rows changes nothing. Raises InputError when a level's residuals
    have fewer distinct rows than codebook_size.
    """
    first, inverse = distinct_rows(vectors)
    residuals = vectors[first]
    weights = np.bincount(inverse)
    total = _squares(residuals - np.average(residuals, axis=0, weights=weights).astype(np.float32), weights)
    codebooks, codes, left = [], [], []
    for level in range(levels):
        level_seed = seeds.stream_seed(seed, "residual k-means", level)
        try:
            centroids = k_means(residuals, codebook_size, level_seed, iterations, threads, weights=weights)
        except InputError as error:
            raise InputError(f"level {level + 1} of {levels}: {error}") from error
        codebooks.append(centroids)
        codes.append(_subtract_nearest(residuals, centroids, threads))
        left.append(_squares(residuals, weights) / total)
    return ResidualKMeans(np.stack(codebooks), np.column_stack(codes)[inverse], tuple(left))


def residual_codes(vectors: Float32Array, codebooks: Float32Array, threads: int = 1) -> Int64Array:
    """Codes int64 [n, L] of vectors float32 [n, d] in codebooks [L, K, d], the nearest centroid on every level."""
    first, inverse = distinct_rows(vectors)
    residuals = vectors[first]
    return np.column_stack([_subtract_nearest(residuals, centroids, threads) for centroids in codebooks])[inverse]


def _subtract_nearest(residuals: Float32Array, centroids: Float32Array, threads: int) -> Int64Array:
    """Codes int64 [n]; their centroids are taken off the residuals in place."""
    codes = nearest(residuals, centroids, threads)
    for start in range(0, len(codes), _CHUNK):
        residuals[start : start + _CHUNK] -= centroids[codes[start : start + _CHUNK]]
    return codes


def _squares(rows: Float32Array, weights: Int64Array) -> float:
    """Weighted sum of the squared lengths."""
    return float(np.einsum("nd,nd->n", rows, rows).astype(np.float64) @ weights)

"""Bases of the dominant subspace of a gradient: exact, randomised, and from a linear sketch.

Everything is rank-first: a basis [R, a] has orthonormal rows that span a subspace of the columns of a gradient [a, b].
"""

from __future__ import annotations

import torch
from torch import Tensor

EXACT_UP_TO = 1024  # of the smaller dimension; above it the randomised basis has all but 1e-4 of the energy
_OVERSAMPLE = 8
_WEAK = 1e-5  # singular values below this share of the largest one are rounding


def leading_basis(gradient: Tensor, rank: int, generator: torch.Generator, fill: Tensor | None = None) -> Tensor:
    """The first left singular vectors of a gradient [a, b] as rows [rank, a]; rank is at most min(a, b).

    Exact up to 1024 in the smaller dimension, randomised above. fill: rows [rank, a] that take the place of directions
    which a gradient of lower rank does not have. Raises ValueError when the gradient is not finite.
    """
    _check_finite(gradient)
    if min(gradient.shape) <= EXACT_UP_TO:
        vectors, sigma, _ = torch.linalg.svd(gradient, full_matrices=False)
        rows: Tensor = vectors[:, :rank].T.contiguous()
    else:
        rows, sigma = randomised_basis(gradient, rank, generator)
    weak = _weak(sigma[:rank])
    if fill is None or not bool(weak.any()):
        return rows
    return orthonormal_rows(torch.where(weak[:, None], fill, rows))


def randomised_basis(gradient: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows [rank, a] and singular values by a random range finder (arXiv 0909.4061, algorithm 4.4).

    8 more directions than the rank, one power step.
    """
    width = min(rank + _OVERSAMPLE, *gradient.shape)
    found: Tensor = torch.linalg.qr(gradient @ gaussian((gradient.shape[1], width), gradient, generator))[0]
    found = torch.linalg.qr(gradient @ torch.linalg.qr(gradient.T @ found)[0])[0]
    turned, sigma, _ = torch.linalg.svd(found.T @ gradient, full_matrices=False)
    return (found @ turned[:, :rank]).T.contiguous(), sigma


def sketch_probe(moments: Tensor | None, rank: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """The directions [q, b] by which a gradient is sketched: rows that span the moments [rank, b], and random ones.

    The start, without moments, is random, with twice as many directions as the rank. like: [.., b], gives b, dtype and
    device. What is sketched is linear in the gradient, so sums over micro-batches and tasks are exact.
    """
    width = like.shape[-1]
    number = min(2 * rank if moments is None else _OVERSAMPLE, width)
    random = gaussian((number, width), like, generator) / width**0.5
    return random if moments is None else torch.cat([orthonormal_rows(moments), random])


def basis_from_sketch(sketch: Tensor, rank: int, fill: Tensor) -> Tensor:
    """The leading directions [rank, a] of a sketch [q, a] = probe @ gradient.T.

    fill: rows [rank, a] that take the place of directions which the sketch does not have (a gradient of lower rank).
    Raises ValueError when the sketch is not finite.
    """
    _check_finite(sketch)
    exact = sketch.double()  # the Gram matrix squares the singular values
    values, vectors = torch.linalg.eigh(exact @ exact.T)
    order = values.argsort(descending=True, stable=True)[:rank]
    sigma = values[order].clamp(min=0).sqrt().to(sketch.dtype)
    rows = vectors[:, order].to(sketch.dtype).T @ sketch
    weak = _weak(sigma)
    rows = rows / torch.where(weak, torch.ones_like(sigma), sigma)[:, None]
    if len(rows) < rank:
        rows = torch.cat([rows, torch.zeros_like(fill[: rank - len(rows)])])
        weak = torch.cat([weak, weak.new_ones(rank - len(weak))])
    return orthonormal_rows(torch.where(weak[:, None], fill, rows))


def orthonormal_rows(rows: Tensor) -> Tensor:
    """Orthonormal rows [R, a] with the span of the given ones, one after the other; signs are those of the rows."""
    found: Tensor
    found, triangle = torch.linalg.qr(rows.T)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(rows.dtype)
    return (found * signs).T.contiguous()


def gaussian(shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the CPU so that they do not depend on the device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(like)


def _weak(sigma: Tensor) -> Tensor:
    return sigma <= _WEAK * sigma[0].clamp(min=torch.finfo(sigma.dtype).tiny)


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("GEMS: a gradient holds NaN or infinity. Lower the learning rate or lengthen the warm-up.")

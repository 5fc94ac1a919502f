"""Balanced assignment: every row to a code, every code for its share of the rows (entropic optimal transport).

LETTER (arXiv 2405.07314) assigns the codes of the last level so. At its epsilon of 0.003 exp(-distance / epsilon)
leaves the range of float32; potentials in the log domain and double precision keep all of it finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gemsbench.errors import InputError

# Every so many iterations one is done in the log domain. The others multiply u and v by factors between 1 / (B K) and
# B K, so that so few of them stay in the range of double precision for any size that fits in memory.
_EVERY = 20


def sinkhorn(distances: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The plan float64 [B, K] of distances [B, K] after some iterations: rows sum to 1, columns tend to B / K.

    The distances are shifted and scaled to [-1, 1] by the smallest and the largest one of all, so that epsilon means
    the same on any data. An iteration scales the columns to B / K, then the rows to 1. Raises InputError for an epsilon
    that is not positive or iterations below 1.
    """
    if not epsilon > 0 or iterations < 1:
        raise InputError(f"sinkhorn: epsilon {epsilon} must be positive and iterations {iterations} at least 1.")
    cost = _centred(distances.detach().double()) / epsilon
    share = cost.shape[0] / cost.shape[1]
    # The plan is diag(u) middle diag(v) with middle = exp(row + column - cost): products of middle with u and v are far
    # cheaper than logarithms of sums.
    row = torch.zeros_like(cost[:, 0])
    u = torch.ones_like(row)
    for number in range(iterations):
        if number % _EVERY == 0:
            row, column = _log_iteration(cost, row + u.log(), share)
            middle = torch.exp(row[:, None] + column - cost)
            u, v = torch.ones_like(row), torch.ones_like(column)
        else:
            v = share / (u @ middle)
            u = 1 / (middle @ v)
    return u[:, None] * middle * v


def balanced_codes(distances: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes int64 [B] of distances [B, K]: the largest entry of each row of the plan, the lowest code on a tie."""
    return sinkhorn(distances, epsilon, iterations).argmax(dim=1)


def _centred(distances: Tensor) -> Tensor:
    """Shifted and scaled so that the smallest is -1 and the largest 1; zeros where all are equal."""
    least, most = distances.min(), distances.max()
    half = (most - least) / 2
    return (distances - (least + most) / 2) / (half if half > 0 else 1.0)


def _log_iteration(cost: Tensor, row: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Potentials row [B] and column [K] after scaling the columns, then the rows, of exp(row + column - cost)."""
    column = math.log(share) - torch.logsumexp(row[:, None] - cost, dim=0)
    return -torch.logsumexp(column - cost, dim=1), column

"""LETTER's policy for equal codes: those items, and only they, get other codes on the last level (arXiv 2405.07314).

The official code balances the items of one identifier over all codes of the last level, whoever holds them: with two
items and 256 codes that puts both onto nearly arbitrary ones. Here a code takes one vector at most, what other
vectors hold is not for choice, and codes may stay free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gemsbench.errors import InputError
from gemsbench.identifiers.distinct_rows import Float32Array, Int64Array, distinct_rows
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser
from gemsbench.identifiers.sinkhorn import sinkhorn

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_CHUNK = 8192  # vectors whose distances are computed at a time


@dataclass(frozen=True)
class ReassignmentSettings:
    """How colliding items are re-assigned (official code: generate_indices.py); raises InputError out of range."""

    epsilon: float = 0.003
    iterations: int = 50
    rounds: int = 20  # 0: equal codes stay

    def __post_init__(self) -> None:
        for name, right in (("epsilon", self.epsilon > 0), ("iterations", self.iterations > 0)):
            if not right:
                raise InputError(f"reassignment: {name} is {getattr(self, name)}; it must be positive.")
        if self.rounds < 0:
            raise InputError(f"reassignment: rounds is {self.rounds}; it must be 0 or more.")


@dataclass(frozen=True, eq=False)
class Reassigned:
    """codes: int64 [n, L]. moved: items whose last code changed. rounds: of the prefix that needed most of them."""

    codes: Int64Array
    moved: int
    rounds: int


def reassign(
    model: ResidualQuantiser, vectors: Float32Array, codes: Int64Array, settings: ReassignmentSettings
) -> Reassigned:
    """Give vectors that share their codes others on the last level, near to them and held by no other vector.

    vectors: float32 [n, D]; codes: int64 [n, L], what the model quantises them to. All other levels stay, and so does
    an item that shares its codes with no other vector. Equal vectors stay together: no distance tells them apart.
    Vectors for which no code is left below their prefix, or no round, still share codes.
    """
    first, inverse = distinct_rows(vectors)
    found = codes[first].copy()
    last = found[:, -1]  # a view: what is written here is written there
    prefixes = np.unique(found[:, :-1], axis=0, return_inverse=True)[1].reshape(-1)
    shared = _shared(prefixes * model.codebook_size + last)
    movers = np.flatnonzero(shared)
    if not len(movers):
        return Reassigned(codes.copy(), 0, 0)
    movers = movers[np.argsort(prefixes[movers], kind="stable")]
    crowded, starts = np.unique(prefixes[movers], return_index=True)
    held = np.zeros((len(crowded), model.codebook_size), np.bool_)
    others = np.isin(prefixes, crowded) & ~shared
    held[np.searchsorted(crowded, prefixes[others]), last[others]] = True
    distances = _last_distances(model, vectors[first[movers]], found[movers])
    rounds = 0
    for taken, members, rows in zip(held, np.split(movers, starts[1:]), np.split(distances, starts[1:]), strict=True):
        last[members], used = _settled(rows, taken, last[members], settings)
        rounds = max(rounds, used)
    after = found[inverse]
    return Reassigned(after, int((after[:, -1] != codes[:, -1]).sum()), rounds)


def _shared(keys: Int64Array) -> BoolArray:
    """Which entries occur more than once."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] > 1)


@torch.no_grad()
def _last_distances(model: ResidualQuantiser, vectors: Float32Array, codes: Int64Array) -> Float64Array:
    """Squared distances float64 [m, K] of the last level's residuals of vectors [m, D], their first codes given."""
    book = model.codebooks[-1].double()
    parts = []
    for start in range(0, len(vectors), _CHUNK):
        rows = torch.from_numpy(vectors[start : start + _CHUNK])
        chosen = model.codewords(torch.from_numpy(codes[start : start + _CHUNK]))
        residual = model.encoder(model.standardised(rows)) - chosen[:, :-1].sum(dim=1)
        parts.append(torch.cdist(residual.double(), book).square())
    return np.asarray(torch.cat(parts).numpy(), np.float64)


def _settled(
    distances: Float64Array, taken: BoolArray, codes: Int64Array, settings: ReassignmentSettings
) -> tuple[Int64Array, int]:
    """New last codes int64 [k] of the k vectors of one prefix that share theirs, and the rounds it took.

    distances: [k, K]. taken: bool [K], codes that are not for choice; updated in place. Each round is one balanced
    assignment of the vectors that are left; of those that it gives the same code, the one with most of it keeps it.
    """
    codes, left = codes.copy(), np.arange(len(codes))
    for number in range(settings.rounds):
        free = np.flatnonzero(~taken)
        if not len(left) or not len(free):
            return codes, number
        columns, shares = _one_each(distances[left][:, free], settings)
        codes[left] = free[columns]
        by_share = np.lexsort((-shares, columns))
        keeps = by_share[np.unique(columns[by_share], return_index=True)[1]]
        taken[codes[left[keeps]]] = True
        left = np.delete(left, keeps)
    return codes, settings.rounds


def _one_each(distances: Float64Array, settings: ReassignmentSettings) -> tuple[Int64Array, Float64Array]:
    """Column of each row of distances [k, F] and its share of it, balanced so that a column takes one where F >= k."""
    # Rows at distance 0 from all columns stand for the columns that stay free. What all distances of a row have in
    # common does not change the plan, but without it the scaling converges in far fewer iterations.
    excess = distances - distances.min(axis=1, keepdims=True)
    free = np.zeros((max(0, distances.shape[1] - len(distances)), distances.shape[1]))
    plan = sinkhorn(torch.from_numpy(np.concatenate([excess, free])), settings.epsilon, settings.iterations)
    shares, columns = plan[: len(distances)].max(dim=1)
    return np.asarray(columns.numpy()), np.asarray(shares.numpy())

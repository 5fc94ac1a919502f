"""How the released code of arXiv 2601.09496 (Polaris-JZ/GEMS) averages, and what a random scorer gets there.

A row has any number of targets among its candidates, none included. Hit@K is 1 when any of them stands in the first
K. NDCG@K divides by the ideal of the hits *found* in the first K, not of all targets: one hit of eight at the top
gives 1, and a further hit lower down can make NDCG@10 smaller than NDCG@5. Three versions of that code differ in what
is summed and in what the sum is divided by:

rows        any of the row's targets; rows that have a target
rows_empty  any of the row's targets; all rows, those without a target included: they count as missed
targets     the first target of each row; the number of all targets
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import comb

from gemsbench.errors import InputError
from gemsbench.evaluation.metrics import CUTOFFS
from gemsbench.evaluation.ragged import Int64Array

MODES = ("rows", "rows_empty", "targets")
FloatArray = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]


def mode_metrics(ranks: Integers, offsets: Int64Array, ks: Sequence[int] = CUTOFFS) -> dict[str, dict[str, float]]:
    """{mode: {"hit@K": ..., "ndcg@K": ..., "n": denominator}} from the ranks of the targets.

    ranks integer [P], 1-based: those of row q are ranks[offsets[q]:offsets[q + 1]], in the order of its targets (the
    first is the one that `targets` looks at); offsets integer [Q+1], equal neighbours where a row has no target.
    Raises InputError when no row has a target, for a rank below 1, and for a rank that two targets of a row share.
    """
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(counts)), counts)
    _check_targets(counts)
    _check_ranks(ranks, row)
    first = ranks[offsets[:-1][counts > 0]]
    sums: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    for k in ks:
        inside = ranks <= k
        found = np.bincount(row[inside], minlength=len(counts))
        gain = np.bincount(row[inside], _discount(ranks[inside]), minlength=len(counts))
        hit, ndcg = float(np.sum(found > 0)), float(np.sum(gain / _ideal(k)[np.maximum(found, 1)]))
        top = first[first <= k]
        for mode in ("rows", "rows_empty"):
            sums[mode] |= {f"hit@{k}": hit, f"ndcg@{k}": ndcg}
        sums["targets"] |= {f"hit@{k}": float(len(top)), f"ndcg@{k}": float(_discount(top).sum())}
    return _divided(sums, counts)


def chance_levels(
    targets: npt.ArrayLike, candidates: npt.ArrayLike, ks: Sequence[int] = CUTOFFS
) -> dict[str, dict[str, float]]:
    """What mode_metrics gives on average when the candidates are in random order; exact, nothing is drawn.

    targets integer [Q], of each row, 0 allowed; candidates integer [Q], targets included. The number of targets in
    the first K is hypergeometric, and where they stand there is uniform. Raises InputError when no row has a target
    and when a row has more targets than candidates.
    """
    counts, sizes = np.asarray(targets, dtype=np.int64), np.asarray(candidates, dtype=np.int64)
    if counts.shape != sizes.shape or counts.ndim != 1:
        raise InputError(f"targets and candidates are one number per row, not of shapes {counts.shape}, {sizes.shape}.")
    _check_targets(counts)
    if np.any(counts > sizes):
        raise InputError(f"{int(np.sum(counts > sizes))} rows have more targets than candidates. Prepare them again.")
    kinds, rows = np.unique(np.stack([counts, sizes])[:, counts > 0], axis=1, return_counts=True)
    sums: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    for k in ks:
        expected = np.array([_expected(int(n), int(size), min(k, int(size))) for n, size in kinds.T])
        hit, ndcg, first_hit, first_ndcg = (rows @ expected).tolist()
        for mode in ("rows", "rows_empty"):
            sums[mode] |= {f"hit@{k}": hit, f"ndcg@{k}": ndcg}
        sums["targets"] |= {f"hit@{k}": first_hit, f"ndcg@{k}": first_ndcg}
    return _divided(sums, counts)


def _check_targets(counts: Int64Array) -> None:
    if not counts.sum():
        raise InputError(f"none of {len(counts)} rows has a target: there is nothing to average.")


def _check_ranks(ranks: Integers, row: Int64Array) -> None:
    if int(ranks.min()) < 1:
        raise InputError(f"ranks start at 1, the smallest one given is {int(ranks.min())}.")
    if len(np.unique(row * (int(ranks.max()) + 1) + ranks)) != len(ranks):
        raise InputError("two targets of one row have the same rank: give each its own place.")


def _discount(ranks: Integers) -> FloatArray:
    gain: FloatArray = 1.0 / np.log2(ranks.astype(np.float64) + 1.0)
    return gain


def _ideal(k: int) -> FloatArray:
    """[h] = DCG of h hits in the first h places, for h = 0 ... k."""
    return np.concatenate([[0.0], np.cumsum(_discount(np.arange(1, k + 1)))])


def _expected(targets: int, size: int, k: int) -> tuple[float, float, float, float]:
    """Expected Hit@k and NDCG@k of a row, of any target and of the first one, for k <= size and targets >= 1."""
    found = np.arange(1, min(targets, k) + 1)
    chance = comb(targets, found) * comb(size - targets, k - found) / comb(size, k)
    ideal = _ideal(k)
    # h hits at random among k places: each place holds one with chance h / k.
    ndcg = found / k * ideal[k] / ideal[found]
    return float(chance.sum()), float(chance @ ndcg), k / size, float(ideal[k]) / size


def _divided(sums: dict[str, dict[str, float]], counts: Int64Array) -> dict[str, dict[str, float]]:
    by = {"rows": int(np.sum(counts > 0)), "rows_empty": len(counts), "targets": int(counts.sum())}
    return {
        mode: {**{name: value / by[mode] for name, value in sums[mode].items()}, "n": float(by[mode])} for mode in MODES
    }

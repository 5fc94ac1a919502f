"""Hit@K and NDCG@K from scores, with pessimistic ties, for one or several positives per case.

Names: case q has the candidates offsets[q]:offsets[q + 1] of flat arrays; `positive` marks its positives there.
Hit@K is 1 when any positive stands in the first K. NDCG@K is the sum of 1 / log2(rank + 1) over positives in the
first K, divided by its largest possible value for min(K, number of positives) (gain 0 or 1; trec_eval calls the same
number ndcg_cut_K). With one positive the divisor is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gemsbench.errors import CheckError, InputError
from gemsbench.evaluation.ragged import Int64Array, offsets_of

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CUTOFFS = (5, 10)
CASES_AT_A_TIME = 16_384  # bounds the temporary arrays; 16,384 x 100 candidates need about 20 MB
DISCOUNT = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, 2 + max(CUTOFFS))))])  # [k] = sum of first k


@dataclass(frozen=True)
class Ranks:
    """Where the positives stand: those of case q are ranks[offsets[q]:offsets[q + 1]], best first.

    ranks int64 [P], 1-based, pessimistic; above int64 [P]: candidates with a strictly higher score, of either kind;
    negatives_tied, positives_tied int64 [P]: candidates of equal score, the positive itself among positives_tied.
    """

    ranks: Int64Array
    offsets: Int64Array
    above: Int64Array
    negatives_tied: Int64Array
    positives_tied: Int64Array

    @property
    def best(self) -> Int64Array:
        """Rank of the best positive of each case, int64 [Q]."""
        return self.ranks[self.offsets[:-1]]


def rank_positives(scores: Float32Array, offsets: Int64Array, positive: BoolArray) -> Ranks:
    """Pessimistic ranks of all positives: 1 + negatives with a score >= its own + positives ranked above it.

    scores float32 [N], higher is better, -inf allowed; offsets int64 [Q+1]; positive bool [N]. Equal positives are
    counted one after the other. Raises InputError on NaN and on a case without a positive.
    """
    if np.isnan(scores).any():
        raise InputError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN. Use -inf for 'cannot score'.")
    starts = range(0, max(len(offsets) - 1, 1), CASES_AT_A_TIME)
    parts = [_rank_chunk(scores, offsets[start : start + CASES_AT_A_TIME + 1], positive) for start in starts]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Ranks(
        ranks=np.concatenate([part.ranks for part in parts]),
        offsets=offsets_of(lengths),
        above=np.concatenate([part.above for part in parts]),
        negatives_tied=np.concatenate([part.negatives_tied for part in parts]),
        positives_tied=np.concatenate([part.positives_tied for part in parts]),
    )


def _rank_chunk(all_scores: Float32Array, all_offsets: Int64Array, all_positive: BoolArray) -> Ranks:
    scores = all_scores[all_offsets[0] : all_offsets[-1]]
    positive = all_positive[all_offsets[0] : all_offsets[-1]]
    offsets = all_offsets - all_offsets[0]
    places = np.flatnonzero(positive)
    owner = np.searchsorted(offsets, places, side="right") - 1
    order = np.lexsort((places, -scores[places], owner))
    own = scores[places[order]]  # scores of the positives, best first within each case
    counts = np.bincount(owner, minlength=len(offsets) - 1)
    if np.any(counts == 0):
        raise InputError(f"{int(np.sum(counts == 0))} cases have no positive among their candidates.")
    first = offsets_of(counts)
    nth = np.arange(len(own)) - np.repeat(first[:-1], counts)
    at_least, higher = np.empty_like(first, shape=len(own)), np.empty_like(first, shape=len(own))
    for n in range(int(counts.max(initial=0))):
        of_nth = np.flatnonzero(nth == n)
        threshold = np.full(len(counts), np.nan, dtype=np.float32)  # NaN compares false: counts nothing
        threshold[counts > n] = own[of_nth]
        against = np.repeat(threshold, np.diff(offsets))
        at_least[of_nth] = _count(~positive & (scores >= against), offsets)[counts > n]
        higher[of_nth] = _count(~positive & (scores > against), offsets)[counts > n]
    group_start, group_size = _equal_runs(own, nth)
    return Ranks(1 + nth + at_least, first, higher + nth[group_start], at_least - higher, group_size)


def _count(mask: BoolArray, offsets: Int64Array) -> Int64Array:
    counts: Int64Array = np.add.reduceat(mask, offsets[:-1], dtype=np.int64)
    return counts


def _equal_runs(own: Float32Array, nth: Int64Array) -> tuple[Int64Array, Int64Array]:
    """For each positive: the index of the first one with its score in its case, and how many share that score."""
    starts_run = np.ones(len(own), dtype=np.bool_)
    starts_run[1:] = (nth[1:] == 0) | (own[1:] != own[:-1])
    starts = np.flatnonzero(starts_run)
    sizes = np.diff(np.append(starts, len(own)))
    return np.repeat(starts, sizes), np.repeat(sizes, sizes)


def hit(best: npt.NDArray[np.integer], k: int) -> Float64Array:
    """Hit@k of each case from the rank of its best positive, float64 [Q] of 0 and 1."""
    return (best <= k).astype(np.float64)


def ndcg(ranks: npt.NDArray[np.integer], offsets: Int64Array, k: int) -> Float64Array:
    """NDCG@k of each case from the ranks of its positives, float64 [Q] in [0, 1]; k <= 10."""
    gains = np.where(ranks <= k, 1.0 / np.log2(ranks.astype(np.float64) + 1.0), 0.0)
    return _per_case(gains, offsets) / _ideal(offsets, k)


def _per_case(values: Float64Array, offsets: Int64Array) -> Float64Array:
    summed: Float64Array = np.add.reduceat(values, offsets[:-1]) if len(offsets) > 1 else np.empty(0)
    return summed


def _ideal(offsets: Int64Array, k: int) -> Float64Array:
    ideal: Float64Array = DISCOUNT[np.minimum(np.diff(offsets), k)]
    return ideal


def expected_hit(ranks: Ranks, k: int) -> Float64Array:
    """Expectation of Hit@k of each case when equal scores are ordered at random, float64 [Q]."""
    best = ranks.offsets[:-1]
    negatives, size = ranks.negatives_tied[best], ranks.negatives_tied[best] + ranks.positives_tied[best]
    slots = np.clip(k - ranks.above[best], 0, size)  # places in the first k that the tied group fills
    miss = np.ones(len(best))
    for drawn in range(k):  # chance that the first `slots` of the shuffled group are all negatives
        step = np.clip(negatives - drawn, 0, None) / np.maximum(size - drawn, 1)
        miss *= np.where(drawn < slots, step, 1.0)
    return 1.0 - miss


def expected_ndcg(ranks: Ranks, k: int) -> Float64Array:
    """Expectation of NDCG@k of each case when equal scores are ordered at random, float64 [Q]; k <= 10."""
    size = ranks.negatives_tied + ranks.positives_tied
    gains = (DISCOUNT[np.minimum(ranks.above + size, k)] - DISCOUNT[np.minimum(ranks.above, k)]) / size
    return _per_case(gains, ranks.offsets) / _ideal(ranks.offsets, k)


def tied(ranks: Ranks) -> BoolArray:
    """Whether a positive of the case has the score of a negative, bool [Q]."""
    return np.logical_or.reduceat(ranks.negatives_tied > 0, ranks.offsets[:-1])


def summary(ranks: Ranks) -> dict[str, float]:
    """Means over cases: hit@K and ndcg@K (pessimistic), the same with _exp (ties in random order), tie_rate, n."""
    n = len(ranks.offsets) - 1
    if n == 0:
        raise InputError("no cases to average over.")
    values: dict[str, float] = {}
    for k in CUTOFFS:
        values[f"hit@{k}"] = float(hit(ranks.best, k).mean())
        values[f"ndcg@{k}"] = float(ndcg(ranks.ranks, ranks.offsets, k).mean())
        values[f"hit@{k}_exp"] = float(expected_hit(ranks, k).mean())
        values[f"ndcg@{k}_exp"] = float(expected_ndcg(ranks, k).mean())
    return values | {"tie_rate": float(tied(ranks).mean()), "n": n}


def check_one_positive_identities(values: Mapping[str, float], where: str, tolerance: float = 1e-9) -> None:
    """Raise CheckError unless the means could come from cases with one positive each.

    A hit at rank r <= 5 adds 1 / log2(r + 1), between 1 / log2 6 and 1, to NDCG@5; one at 6 <= r <= 10 adds between
    1 / log2 11 and 1 / log2 7 to the step from NDCG@5 to NDCG@10.
    """
    hit5, hit10, ndcg5, ndcg10 = (values[name] for name in ("hit@5", "hit@10", "ndcg@5", "ndcg@10"))
    step, gain = hit10 - hit5, ndcg10 - ndcg5
    held = {
        "Hit@5 / log2 6 <= NDCG@5 <= Hit@5": hit5 / np.log2(6) - tolerance <= ndcg5 <= hit5 + tolerance,
        "Hit@5 <= Hit@10": hit10 >= hit5 - tolerance,
        "(Hit@10 - Hit@5) / log2 11 <= NDCG@10 - NDCG@5 <= (Hit@10 - Hit@5) / log2 7": (
            step / np.log2(11) - tolerance <= gain <= step / np.log2(7) + tolerance
        ),
    }
    broken = [name for name, holds in held.items() if not holds]
    if broken:
        raise CheckError(
            f"{where}: not possible with one positive per case: {'; '.join(broken)} does not hold for "
            f"Hit@5 {hit5:.6f}, Hit@10 {hit10:.6f}, NDCG@5 {ndcg5:.6f}, NDCG@10 {ndcg10:.6f}. "
            "Evaluate the score file again."
        )


def pessimistic_order(scores: Float32Array, offsets: Int64Array, positive: BoolArray) -> Int64Array:
    """A strict rank 1..C for every candidate, int64 [N], in which each positive has its pessimistic rank.

    Higher score first; among equal scores negatives before positives, then the order of the candidates.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((np.arange(len(scores)), positive, -scores, owner))
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.arange(len(scores)) - offsets[owner] + 1  # owner is sorted, so offsets[owner] fits the order
    return ranks

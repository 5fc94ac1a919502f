"""Constrained beam search played on exact prefix log-probabilities, and the certificate of its ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gemsbench.decoding.trie import PackedTree


@dataclass(frozen=True)
class BeamResult:
    """Scores of C candidates, float32, -inf where the beam lost them; the best log-probability of what it lost."""

    scores: npt.NDArray[np.float32]
    best_lost: float  # -inf when nothing was lost

    def certified(self, k: int) -> bool:
        """Whether the first k of this ranking are surely the first k of the exact one (see certified)."""
        return certified(self.scores, self.best_lost, k)


def certified(scores: npt.NDArray[np.float32], best_lost: float, k: int) -> bool:
    """Whether the k best of the scores are surely the k best of all candidates, in this order.

    best_lost: the highest log-probability of a prefix that was pruned. Log-probabilities only fall along a path, so a
    lost candidate is at most as good: the first k are exact when the k-th score is above it.
    """
    if best_lost == -np.inf:
        return True
    best = np.sort(scores)[::-1]
    return bool(best[min(k, len(best)) - 1] > np.float32(best_lost))


def beam_search(tree: PackedTree, totals: npt.NDArray[np.float64], num_beams: int) -> BeamResult:
    """What `generate` with this trie, num_beams beams and no length penalty returns; totals [E] of all prefixes.

    As there, of all continuations the best 2 num_beams are looked at: those among the first num_beams that end an
    identifier are finished, and the best num_beams that do not end go on.
    Raises ValueError for less than one beam, and when an identifier is the beginning of another one (no end token).
    """
    if num_beams < 1:
        raise ValueError(f"num_beams is {num_beams}; there is at least one")
    ends = np.ones(len(totals), dtype=bool)
    ends[tree.step_before[tree.step_before >= 0]] = False
    last = tree.last_steps()
    if not ends[last].all():
        raise ValueError("an identifier is the beginning of another one: beam search needs an end token")
    lost = [-np.inf]
    running = np.array([-1])  # the root
    finished = np.zeros(0, dtype=np.int64)
    while len(running):
        steps = np.flatnonzero(np.isin(tree.step_before, running))
        steps = steps[np.argsort(-totals[steps], kind="stable")]
        place = np.arange(len(steps))
        finishing, going_on = ends[steps] & (place < num_beams), ~ends[steps] & (place < 2 * num_beams)
        going_on &= np.cumsum(going_on) <= num_beams
        pool = np.concatenate([finished, steps[finishing]])
        pool = pool[np.argsort(-totals[pool], kind="stable")]
        finished, running = pool[:num_beams], steps[going_on]
        lost += [*totals[pool[num_beams:]], *totals[steps[~finishing & ~going_on]]]
    scores = np.where(np.isin(last, finished), totals[last], -np.inf).astype(np.float32)
    return BeamResult(scores, float(max(lost)))

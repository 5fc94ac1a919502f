"""Which examples make each step of an epoch: tasks in natural proportion, rows of similar length together.

A task with at least as many examples as the epoch has steps is in every step; a rarer one is missing in some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array

POOL_STEPS = 32  # steps among which examples are sorted by length


@dataclass(frozen=True)
class EpochPlan:
    """Example numbers of an epoch per task; step s has order[task][start[task][s]:stop[task][s]]."""

    order: Mapping[int, Int64Array]
    start: Mapping[int, Int64Array]
    stop: Mapping[int, Int64Array]

    def step(self, step: int) -> list[tuple[int, Int64Array]]:
        """Task and example numbers of a step, shortest example first; tasks without an example are left out."""
        parts = [(task, order[self.start[task][step] : self.stop[task][step]]) for task, order in self.order.items()]
        return [(task, rows) for task, rows in parts if len(rows)]


def steps_per_epoch(n_examples: int, batch_size: int) -> int:
    """Steps in which all examples are seen once; raises InputError when there is none."""
    if not n_examples:
        raise InputError("training: there are no training examples for the tasks of this method.")
    return -(-n_examples // batch_size)


def plan_epoch(tasks: npt.NDArray[np.int8], lengths: Int64Array, batch_size: int, seed: int, epoch: int) -> EpochPlan:
    """Every example once, shuffled; a function of its arguments alone.

    tasks, lengths: task number and number of tokens of each example. Each task is spread evenly over the steps. Pools
    of POOL_STEPS steps are sorted by length and cut into one block per step, and the blocks are shuffled: a step's
    rows of one task have similar lengths, steps come in random order of length.
    """
    n_steps = steps_per_epoch(len(tasks), batch_size)
    order, start, stop = {}, {}, {}
    for task in np.unique(tasks).tolist():
        rng = seeds.stream(seed, "batches", task, epoch)
        rows = rng.permutation(np.flatnonzero(tasks == task))
        bounds = np.arange(n_steps + 1) * len(rows) // n_steps
        block_of_step = np.arange(n_steps)
        for first in range(0, n_steps, POOL_STEPS):
            last = min(first + POOL_STEPS, n_steps)
            pool = rows[bounds[first] : bounds[last]]
            rows[bounds[first] : bounds[last]] = pool[np.argsort(lengths[pool], kind="stable")]
            block_of_step[first:last] = rng.permutation(np.arange(first, last))
        order[task], start[task], stop[task] = rows, bounds[block_of_step], bounds[block_of_step + 1]
    return EpochPlan(order, start, stop)

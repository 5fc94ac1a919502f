"""The order of examples for a trainer that sees batches only: all tasks in every step, sorted within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TaskWindows(Sampler[int]):
    """All examples once per epoch, shuffled; each window of `window` examples (an optimizer step) is sorted by task.

    So every step has the tasks in their natural proportion, give or take chance, and its micro-batches are nearly all
    of one task. The order is a function of (seed, epoch) alone: a resumed training sees the same one.
    """

    def __init__(self, tasks: Sequence[str], window: int, seed: int) -> None:
        """tasks: of each example; window: examples per optimizer step."""
        if window < 1:
            raise ValueError(f"window is {window}; an optimizer step has at least one example.")
        numbers = {task: number for number, task in enumerate(sorted(set(tasks)))}
        self._tasks = torch.tensor([numbers[task] for task in tasks], dtype=torch.int64)
        self._window, self._seed, self._epoch = window, seed, 0

    def __len__(self) -> int:
        return len(self._tasks)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # Two numbers in one seed: the low bits of a generator's seed must differ between epochs.
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        order = torch.randperm(len(self._tasks), generator=generator)
        for window in torch.split(order, self._window):
            yield from window[torch.argsort(self._tasks[window], stable=True)].tolist()

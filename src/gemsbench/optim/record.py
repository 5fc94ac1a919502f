"""What is known of one optimizer step while its backward passes run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gemsbench.optim.sums import ProjectedSums


@dataclass(frozen=True)
class Rows:
    """The rows of a mixed batch that belong to one task, as a slice where they lie together."""

    task: str
    index: slice | Tensor


@dataclass
class Batch:
    """One backward pass: of one task, or of a batch whose rows have tasks of their own (rows; n_rows in all)."""

    task: str | None
    tokens: Mapping[str, float]
    last: bool = False
    rows: Sequence[Rows] = ()
    n_rows: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)

    def backward(self, loss: Tensor, losses: Mapping[str, Tensor] | None = None) -> None:
        """loss.backward(), and remember the loss, a sum over target tokens, for the gate.

        losses: the same per task, of a mixed batch.
        """
        self.record(loss, losses)
        loss.backward()  # type: ignore[no-untyped-call]

    def record(self, loss: Tensor, losses: Mapping[str, Tensor] | None = None) -> None:
        """Remember the loss only; for those who run the backward pass themselves."""
        if losses is not None:
            self.losses = {task: value.detach() for task, value in losses.items()}
        elif self.task is not None:
            self.losses = {self.task: loss.detach()}


@dataclass
class StepRecord:
    """Sums over the backward passes of one step; keys of sums and gradients are numbers of matrices."""

    step: int  # counted from 1
    cross: bool  # whether the gate learns in this step
    weights: dict[str, Tensor] | None = None  # of the gate, where they are known beforehand
    tokens: dict[str, float] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[int, ProjectedSums] = field(default_factory=dict)
    gradients: dict[int, dict[str | None, Tensor]] = field(default_factory=dict)  # [m, n], of full size
    squares: dict[str, list[Tensor]] = field(default_factory=dict)  # of own projections, per task and matrix
    alignment: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)  # parts of H of the gate
    finished: set[int] = field(default_factory=set)
    passes: int = 0  # opened so far
    last: bool = False  # whether the present pass said that it is the last one
    broken: bool = False  # whether a pass has not come to its end
    unnamed: bool = False  # whether a pass came that no task was named for

    @property
    def sole(self) -> bool:
        """Whether the present pass is all that the step has, so that its token counts are final."""
        return self.passes == 1 and self.last

    def of(self, number: int) -> ProjectedSums:
        """The sums of a matrix, empty at first."""
        return self.sums.setdefault(number, ProjectedSums())

    def add_gradient(self, number: int, task: str | None, gradient: Tensor) -> None:
        """Add a gradient of full size, which becomes the record's own."""
        kept = self.gradients.setdefault(number, {})
        if task in kept:
            kept[task] += gradient
        else:
            kept[task] = gradient

    def close(self, batch: Batch) -> None:
        """Take in the losses of a pass that is over."""
        self.broken = False
        for task, loss in batch.losses.items():
            self.losses[task] = self.losses[task] + loss if task in self.losses else loss

    def shared_weights(self, token_mean: bool) -> dict[str | None, float]:
        """What the sums of each task count in the shared gradient (Eq. 11); 1 where no task was named."""
        total = sum(self.tokens.values())
        named: dict[str | None, float] = {
            task: 1 / (total if token_mean else tokens) for task, tokens in self.tokens.items()
        }
        return {None: 1.0, **named}


def rows_by_task(tasks: Sequence[str]) -> list[Rows]:
    """The rows of each task of a mixed batch, tasks in order of their first row."""
    found = []
    for task in dict.fromkeys(tasks):
        places = [place for place, name in enumerate(tasks) if name == task]
        together = places[-1] - places[0] + 1 == len(places)
        found.append(Rows(task, slice(places[0], places[-1] + 1) if together else torch.tensor(places)))
    return found

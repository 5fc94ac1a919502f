"""What the benchmark asks of a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from optimizer_steps.clocks import Clock, Seconds
from optimizer_steps.models import Batch


@dataclass(frozen=True)
class Occasional:
    """Time that a step in `every` needs on top, for the whole model, and how it was measured."""

    seconds: Seconds
    every: int
    how: str


class Contender(Protocol):
    """One method with a model of its own."""

    model: nn.Module

    def step(self, batch: Batch, clock: Clock) -> None:
        """One optimizer step on the batch, in the phases forward, backward and optimizer; no basis is refreshed."""

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """What only some steps do: "refresh" of every basis, "gate"; none of it is part of `step`."""

    def state(self) -> list[Tensor]:
        """Every tensor of the optimizer's state."""

    def formula(self) -> dict[str, int]:
        """Bytes that the formulas give: state, gradients (alive at once before the step)."""

"""What the training loop asks of an optimizer that keeps the tasks' gradients apart (GEMS, arXiv 2601.09496).

A protocol and not the class: methods that use another optimizer do not depend on the code of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class TaskPart(Protocol):
    """One micro-batch of one task."""

    def record(self, loss_sum: Tensor) -> None:
        """Tell the optimizer the loss whose backward pass follows."""
        ...


@runtime_checkable
class TaskOptimizer(Protocol):
    """An optimizer that must be told whose gradient comes next."""

    def task(self, name: str, tokens: float, last: bool = False) -> AbstractContextManager[TaskPart]:
        """Within the block all gradients are those of this task; tokens: by what the sum of its losses is divided."""
        ...

    def gradient_norms(self) -> Mapping[str, float]:
        """Norm of each task's gradient collected for the coming step."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Figures for the log."""
        ...

    def effective_ranks(self) -> Mapping[str, tuple[int, int]]:
        """Name of each projected matrix -> ranks of its shared and task subspaces."""
        ...


def trained_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name.

    Those that take a gradient, and those in a group with a rank: GEMS may project the backward pass itself, and then
    asks autograd for no gradient of the matrices that it moves.
    """
    projected = {id(p) for group in optimizer.param_groups if "rank" in group for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in projected}

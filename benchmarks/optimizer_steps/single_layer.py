"""GEMS on one linear layer whose input wants no gradient: what time passes is the optimizer's."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS, KnowledgeBasis, bases, gems_param_groups
from gemsbench.optim.knowledge_basis import BasisGroup
from optimizer_steps.clocks import Seconds, timed
from optimizer_steps.models import TASKS, Batch

NEVER = 10**9  # steps


class SingleLayer:
    """A layer [rows, columns] with random inputs of the batch's positions; the forward pass is not repeated."""

    def __init__(
        self, shape: tuple[int, int], rank: int, preset: str, knows: bool, like: Tensor, batch: Batch, **overrides: Any
    ) -> None:
        rows, columns = shape
        self.device, self.mixed, self.batch = like.device.type, preset == "fast", batch
        layer = nn.Linear(columns, rows, bias=False, device=like.device, dtype=like.dtype)
        model = nn.ModuleDict({"layer": layer})
        known = random_basis((("layer",), columns)) if knows else None
        settings = {"update_gap": NEVER, "gate_every": NEVER, **overrides}
        groups = gems_param_groups(model, rank=rank)
        self.optimizer = GEMS(groups, lr=1e-5, tasks=TASKS, preset=preset, null_space=known, **settings)
        parts = [batch] if self.mixed else [batch.part(task) for task in TASKS]
        sizes = [next(iter(part.states.values())).shape[:2] for part in parts]
        outputs = [layer(torch.randn(*size, columns).to(like)) for size in sizes]
        self._passes = list(zip(parts, outputs, (torch.randn_like(output) for output in outputs), strict=True))
        with randomised():
            self.step()
            self.step()

    def step(self) -> None:
        """The backward passes and the update."""
        for part, output, gradient in self._passes:
            loss = torch.ones((), device=self.device)
            if self.mixed:
                with self.optimizer.mixed_batch(list(part.tasks), tokens=part.tokens, last=True) as seen:
                    seen.record(loss, dict.fromkeys(TASKS, loss))
                    output.backward(gradient, retain_graph=True)
            else:
                task = part.tasks[0]
                with self.optimizer.task(task, tokens=part.tokens[task], last=task == TASKS[-1]) as seen:
                    seen.record(loss)
                    output.backward(gradient, retain_graph=True)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def refresh_step(self) -> None:
        """A step in which every basis is due."""
        for group in self.optimizer.param_groups:
            group["update_gap"] = 1
        self.step()
        for group in self.optimizer.param_groups:
            group["update_gap"] = NEVER


def extra(of: Any, less: Any, device: str, pairs: int = 3) -> Seconds:
    """What one call takes more than another: median over pairs, at least 0."""
    more = []
    for _ in range(pairs):
        first, second = timed(of, device), timed(less, device)
        more.append((first.wall - second.wall, first.processor - second.processor))
    return Seconds(*(max(0.0, statistics.median(values)) for values in zip(*more, strict=True)))


@contextmanager
def randomised() -> Iterator[None]:
    """First bases by the randomised way whatever the size: their content does not change what a step costs."""
    before, bases.EXACT_UP_TO = bases.EXACT_UP_TO, 0
    try:
        yield
    finally:
        bases.EXACT_UP_TO = before


def random_basis(*groups: tuple[tuple[str, ...], int]) -> KnowledgeBasis:
    """Random directions, n / 8 for each group (names of layers that read one tensor, its width n)."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for members, width in groups:
        directions = torch.linalg.qr(torch.randn(width, max(1, width // 8), generator=generator))[0]
        spectrum = torch.linspace(1, 0, width)
        made.append(BasisGroup(members, directions.to(torch.bfloat16), spectrum, float(spectrum.sum()), 1))
    return KnowledgeBasis(tuple(made), "input", "n/8", 0, "", {}, {})

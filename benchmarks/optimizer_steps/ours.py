"""GEMS in its three ways: `paper`, `paper` layer by layer, and `fast`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS, GEMSConfig, KnowledgeBasis, accounting, bases, gems_param_groups
from gemsbench.optim.input_groups import find_groups
from optimizer_steps.clocks import Clock, Seconds, timed
from optimizer_steps.contender import Occasional
from optimizer_steps.models import TASKS, Batch, Setup, linears, task_sums, token_losses
from optimizer_steps.peers import trained_shapes
from optimizer_steps.single_layer import NEVER, SingleLayer, extra, random_basis, randomised


class Gems:
    """A preset of GEMS on every linear layer; micro-batches of one task each, or one mixed batch where it is `fast`."""

    def __init__(self, setup: Setup, preset: str, null_space: KnowledgeBasis | None, **overrides: Any) -> None:
        self.model = setup.model()
        self.shapes, self.rank, self.mixed = trained_shapes(self.model), setup.rank, preset == "fast"
        self.preset, self.null_space, self.gap, self.overrides = preset, null_space, setup.update_gap, overrides
        settings = {"update_gap": NEVER, "gate_every": NEVER, **overrides}
        groups = gems_param_groups(self.model, rank=setup.rank)
        self.optimizer = GEMS(groups, lr=1e-5, tasks=TASKS, preset=preset, null_space=null_space, **settings)
        self.weights = [layer.weight for _, layer in linears(self.model)]

    def prime(self, batch: Batch) -> None:
        """The first steps, in which bases and state are made."""
        with randomised():
            for _ in range(2):
                self.step(batch, Clock(self.weights[0].device.type))

    def step(self, batch: Batch, clock: Clock) -> None:
        """The whole batch at once, or its tasks one after the other; then one update."""
        if self.mixed:
            self._mixed(batch, clock)
        else:
            self._separate(batch, clock)
        with clock.phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _mixed(self, batch: Batch, clock: Clock) -> None:
        with clock.phase("forward"):
            losses = token_losses(self.model, batch)
            sums = task_sums(losses, batch.tasks)
            loss = losses.sum()
        with (
            clock.phase("backward"),
            self.optimizer.mixed_batch(list(batch.tasks), tokens=batch.tokens, last=True) as part,
        ):
            part.backward(loss, losses=sums)

    def _separate(self, batch: Batch, clock: Clock) -> None:
        for task in TASKS:
            rows = batch.part(task)
            with clock.phase("forward"):
                loss = token_losses(self.model, rows).sum()
            with (
                clock.phase("backward"),
                self.optimizer.task(task, tokens=rows.tokens[task], last=task == TASKS[-1]) as part,
            ):
                part.backward(loss)

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """New bases every gap, and what the gate learns from; of one layer per shape, times their number."""
        refresh, gate = Seconds(), Seconds()
        for shape in dict.fromkeys(self.shapes):
            count, single = self.shapes.count(shape), self._single(shape, batch)
            once = extra(single.refresh_step, single.step, device) if self.mixed else self._decomposed(shape, device)
            refresh = refresh + once * count
            gate = gate + extra(self._single(shape, batch, gate_every=1).step, single.step, device) * count
        less = "one layer's backward and update with it less without, times the layers of its shape"
        exact = "leading_basis of one random matrix per shape, times their number"
        return {
            "refresh": Occasional(refresh, self.gap, less if self.mixed else exact),
            "gate": Occasional(gate, GEMSConfig().gate_every, less),
        }

    def _single(self, shape: tuple[int, int], batch: Batch, **more: Any) -> SingleLayer:
        knows = self.null_space is not None
        return SingleLayer(shape, self.rank, self.preset, knows, self.weights[0], batch, **self.overrides, **more)

    def _decomposed(self, shape: tuple[int, int], device: str) -> Seconds:
        rows, columns = shape
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn((columns, rows) if rows >= columns else (rows, columns)).to(device)
        spent = Seconds()
        for rank in (self.rank, self.rank // 2, self.rank // 2):
            clipped = min(rank, rows, columns)
            spent = spent + timed(lambda r=clipped: bases.leading_basis(matrix, r, generator), device)  # type: ignore[misc]
        return spent

    def state(self) -> list[Tensor]:
        """Bases, their copies, moments, step counts and flags of the matrices."""
        return [value for state in self.optimizer.state.values() for value in state.values()]

    def formula(self) -> dict[str, int]:
        """By the side, the ranks and the null space's mode."""
        tasks = (self.rank // 2,) * len(TASKS)
        side: accounting.Side = "right" if self.mixed else "std"
        backward: Literal["full", "projected"] = "projected" if self.mixed else "full"
        cost = accounting.Cost()
        for rows, columns in self.shapes:
            knows = self.null_space is not None
            free = columns - max(1, columns // 8) if knows and self.mixed else None
            copied = knows and not self.mixed and rows >= columns
            cost = cost + accounting.gems(rows, columns, self.rank, tasks, side, backward, copied, free)
        size = self.weights[0].element_size()
        return {
            "state": cost.state_bytes(size, 4),
            "gradients": cost.gradients * (4 if self.mixed else size),
        }


def random_knowledge(model: nn.Module, batch: Batch) -> KnowledgeBasis:
    """A knowledge basis of random directions, n / 8 per group of layers that read one tensor."""
    groups = find_groups(model, batch.states, dict(linears(model)), "input")
    return random_basis(*((group.members, group.width) for group in groups))

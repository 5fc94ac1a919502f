"""The scheme of the method's released code, written from a description of what it does.

Per batch three forwards and backwards (the whole batch, one task's rows, the other's), each leaving a full gradient;
three bases by full SVD, `std` side, three pairs of moments, epsilon 1e-6, one step count; the task updates are weighted
by 0.4 loss share + 0.4 gradient-norm share + 0.2 sample share; decoupled decay 0.01. Its projection of the gradients on
a null space is left out (it would only add to its cost).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gemsbench.optim import accounting
from optimizer_steps.clocks import Clock, Seconds, timed
from optimizer_steps.contender import Occasional
from optimizer_steps.models import TASKS, Batch, Setup, linears, token_losses
from optimizer_steps.peers import trained_shapes


@dataclass
class Subspace:
    """A basis [width, r], and moments of what it projects."""

    basis: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    right: bool

    @classmethod
    def start(cls, weight: Tensor, rank: int) -> Subspace:
        """An arbitrary basis and zero moments."""
        rows, columns = weight.shape
        right, rank = rows >= columns, min(rank, rows, columns)
        basis = weight.new_zeros((columns if right else rows, rank)).fill_diagonal_(1)
        shape = (rows, rank) if right else (rank, columns)
        return cls(basis, weight.new_zeros(shape, dtype=torch.float32), weight.new_zeros(shape).float(), right)

    def direction(self, gradient: Tensor, step: int) -> Tensor:
        """Adam's step in the subspace, back in the shape of the weight."""
        projected = (gradient @ self.basis if self.right else self.basis.T @ gradient).float()
        self.exp_avg.mul_(0.9).add_(projected, alpha=0.1)
        self.exp_avg_sq.mul_(0.999).addcmul_(projected, projected, value=0.001)
        size = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        moved = (self.exp_avg / self.exp_avg_sq.sqrt().add_(1e-6) * size).to(gradient.dtype)
        return moved @ self.basis.T if self.right else self.basis @ moved


class ThreePasses:
    """Shared rank r, task ranks r / 2."""

    def __init__(self, setup: Setup) -> None:
        self.model = setup.model()
        self.shapes = trained_shapes(self.model)
        self.weights = [layer.weight.requires_grad_() for _, layer in linears(self.model)]
        self.ranks = (setup.rank, setup.rank // 2, setup.rank // 2)
        self.subspaces = [[Subspace.start(weight, rank) for rank in self.ranks] for weight in self.weights]
        self.steps, self.lr, self.decay, self.gap = 0, 1e-5, 0.01, setup.update_gap

    def step(self, batch: Batch, clock: Clock) -> None:
        """Three passes and one update."""
        gradients, losses = [], []
        for part in (batch, *(batch.part(task) for task in TASKS)):
            with clock.phase("forward"):
                loss = token_losses(self.model, part).mean()
            with clock.phase("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
                gradients.append([_taken(weight) for weight in self.weights])
            losses.append(loss.item())
        with clock.phase("optimizer"):
            self._update(gradients, self._gate(gradients, losses, batch))
            gradients.clear()

    def _gate(self, gradients: list[list[Tensor]], losses: list[float], batch: Batch) -> list[float]:
        norms = [float(nn.utils.get_total_norm(kept)) for kept in gradients[1:]]
        counts = [batch.tasks.count(task) for task in TASKS]
        shares = zip(losses[1:], norms, counts, strict=True)
        return [
            0.4 * loss / sum(losses[1:]) + 0.4 * norm / sum(norms) + 0.2 * count / sum(counts)
            for loss, norm, count in shares
        ]

    @torch.no_grad()
    def _update(self, gradients: list[list[Tensor]], gate: list[float]) -> None:
        self.steps += 1
        for index, weight in enumerate(self.weights):
            shared, *own = (
                subspace.direction(kept[index], self.steps)
                for kept, subspace in zip(gradients, self.subspaces[index], strict=True)
            )
            update = shared
            for direction, share in zip(own, gate, strict=True):
                update.add_(direction, alpha=share)
            weight.add_(update, alpha=-self.lr)
            weight.mul_(1 - self.lr * self.decay)

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """Three full SVDs of every matrix; one matrix per shape is timed."""
        spent = Seconds()
        for shape in dict.fromkeys(self.shapes):
            matrix = torch.randn(shape).to(self.weights[0]).float()
            once = timed(lambda m=matrix: torch.linalg.svd(m, full_matrices=False), device)  # type: ignore[misc]
            spent = spent + once * (3 * self.shapes.count(shape))
        how = "one random matrix per shape, times their number and three"
        return {"refresh": Occasional(spent, self.gap, how)}

    def state(self) -> list[Tensor]:
        """Bases and moments."""
        kept = [subspace for three in self.subspaces for subspace in three]
        return [tensor for each in kept for tensor in (each.basis, each.exp_avg, each.exp_avg_sq)]

    def formula(self) -> dict[str, int]:
        """GEMS `std` without counters, and three gradients."""
        shared, *tasks = self.ranks
        cost = accounting.total((accounting.gems(*shape, shared, tasks), 1) for shape in self.shapes)
        size = self.weights[0].element_size()
        elements = sum(weight.numel() for weight in self.weights)
        return {"state": cost.state_bytes(size, 4) - cost.counters, "gradients": 3 * elements * size}


def _taken(weight: Tensor) -> Tensor:
    gradient = weight.grad
    assert gradient is not None
    weight.grad = None
    return gradient

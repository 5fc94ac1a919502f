"""GEMS for one matrix, written from the equations with full m x n matrices: what the optimizer is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHARED = "shared"


@dataclass(frozen=True)
class Rules:
    """What the oracle is told; the words are those of the optimizer's settings."""

    tasks: tuple[str, ...]
    rank: int
    task_rank: int
    lr: float
    scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    gap: int = 200
    side: str = "std"
    shared: str = "sum"
    transfer: str = "keep"
    task_basis: str = "raw"
    form: str = "complement"
    mode: str = "post"
    counter: str = "per_task"


@dataclass
class Component:
    """One subspace: basis [a, r] (a = n on the right, m on the left), moments [m, r] or [r, n]."""

    basis: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    steps: int = 0
    due: bool = True


@dataclass
class DenseGems:
    """The whole trajectory of one weight [m, n], in the weight's dtype.

    knowledge: orthonormal columns U_k, [n, k] (input side: acts from the right) or [m, k] (output side: from the left).
    """

    weight: Tensor
    rules: Rules
    knowledge: Tensor | None = None
    knowledge_side: str = "input"
    time: int = 0
    parts: dict[str, Component] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weight = self.weight.detach().clone()
        self.parts = {name: Component() for name in (SHARED, *self.rules.tasks)}
        m, n = self.weight.shape
        self.right = {"std": m >= n, "right": True, "left": False}[self.rules.side]

    def rank(self, name: str) -> int:
        wanted = self.rules.rank if name == SHARED else self.rules.task_rank
        return min(wanted, *self.weight.shape)

    def projector(self) -> Tensor:
        """P, n x n on the input side and m x m on the output side."""
        assert self.knowledge is not None
        onto = self.knowledge @ self.knowledge.T
        return onto if self.rules.form == "literal" else torch.eye(len(onto), dtype=onto.dtype) - onto

    def filtered(self, matrix: Tensor) -> Tensor:
        """Delta P, or P Delta on the output side; unchanged without a null space."""
        if self.knowledge is None:
            return matrix
        return matrix @ self.projector() if self.knowledge_side == "input" else self.projector() @ matrix

    def means(self, sums: Mapping[str, Tensor], tokens: Mapping[str, float]) -> dict[str, Tensor]:
        """Gradients per component: of every task that is there, and the shared one."""
        found = {name: sums[name] / tokens[name] for name in self.rules.tasks if name in sums}
        if not found:
            return {}
        total = sum(tokens[name] for name in found)
        shared = sum(found.values()) if self.rules.shared == "sum" else sum(sums[name] for name in found) / total
        assert isinstance(shared, Tensor)
        return {SHARED: shared, **found}

    def new_basis(self, name: str, gradient: Tensor, stored: Tensor | None) -> Tensor:
        """Top singular vectors; only their signs, which are arbitrary, are taken from `stored`."""
        source = self.filtered(gradient) if self.rules.mode == "subspace" else gradient
        if name != SHARED and self.rules.task_basis == "residual":
            shared = self.parts[SHARED].basis
            assert shared is not None
            source = source - (source @ shared @ shared.T if self.right else shared @ shared.T @ source)
        u, _, vh = torch.linalg.svd(source, full_matrices=False)
        basis = (vh.T if self.right else u)[:, : self.rank(name)]
        if stored is None:
            return basis
        agreement = (basis * stored).sum(dim=0)
        assert (agreement.abs() > 0.999).all(), f"{name}: not the singular vectors of this gradient: {agreement}"
        return basis * agreement.sign()

    def adopt(self, name: str, basis: Tensor) -> None:
        """Replaces a basis and moves the moments as the rules say."""
        part = self.parts[name]
        if part.basis is not None and self.rules.transfer == "rotate":
            assert part.first is not None and part.second is not None
            turn = basis.T @ part.basis
            if self.right:
                part.first, part.second = part.first @ turn.T, part.second @ (turn**2).T
            else:
                part.first, part.second = turn @ part.first, turn**2 @ part.second
        part.basis = basis

    def direction(self, name: str, gradient: Tensor) -> Tensor:
        """One component's Adam direction brought back to m x n."""
        part, (beta1, beta2) = self.parts[name], self.rules.betas
        assert part.basis is not None
        small = gradient @ part.basis if self.right else part.basis.T @ gradient
        part.first = (1 - beta1) * small + (beta1 * part.first if part.first is not None else 0)
        part.second = (1 - beta2) * small**2 + (beta2 * part.second if part.second is not None else 0)
        part.steps += 1
        steps = part.steps if self.rules.counter == "per_task" else self.time
        adam = (part.first / (1 - beta1**steps)) / ((part.second / (1 - beta2**steps)).sqrt() + self.rules.eps)
        return adam @ part.basis.T if self.right else part.basis @ adam

    def step(
        self,
        sums: Mapping[str, Tensor],
        tokens: Mapping[str, float],
        gate: Mapping[str, float],
        stored: Mapping[str, Tensor] | None = None,
        trusted: bool = False,
    ) -> Tensor:
        """One step from sums of gradients; returns the change of the weight [m, n].

        stored: the optimizer's bases [a, r] by component, for the signs; `trusted`: they are used as they are.
        """
        gradients = self.means(sums, tokens)
        if not gradients:
            return torch.zeros_like(self.weight)
        if self.rules.mode == "gradient":
            gradients = {name: self.filtered(gradient) for name, gradient in gradients.items()}
        if self.time % self.rules.gap == 0:
            for part in self.parts.values():
                part.due = True
        self.time += 1
        fused = torch.zeros_like(self.weight)
        for name, gradient in gradients.items():
            if self.rank(name) == 0:
                continue
            hint = None if stored is None else stored[name]
            if trusted:
                assert hint is not None
                self.adopt(name, hint)
            elif self.parts[name].due:
                self.adopt(name, self.new_basis(name, gradient, hint))
            self.parts[name].due = False
            fused += (1.0 if name == SHARED else gate[name]) * self.direction(name, gradient)
        final = fused if self.rules.mode == "gradient" else self.filtered(fused)
        before = self.weight
        moved = before - self.rules.lr * self.rules.scale * final
        self.weight = moved * (1 - self.rules.lr * self.rules.weight_decay)
        return self.weight - before

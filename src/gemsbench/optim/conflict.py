"""How much two tasks pull against each other: in their gradients, and in what each contributes to an update.

The paper's rho = 1 - cos (Eq. 21) lies in [0, 2] and is about 1 for unrelated vectors, so it needs a baseline: the same
number for two random halves of one task. Which vectors the paper compares it does not say; three readings are here:

- raw gradients: `task_gradients`, per matrix;
- their effect on W for an adapter W + c B A: `LowRankChange`, comparable with matrices of full size;
- updates: Adam's first moment is linear in the gradient, so it splits by task, while the denominator stays joint:
  `AdamAttribution` for AdamW, with or without LoRA, and `GEMS.attributed_updates`.

Labels need not be tasks: name the halves of a batch to get the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conflict:
    """Two contributions u, v to one update.

    rho: 1 - cos(u, v). cancellation: 1 - |u + v| / (|u| + |v|), the share that is lost. NaN where one is zero.
    """

    rho: float
    cancellation: float


@dataclass(frozen=True)
class LowRankChange:
    """c (B dA + dB A), the first-order change of W + c B A; never formed. a, da [r, n]; b, db [m, r]."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor
    scale: float

    def inner(self, other: LowRankChange) -> Tensor:
        """The Frobenius inner product with another change of the same adapter."""
        own = (self.da * ((self.b.T @ self.b) @ other.da)).sum() + ((self.db @ (self.a @ self.a.T)) * other.db).sum()
        mixed = ((self.da @ self.a.T) * (self.b.T @ other.db)).sum() + (
            (other.da @ self.a.T) * (self.b.T @ self.db)
        ).sum()
        return self.scale**2 * (own + mixed)

    def dense(self) -> Tensor:
        """The change as a matrix [m, n]."""
        return self.scale * (self.b @ self.da + self.db @ self.a)


def conflict(first: Tensor | LowRankChange, second: Tensor | LowRankChange) -> Conflict:
    """Both measures of two vectors of any one shape, computed in float64."""
    one, two, both = (float(inner(*pair)) for pair in ((first, first), (second, second), (first, second)))
    norms = max(one, 0.0) ** 0.5, max(two, 0.0) ** 0.5
    if not all(norms):
        return Conflict(float("nan"), float("nan"))
    joint = max(one + two + 2 * both, 0.0) ** 0.5
    return Conflict(1 - both / (norms[0] * norms[1]), 1 - joint / sum(norms))


def inner(first: Tensor | LowRankChange, second: Tensor | LowRankChange) -> Tensor:
    """The inner product of two contributions of the same kind."""
    if isinstance(first, LowRankChange) and isinstance(second, LowRankChange):
        return first.inner(second)
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return (first.double() * second.double()).sum()
    raise TypeError("conflict: compare two matrices, or two changes of one adapter.")


def task_gradients(
    parameters: Mapping[str, Tensor], passes: Mapping[str, Callable[[], Any]]
) -> dict[str, dict[str, Tensor]]:
    """Gradients per parameter and label: parameter name -> {label: gradient}.

    passes: label -> a function that runs one backward pass (on batches of equal token counts, without dropout).
    Gradients that were there, and requires_grad, are put back, so a probe does not disturb the training; with GEMS call
    it inside `with optimizer.paused()`.
    """
    kept = {name: (parameter.grad, parameter.requires_grad) for name, parameter in parameters.items()}
    found: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for label, run in passes.items():
            for parameter in parameters.values():
                parameter.grad = None
            run()
            for name, parameter in parameters.items():
                found[name][label] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    finally:
        for name, parameter in parameters.items():
            parameter.grad, required = kept[name]
            parameter.requires_grad_(required)
    return found


class AdamAttribution:
    """First moments of torch's Adam or AdamW, split by label.

    Wrap every backward pass of a step in `with attribution.label("src")`, call `advance()` right before
    optimizer.step(), and read `updates()` after it. It costs one more moment and one gradient per label.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
        self.optimizer, self.parameters = optimizer, dict(parameters)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._groups = {name: groups[id(parameter)] for name, parameter in self.parameters.items()}
        self._gradients: dict[str, dict[str, Tensor]] = {}
        self._moments: dict[str, dict[str, Tensor]] = {}

    @contextmanager
    def label(self, label: str) -> Iterator[None]:
        """Around one backward pass; the gradients go on adding up in `.grad`."""
        before = {name: parameter.grad for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = None
        try:
            yield
        finally:
            kept = self._gradients.setdefault(label, {})
            for name, parameter in self.parameters.items():
                gradient, earlier = parameter.grad, before[name]
                if gradient is not None:
                    kept[name] = kept[name] + gradient if name in kept else gradient.clone()
                parameter.grad = earlier if gradient is None else gradient if earlier is None else earlier + gradient

    @torch.no_grad()
    def advance(self) -> None:
        """Take the labels' gradients of this step into their moments; a label without any decays."""
        for label in dict.fromkeys([*self._moments, *self._gradients]):
            moments, gradients = self._moments.setdefault(label, {}), self._gradients.get(label, {})
            for name, parameter in self.parameters.items():
                beta = self._groups[name]["betas"][0]
                moment = moments.setdefault(name, torch.zeros_like(parameter))
                moment.mul_(beta).add_(gradients.get(name, torch.zeros_like(parameter)), alpha=1 - beta)
        self._gradients = {}

    @torch.no_grad()
    def updates(self) -> dict[str, dict[str, Tensor]]:
        """What each label contributed to the last update, up to -lr: parameter name -> {label: like the parameter}.

        The contributions of all labels add up to the update without weight decay.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():
            group, state = self._groups[name], self.optimizer.state[parameter]
            count, (beta1, beta2) = float(state["step"]), group["betas"]
            root = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt() + group["eps"]
            found[name] = {label: moments[name] / (1 - beta1**count) / root for label, moments in self._moments.items()}
        return found


def adapter_changes(
    model: nn.Module, contributions: Mapping[str, Mapping[str, Tensor]], adapter: str = "default"
) -> dict[str, dict[str, LowRankChange]]:
    """Gradients or updates of LoRA's A and B as changes of W: module name -> {label: change}.

    contributions: parameter name -> {label: tensor}, as task_gradients and AdamAttribution.updates give them; other
    parameters than adapters' are left out.
    """
    changes: dict[str, dict[str, LowRankChange]] = {}
    for name, module in model.named_modules():
        pair = [f"{name}.lora_{letter}.{adapter}.weight" for letter in "AB"]
        if all(key in contributions for key in pair):
            layer: Any = module
            a, b = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach()
            da, db = (contributions[key] for key in pair)
            changes[name] = {label: LowRankChange(a, b, da[label], db[label], layer.scaling[adapter]) for label in da}
    return changes


def halves(rows: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Two random halves of the rows of one task's batch, int64; an odd row is left out. For the baseline of rho."""
    order = torch.randperm(rows, generator=generator)
    return order[: rows // 2], order[rows // 2 : rows // 2 * 2]

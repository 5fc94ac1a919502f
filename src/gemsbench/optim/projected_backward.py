"""The projected backward: R = B G^T from a layer's input and the gradient at its output, without G.

G = d^T x for an input x [T, n] and an output gradient d [T, m], so B G^T = (x B^T)^T d costs 2 T R (m + n) operations
instead of 2 T m n, nothing of size m x n is made, and rows of different tasks can share one pass. The weight itself
needs no gradient. The input is saved by autograd, so activation checkpointing recomputes it like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gemsbench.optim.matrix import ProjectedMatrix
from gemsbench.optim.record import Batch, StepRecord
from gemsbench.optim.sums import SHARED, ProjectedSums

_TAPPED: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()  # layer -> its tap


class _Tap(torch.autograd.Function):
    """The identity on a layer's output; hands input and output gradient to `receive` in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, features: Tensor, anchor: Tensor, receive: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(features)
        ctx.receive = receive
        ctx.mark_dirty(output)  # not a view: the layers after it may work in place
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        (features,) = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            ctx.receive(features.detach(), gradient)
        return gradient, None, None, None


class Taps:
    """The taps on all layers of the projected weights, whose own gradients are switched off."""

    def __init__(
        self,
        matrices: Sequence[ProjectedMatrix],
        layers: Sequence[Sequence[nn.Module]],
        current: Callable[[], tuple[Batch | None, StepRecord] | None],
    ) -> None:
        self._matrices, self._current = matrices, current
        self.silent = set(range(len(matrices)))  # those that no gradient has reached so far
        self._handles = []
        for number, (matrix, sharing) in enumerate(zip(matrices, layers, strict=True)):
            matrix.weight.requires_grad_(False)
            # It makes the output require a gradient where nothing before it does.
            anchor = torch.zeros((), device=matrix.weight.device, requires_grad=True)
            for layer in sharing:
                if layer in _TAPPED:  # by an earlier optimizer, which is given up
                    _TAPPED[layer].remove()
                _TAPPED[layer] = layer.register_forward_hook(self._hook(number, anchor, layer), with_kwargs=True)
                self._handles.append(_TAPPED[layer])

    def remove(self) -> None:
        """Take the taps off, and let the weights have gradients again."""
        for handle in self._handles:
            handle.remove()
        for matrix in self._matrices:
            matrix.weight.requires_grad_(True)

    def _hook(
        self, number: int, anchor: Tensor, layer: nn.Module
    ) -> Callable[[nn.Module, Any, Any, Tensor], Tensor | None]:
        def receive(features: Tensor, gradient: Tensor) -> None:
            self._receive(number, features, gradient)

        def hook(module: nn.Module, inputs: Any, named: Any, output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled() or module is not layer:  # a copy of the model is nobody's
                return None
            features = inputs[0] if inputs else named["input"]
            tapped: Tensor = _Tap.apply(output, features, anchor, receive)  # type: ignore[no-untyped-call]
            return tapped

        return hook

    def _receive(self, number: int, features: Tensor, gradient: Tensor) -> None:
        current = self._current()
        if current is None:
            return
        (batch, record), matrix = current, self._matrices[number]
        self.silent.discard(number)
        if batch is None:
            record.unnamed = True
        if batch is None or not batch.rows:
            task = None if batch is None else batch.task
            self._collect(number, record, task, _flat(features), _flat(gradient))
            return
        if len(features) != batch.n_rows:
            raise ValueError(
                f"GEMS: the input of {matrix.name} has {len(features)} rows in its first dimension, the mixed batch "
                f"named {batch.n_rows} tasks. Name one per row, or give each task a pass of its own (opt.task)."
            )
        for rows in batch.rows:
            self._collect(number, record, rows.task, _flat(features[rows.index]), _flat(gradient[rows.index]))

    def _collect(self, number: int, record: StepRecord, task: str | None, x: Tensor, d: Tensor) -> None:
        """Add the projections of the gradient d^T x; x [T, n], d [T, m]."""
        matrix, sums = self._matrices[number], record.of(number)
        x = x.to(d.dtype)
        components = [c for c in (SHARED, task) if c is not None and matrix.usable(c)]
        if record.cross and task is not None:
            components += [c for c in matrix.ranks if c not in (SHARED, task) and matrix.usable(c)]
        if components:  # all of them in one product each way
            rows = torch.cat([matrix.basis_in(c, d.dtype) for c in components])
            products = torch.split(_thin_product(x @ rows.T, d), [matrix.ranks[c] for c in components])
            for component, product in zip(components, products, strict=True):
                self._add(sums, record, matrix, (component, task), product)
        for due in (SHARED, task):
            if due is not None and due in matrix.places and matrix.due(due):
                probe = matrix.probe(due, record.step).to(d.dtype)
                _add(sums.sketch, (due, task), _thin_product(d @ probe.T, x))

    def _add(
        self,
        sums: ProjectedSums,
        record: StepRecord,
        matrix: ProjectedMatrix,
        key: tuple[str, str | None],
        product: Tensor,
    ) -> None:
        component, task = key
        if component == SHARED and record.sole and not matrix.config.attribution:
            # One sum for all tasks, divided at once.
            _add(sums.total, SHARED, product.mul_(record.shared_weights(matrix.config.shared == "token_mean")[task]))
        elif component == SHARED:
            _add(sums.shared, task, product)
        elif component == task:
            _add(sums.own, task, product)
        elif task is not None:
            _add(sums.cross, (component, task), product)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _thin_product(left: Tensor, right: Tensor) -> Tensor:
    """left^T right in float32 (float64 for float64)."""
    product = left.T @ right
    return product if product.dtype == torch.float64 else product.float()


def _add(store: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    """store[key] += value; a part of a larger tensor is copied, or it would keep all of it."""
    if key in store:
        store[key] += value
    else:
        store[key] = value.clone() if value.untyped_storage().nbytes() > value.nbytes else value

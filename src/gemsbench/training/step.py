"""One optimizer step: gradients of all its micro-batches, smaller ones where memory runs out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.training.batches import MicroBatch
from gemsbench.training.task_optimizer import TaskOptimizer, TaskPart, trained_parameters

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class StepLosses:
    """Sums of token losses and numbers of target tokens, per task; norms of gradients, before clipping."""

    sums: Mapping[str, float]
    tokens: Mapping[str, int]
    norms: Mapping[str, float] = field(default_factory=dict)


class Stepper:
    """Makes the steps of one training; `row_limit` is the largest micro-batch memory allowed so far (None: any)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        accelerator: Accelerator,
        seed: int,
        max_grad_norm: float,
        *,
        divisible: bool = True,
    ) -> None:
        self.model, self.optimizer, self.loss, self.accelerator = model, optimizer, loss, accelerator
        self.seed, self.max_grad_norm, self.divisible = seed, max_grad_norm, divisible
        self.row_limit: int | None = None
        self.parameters = list(trained_parameters(model, optimizer).values())

    def step(self, number: int, micro_batches: Sequence[MicroBatch]) -> StepLosses:
        """Step `number` (from 0): one update with the mean loss over the target tokens of all micro-batches.

        Where memory runs out, the step is redone from its beginning with micro-batches of half the rows.
        Raises InputError when a single row, or a batch that cannot be cut, does not fit, and when the loss or a
        gradient is not finite.
        """
        while (losses := self._try(number, micro_batches)) is None:
            clear_device_cache(garbage_collection=True)
        for name, value in losses.sums.items():
            self._check_finite(value, f"the loss of task '{name}'", number)
        norms = self._norms()
        for name, norm in norms.items():
            self._check_finite(norm, f"the {name.replace('_norm', '', 1).replace('_', ' ')}", number)
        try:
            self.optimizer.step()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"training: the optimizer's state does not fit into the memory of {self.accelerator.device}. "
                "Train fewer parameters (LoRA), or take a smaller backbone or a larger device."
            ) from error
        return replace(losses, norms=norms)

    def _try(self, number: int, micro_batches: Sequence[MicroBatch]) -> StepLosses | None:
        """Gradients and losses of the step; None when memory ran out, after lowering the limit."""
        limit = self.row_limit or max(batch.rows for batch in micro_batches)
        parts = [part for batch in micro_batches for part in batch.split(limit)]
        try:
            return self._gradients(number, parts)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            largest = max(part.rows for part in parts)
            if not self.divisible:
                raise InputError(
                    f"training: memory of {self.accelerator.device} ran out in step {number} with a batch of {largest} "
                    "rows, which cannot be cut because its loss is one of all its rows. Lower loop.batch_size."
                ) from error
            if largest == 1:
                raise InputError(
                    f"training: memory of {self.accelerator.device} ran out in step {number} with one prompt per "
                    "micro-batch. Shorten the prompts (history), switch activation_checkpointing on, train in bf16, "
                    "or take a smaller backbone or a larger device."
                ) from error
        self.optimizer.zero_grad(set_to_none=True)
        self.row_limit = largest // 2
        return None

    def _gradients(self, number: int, parts: Sequence[MicroBatch]) -> StepLosses:
        # The random numbers of dropout belong to the step, so that a resumed run draws the same ones.
        torch.manual_seed(seeds.stream_seed(self.seed, "dropout", number))
        self.optimizer.zero_grad(set_to_none=True)
        counts = [part.target_tokens for part in parts]
        final = len(parts) - 1
        losses = [self._backward(part, sum(counts), n == final) for n, part in enumerate(parts)]
        sums: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for part, count, loss in zip(parts, counts, torch.stack(losses).tolist(), strict=True):
            sums[part.task] += loss
            tokens[part.task] += count
        return StepLosses(dict(sums), dict(tokens))

    def _backward(self, part: MicroBatch, step_tokens: int, last: bool) -> Tensor:
        """Add the gradient of one micro-batch; returns its sum of token losses."""
        optimizer = self.optimizer
        tensors = {name: tensor.to(self.accelerator.device) for name, tensor in part.tensors.items()}
        if not isinstance(optimizer, TaskOptimizer):
            return self._add_gradient(tensors, step_tokens, None)
        # Losses and tokens are divided alike: the gradient of a task is the mean over its own target tokens, that of
        # all other parameters the mean over those of the step.
        with optimizer.task(part.task, tokens=part.target_tokens / step_tokens, last=last) as named:
            return self._add_gradient(tensors, step_tokens, named)

    def _add_gradient(self, tensors: Mapping[str, Tensor], step_tokens: int, named: TaskPart | None) -> Tensor:
        with self.accelerator.autocast():
            loss = self.loss(self.model, tensors)
        share = loss / step_tokens
        if named is not None:
            named.record(share.detach())
        self.accelerator.backward(share)
        return loss.detach()

    def _norms(self) -> dict[str, float]:
        """Norms of what the step is made from; gradients that are not kept apart by task are clipped.

        The paper clips none of GEMS's: Adam's step does not depend on their size, and a common norm would let one
        task's gradient shorten the other's.
        """
        if not isinstance(self.optimizer, TaskOptimizer):
            return {"gradient_norm": float(self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm))}
        norms = {f"gradient_norm_of_{task}": norm for task, norm in self.optimizer.gradient_norms().items()}
        others = [p.grad for p in self.parameters if p.grad is not None]
        return {**norms, "gradient_norm_of_the_rest": float(nn.utils.get_total_norm(others))}

    def _check_finite(self, value: float, what: str, number: int) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"training: {what} is {value} in step {number}. Lower the learning rate, lengthen the warm-up, "
                "or train in fp32."
            )

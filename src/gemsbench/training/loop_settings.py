"""Settings of the training loop, and the learning rate that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gemsbench.errors import InputError


@dataclass(frozen=True)
class LoopSettings:
    """How one language model is trained; raises InputError for values out of range.

    Defaults: prompts-and-protocol.md section 10 and the common part of the methods' published settings (AdamW with
    linear decay after a warm-up of 3 %, gradient norm at most 1). One deviates: section 10 evaluates language models
    every 10 % of an epoch (evaluations_per_epoch 10), here it is once per epoch; patience counts evaluations, so 5 of
    them are 5 epochs here and half an epoch there.
    """

    epochs: int = 20  # at most; patience ends the training earlier
    max_steps: int = 0  # at most, over all epochs, for a budget of time; 0: no such cap
    batch_size: int = 128  # prompts per optimizer step
    micro_batch_size: int = 128  # prompts per forward pass; halved where memory runs out
    evaluations_per_epoch: int = 1
    patience: int = 5  # evaluations without a better criterion
    warmup: float = 0.03  # share of all steps during which the learning rate rises
    schedule: Literal["linear", "cosine"] = "linear"  # how it falls to zero afterwards
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, weights and optimizer state stay as they are
    activation_checkpointing: bool = False
    checkpoint_seconds: float = 60.0  # work lost by a kill, more where writing is slow; 0: after every step
    threads: int = 1  # of torch; results are bit-identical for a fixed number

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "micro_batch_size": 1, "evaluations_per_epoch": 1, "patience": 1}
        least |= {"threads": 1, "warmup": 0, "checkpoint_seconds": 0, "max_steps": 0}
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise InputError(f"training: {name} is {getattr(self, name)}; it must be at least {smallest}.")
        if self.warmup >= 1:
            raise InputError(f"training: warmup is {self.warmup}; it is a share of all steps, below 1.")
        if not self.max_grad_norm > 0:
            raise InputError(f"training: max_grad_norm is {self.max_grad_norm}; it must be positive.")
        for name, known in (("schedule", ("linear", "cosine")), ("precision", ("fp32", "bf16"))):
            if getattr(self, name) not in known:
                raise InputError(f"training: {name} is '{getattr(self, name)}'; it must be {' or '.join(known)}.")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of a training that validation does not end."""
        whole = self.epochs * steps_per_epoch
        return min(whole, self.max_steps) if self.max_steps else whole

    def rate_factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate in step 0..total_steps-1: never 0, 1 at the end of the warm-up."""
        rising = round(self.warmup * total_steps)
        if step < rising:
            return (step + 1) / rising
        left = (total_steps - step) / (total_steps - rising)
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

    def evaluation_steps(self, steps_per_epoch: int) -> frozenset[int]:
        """Steps of an epoch (counted from 1) after which the model is evaluated; the last one is always among them."""
        parts = self.evaluations_per_epoch
        return frozenset(-(-part * steps_per_epoch // parts) for part in range(1, parts + 1))

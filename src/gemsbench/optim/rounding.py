"""Adding a small update to a weight: in place, and for bf16 with stochastic rounding.

An update of 5e-4 of the weight is less than half of a bf16 step: rounded to the nearest, most of them are lost.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["stochastic", "nearest"]

_CHUNK = 1 << 20  # values of a lower-precision weight that are brought to float32 at a time


def subtract_product(
    weight: Tensor, left: Tensor, right: Tensor, rate: float, rounding: Rounding, seed: int, keep: float = 1.0
) -> None:
    """Do weight [m, n] = keep * (weight - rate * left [m, R] @ right [R, n]), without a temporary of its size.

    keep: 1 less the decay, in the same rounding: on its own, a factor next to 1 would leave bf16 weights as they are.
    """
    if weight.dtype in (torch.float32, torch.float64):
        weight.addmm_(left.to(weight), right.to(weight), alpha=-rate)
        if keep != 1:
            weight.mul_(keep)
        return
    right = right.float()
    generator = seeded(seed, device=weight.device)
    step = max(1, _CHUNK // weight.shape[1])
    for start in range(0, len(weight), step):
        part = weight[start : start + step]
        moved = part.float().addmm_(left[start : start + step].float(), right, alpha=-rate).mul_(keep)
        part.copy_(lowered(moved, rounding, generator))


def lowered(values: Tensor, rounding: Rounding, generator: torch.Generator) -> Tensor:
    """float32 values as bf16; stochastic: up or down with probabilities that make the mean exact."""
    if rounding == "nearest":
        return values.to(torch.bfloat16)
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = values.contiguous().view(torch.int32)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def store(weight: Tensor, values: Tensor, rounding: Rounding, seed: int) -> None:
    """Write float32 values into a weight of any precision."""
    if weight.dtype == torch.bfloat16:
        weight.copy_(lowered(values, rounding, seeded(seed, device=weight.device)))
    else:
        weight.copy_(values)


def seeded(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a function of its parts alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)

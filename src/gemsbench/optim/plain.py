"""AdamW for what is not projected: new rows of token matrices, or all other parameters of a pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gemsbench.optim.rounding import Rounding, seeded, store


def adamw_update(
    weight: Tensor,
    gradient: Tensor,
    tokens: float,
    state: dict[str, Any],
    group: Mapping[str, Any],
    rounding: Rounding,
    seed: int,
) -> None:
    """One step of AdamW (arXiv 1711.05101) along gradient / tokens.

    On a whole weight, or on the rows that group["rows"] = (start, stop) names.
    Moments are float32 (float64 for float64 weights) and only of the trained rows; the other rows keep their bits.
    """
    start, stop = group["rows"] or (0, len(weight) if weight.ndim else 1)
    chosen = weight[start:stop] if weight.ndim else weight
    gradient = (gradient[start:stop] if weight.ndim else gradient) / tokens
    exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
    gradient = gradient.to(exact)
    if not state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] = torch.zeros((), dtype=torch.int64)
    state["step"] += 1
    count, (beta1, beta2) = int(state["step"]), group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = state["exp_avg_sq"].sqrt().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
    values = chosen.to(exact, copy=True).mul_(1 - group["lr"] * group["weight_decay"])
    values.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - beta1**count))
    store(chosen, values, rounding, seeded(seed, "round", count).initial_seed())


def plain_step(
    groups: Sequence[Mapping[str, Any]],
    states: Mapping[Tensor, dict[str, Any]],
    tokens: float,
    rounding: Rounding,
    seed: int,
) -> None:
    """One step of AdamW on every parameter of the groups without rank, along its gradient divided by tokens."""
    plain = [(group, parameter) for group in groups if not group["rank"] for parameter in group["params"]]
    for place, (group, parameter) in enumerate(plain):
        if parameter.grad is not None:
            own = seeded(seed, "plain", place).initial_seed()
            adamw_update(parameter, parameter.grad, tokens, states[parameter], group, rounding, own)

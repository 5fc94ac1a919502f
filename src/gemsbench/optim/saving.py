"""Loading a state into GEMS: all is compared before anything is changed, and every tensor keeps its precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gemsbench.optim.matrix import ProjectedMatrix
from gemsbench.optim.settings import GEMSConfig

# Settings that give the saved tensors their meaning; learning rates, gate and scale may change between runs.
_SHAPING = ("null_space_form", "null_space_mode", "step_counter", "moment_transfer", "stagger", "attribution")


def identity(
    config: GEMSConfig, tasks: Sequence[str], null_space: str, seed: int, matrices: Sequence[ProjectedMatrix]
) -> dict[str, Any]:
    """What a saved state belongs to, as plain values; null_space: hash of the basis, "" without one."""
    sides = "".join("r" if matrix.right else "l" for matrix in matrices)
    settings = {name: getattr(config, name) for name in _SHAPING}
    return {"tasks": list(tasks), "null_space": null_space, "seed": seed, "sides": sides, **settings}


def check_saved(
    saved: Mapping[str, Any], own: Mapping[str, Any], parameters: Sequence[Tensor], matrices: Sequence[ProjectedMatrix]
) -> None:
    """Raise ValueError unless a state dict is one of this optimizer; own: its identity."""
    if "gems" not in saved or "gems_identity" not in saved:
        raise ValueError("GEMS: this is not a state of GEMS (another optimizer's?).")
    for key, value in own.items():
        if saved["gems_identity"].get(key) != value:
            theirs = saved["gems_identity"].get(key)
            raise ValueError(f"GEMS: the saved state has {key} {theirs!r}, this optimizer has {value!r}.")
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    if len(keys) != len(parameters):
        raise ValueError(f"GEMS: the saved state has {len(keys)} parameters, this optimizer has {len(parameters)}.")
    numbers = {id(parameter): key for parameter, key in zip(parameters, keys, strict=True)}
    for matrix in matrices:
        matrix.check_state(saved["state"].get(numbers[id(matrix.weight)], {}))


def restore_tensors(
    saved: Mapping[str, Any], parameters: Sequence[Tensor], states: Mapping[Tensor, dict[str, Any]]
) -> None:
    """Put the saved tensors back as they were.

    torch's own loading casts floating-point state to the parameter's precision: moments of bf16 weights would become
    bf16. Counters stay on the CPU, where they are read in every step.
    """
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        for name, value in saved["state"].get(key, {}).items():
            device = parameter.device if value.is_floating_point() else torch.device("cpu")
            states[parameter][name] = value.detach().clone().to(device)

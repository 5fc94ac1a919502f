"""What a killed training needs to go on bit by bit: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gemsbench.files import atomic_path, canonical_json, remove

_STATE = "state"


def save_checkpoint(path: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write state (JSON) and tensors; a kill at any moment leaves the old file or the new one."""
    with atomic_path(path) as temporary:
        save_file(_on_host(tensors), temporary, metadata={_STATE: canonical_json(dict(state))})


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, each with memory of its own; copied only where they are not so already."""
    ready: dict[str, Tensor] = {}
    taken = set[int]()
    for name, tensor in tensors.items():
        # First to the host, so that a checkpoint needs no memory of the device.
        host = tensor.detach().cpu().contiguous()
        storage = host.untyped_storage()
        if storage.nbytes() != host.nbytes or storage.data_ptr() in taken:  # safetensors refuses shared memory
            host = host.clone()
        ready[name] = host
        taken.add(host.untyped_storage().data_ptr())
    return ready


def load_checkpoint(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """State and tensors; None when there is no checkpoint, or it belongs to other data, settings or versions."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            state = json.loads((handle.metadata() or {}).get(_STATE, "{}"))
            if state.get("fingerprint") != fingerprint:
                return None
            return state, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError):
        return None


def delete_checkpoint(folder: Path) -> None:
    """Remove the checkpoint folder; it may be absent."""
    remove(folder)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The moments and step counts of the optimizers, named <optimizer>/<parameter>/<key>."""
    return {
        f"{number}/{parameter}/{key}": torch.as_tensor(value)
        for number, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what optimizer_tensors took."""
    for number, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            owner, parameter, key = name.split("/")
            if int(owner) == number:
                # SparseAdam counts steps with an int; a tensor there would change the precision of its bias correction.
                is_count = tensor.ndim == 0 and not tensor.is_floating_point()
                values.setdefault(int(parameter), {})[key] = int(tensor) if is_count else tensor
        optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})

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
_OF_ALL = "of-all"  # where optimizer_tensors puts what belongs to no single parameter
_NUMBER = "-int"  # end of the name of a tensor that was a plain number
_TENSOR = "tensor"  # the only key of a mapping that stands for a tensor


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
    """The state of the optimizers: <optimizer>/<parameter>/<key> for moments and step counts, and <optimizer>/of-all.

    What an optimizer keeps beside the state of its parameters (the gate of GEMS) lies in the latter, as JSON, and its
    tensors in <optimizer>/of-all/<number>. Learning rates and other options are not kept: the problem sets them.
    """
    tensors: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        for parameter, values in saved["state"].items():
            for key, value in values.items():
                kind = _NUMBER if isinstance(value, int) else ""
                tensors[f"{number}/{parameter}/{key}{kind}"] = torch.as_tensor(value)
        of_all = {key: value for key, value in saved.items() if key not in ("state", "param_groups")}
        if of_all:
            found: list[Tensor] = []
            text = canonical_json(_without_tensors(of_all, found))
            tensors[f"{number}/{_OF_ALL}"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
            tensors |= {f"{number}/{_OF_ALL}/{place}": tensor for place, tensor in enumerate(found)}
    return tensors


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what optimizer_tensors took."""
    for number, optimizer in enumerate(optimizers):
        own = below(tensors, f"{number}/")
        of_all = own.pop(_OF_ALL, None)
        found = below(own, f"{_OF_ALL}/")
        values: dict[int, dict[str, Any]] = {}
        for name, tensor in own.items():
            parameter, key = name.split("/")
            if parameter != _OF_ALL:
                # SparseAdam counts steps with an int; a tensor there would change the precision of its bias correction.
                value = int(tensor) if key.endswith(_NUMBER) else tensor
                values.setdefault(int(parameter), {})[key.removesuffix(_NUMBER)] = value
        rest = {} if of_all is None else _with_tensors(json.loads(bytes(of_all.tolist())), found)
        optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"], **rest})


def _without_tensors(value: Any, found: list[Tensor]) -> Any:
    """The same with {_TENSOR: place in found} for each tensor; mappings with text keys, lists and JSON values only."""
    if isinstance(value, Tensor):
        found.append(value)
        return {_TENSOR: len(found) - 1}
    if isinstance(value, Mapping):
        return {key: _without_tensors(entry, found) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(entry, found) for entry in value]
    return value


def _with_tensors(value: Any, found: Mapping[str, Tensor]) -> Any:
    """Undo _without_tensors; tuples come back as lists."""
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return found[str(value[_TENSOR])]
        return {key: _with_tensors(entry, found) for key, entry in value.items()}
    return [_with_tensors(entry, found) for entry in value] if isinstance(value, list) else value

"""Adapter files: peft's two files, and a third: base weights and tokens the adapter belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
RECORD = "adapter.json"
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
RECORD_KEYS = {"base_sha256": str, "tokens_sha256": str, "first_row": int, "n_rows": int, "peft": str, "settings": dict}


def base_sha256(weights: Mapping[str, Tensor], token_matrices: set[str], new_rows: range) -> str:
    """sha256 over names, shapes and fp32 values of a model's weights, without new_rows of its token matrices.

    So it is the same for a model in bf16 and for these weights in fp32, and before and after tokens are added.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach()
        parts = [weight[: new_rows.start], weight[new_rows.stop :]] if name in token_matrices else [weight]
        n_values = sum(part.numel() for part in parts)
        digest.update(f"\x1f{name}\x1f{list(weight.shape[1:])}\x1f{n_values}\x1f".encode())
        for part in parts:
            digest.update(part.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def tokens_sha256(tokenizer: PreTrainedTokenizerFast, new_rows: range) -> str:
    """sha256 over the token strings of new_rows, in order; an id without a token counts as null."""
    names = tokenizer.convert_ids_to_tokens(list(new_rows))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def write_adapter(
    folder: Path, weights: Mapping[str, Tensor], peft_config: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Write weights and config in peft's format, and the record (RECORD_KEYS)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    # peft keeps module names in sets; their order would differ from run to run.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in peft_config.items()}
    write_json(folder / PEFT_CONFIG, {**plain, "base_model_name_or_path": None, "inference_mode": True})
    write_json(folder / RECORD, dict(record))


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and record of an adapter folder; raises InputError on a missing, damaged or pickled file."""
    pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in UNSAFE]
    if pickled:
        raise InputError(f"{folder / pickled[0]}: pickled weights are not read. Save the adapter as {WEIGHTS}.")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in RECORD_KEYS.items()):
        raise InputError(f"{folder / RECORD}: not the record of an adapter ({', '.join(RECORD_KEYS)}). Train it again.")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: no such file. Train the adapter again.")
    try:
        return load_file(folder / WEIGHTS), record
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS}: not a readable safetensors file ({error}). Train it again.") from error

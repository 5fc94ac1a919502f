"""Adapter folders: what comes back from them, and which of them are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json
from gemsbench.tuners.adapters import base_sha256
from gemsbench.tuners.lora import LoRA, LoRASettings, load_adapter

KIND = "qwen2"
SETTINGS = LoRASettings(rank=4, alpha=8, learning_rate=5e-3, rows_learning_rate=2e-2)


@pytest.fixture
def tuned(tiny: Any) -> Any:
    tuned = LoRA().prepare(SETTINGS, tiny.qwen(), tiny.new_rows)
    tiny.train(KIND, tuned, tiny.lessons(12), steps=5)
    return tuned


@pytest.fixture
def adapter(tuned: Any, tmp_path: Path) -> Path:
    tuned.save(tmp_path / "model")
    return tmp_path / "model" / "adapter"


def test_a_loaded_adapter_gives_the_same_logits_and_can_be_trained_on(tiny: Any, tuned: Any, adapter: Path) -> None:
    taught = tiny.lessons(12)
    base = tiny.qwen()
    with torch.no_grad():  # the rows of the adapter replace whatever the new tokens started from
        base.model.get_input_embeddings().weight[tiny.new_rows] += 1
    loaded = load_adapter(base, adapter)
    assert loaded.settings == SETTINGS
    assert loaded.new_rows == tiny.new_rows
    expected = tiny.calm_logits(KIND, tuned.model, taught.prompts)
    assert torch.equal(tiny.calm_logits(KIND, loaded.model, taught.prompts), expected)
    tiny.train(KIND, loaded, taught, steps=1)
    assert not torch.equal(tiny.calm_logits(KIND, loaded.model, taught.prompts), expected)


def test_peft_reads_it_too(tiny: Any, tuned: Any, adapter: Path) -> None:
    prompts = tiny.lessons(12).prompts
    theirs = PeftModel.from_pretrained(tiny.qwen().model, adapter)
    expected = tiny.calm_logits(KIND, tuned.model, prompts)
    assert torch.equal(tiny.calm_logits(KIND, theirs, prompts), expected)


def test_an_adapter_of_another_base_model_is_refused(tiny: Any, adapter: Path) -> None:
    with pytest.raises(InputError, match="trained on another base model"):
        load_adapter(tiny.qwen(seed=1), adapter)
    base = tiny.qwen()
    with torch.no_grad():
        base.model.get_input_embeddings().weight[tiny.new_rows.stop, 0] += 1e-3
    with pytest.raises(InputError, match="trained on another base model"):
        load_adapter(base, adapter)


@pytest.mark.parametrize("change", ["renamed", "swapped"])
def test_an_adapter_of_other_identifiers_is_refused(tiny: Any, adapter: Path, change: str) -> None:
    base = tiny.qwen()
    specification = json.loads(base.tokenizer.backend_tokenizer.to_str())
    names = specification["model"]["vocab"]
    if change == "renamed":
        names["<|i2_3|>"] = names.pop("<|i1_3|>")
    else:
        names["<|i1_3|>"], names["<|i1_4|>"] = names["<|i1_4|>"], names["<|i1_3|>"]
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(specification)), pad_token="<pad>", eos_token="</s>"
    )
    assert len(other) == len(base.tokenizer)
    with pytest.raises(InputError, match="an adapter of other identifiers"):
        load_adapter(replace(base, tokenizer=other), adapter)


def test_a_base_without_the_new_rows_is_refused(tiny: Any, adapter: Path) -> None:
    base = tiny.qwen()
    base.model.resize_token_embeddings(tiny.new_rows.stop - 1)
    with pytest.raises(InputError, match="Add the tokens"):
        load_adapter(base, adapter)


def _drop_rows(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "trainable_tokens" not in name}
    save_file(kept, folder / "adapter_model.safetensors")


def _cut_rows(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    cut = {name: tensor[1:].clone() if "tokens" in name else tensor for name, tensor in weights.items()}
    save_file(cut, folder / "adapter_model.safetensors")


def _truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _forget_hash(folder: Path) -> None:
    record = read_json(folder / "adapter.json")
    write_json(folder / "adapter.json", {key: value for key, value in record.items() if key != "base_sha256"})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no rows": (_drop_rows, r"adapter_model.safetensors: not the weights .*trainable_tokens_delta"),
    "fewer rows": (_cut_rows, "shapes differ"),
    "pickle beside it": (lambda folder: (folder / "adapter_model.bin").write_bytes(b"x"), "pickled weights"),
    "pickle alone": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "pickled weights",
    ),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no such file"),
    "truncated": (_truncate, "not a readable safetensors file"),
    "no record": (lambda folder: (folder / "adapter.json").unlink(), "adapter.json: no such file"),
    "no hash": (_forget_hash, "not the record of an adapter"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_refused(tiny: Any, adapter: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(adapter)
    with pytest.raises(InputError, match=message):
        load_adapter(tiny.qwen(), adapter)


def test_the_hash_of_a_base_knows_values_names_and_old_rows_only() -> None:
    weights = {"table": torch.arange(12.0).reshape(4, 3), "other": torch.ones(2, 2)}
    new = range(2, 3)
    expected = base_sha256(weights, {"table"}, new)
    assert base_sha256({name: w.to(torch.bfloat16) for name, w in weights.items()}, {"table"}, new) == expected
    trained = replace_row(weights, 2)
    assert base_sha256(trained, {"table"}, new) == expected
    shorter = {**weights, "table": weights["table"][[0, 1, 3]]}
    assert base_sha256(shorter, {"table"}, range(2, 2)) == expected
    others = [replace_row(weights, 3), {**weights, "other": torch.ones(4)}]
    others.append({"table": weights["table"], "renamed": weights["other"]})
    assert len({base_sha256(changed, {"table"}, new) for changed in others} | {expected}) == 4


def replace_row(weights: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    table = weights["table"].clone()
    table[row] = 9
    return {**weights, "table": table}


def test_settings_of_the_record_are_checked(tiny: Any, adapter: Path) -> None:
    record = read_json(adapter / "adapter.json")
    write_json(adapter / "adapter.json", {**record, "settings": {**record["settings"], "rank": 0}})
    with pytest.raises(InputError, match="lora: rank is 0"):
        load_adapter(tiny.qwen(), adapter)

"""The catalogue of backbones: light, pinned, and its shapes are enforced."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from gemsbench.backbones.catalogue import (
    ALL,
    FLAN_T5_BASE,
    QWEN2_5_3B_INSTRUCT,
    BackboneSpec,
    PretrainingSettings,
    QwenMiniSettings,
    T5MiniSettings,
    check_shapes,
)
from gemsbench.config import load_settings, settings_dict
from gemsbench.errors import InputError


def test_the_names() -> None:
    names = ["t5-mini", "qwen-mini", "flan-t5-small", "flan-t5-base", "qwen2.5-0.5b-instruct", "qwen2.5-3b-instruct"]
    assert list(ALL) == names


@pytest.mark.parametrize("spec", ALL.values(), ids=lambda spec: spec.name)
def test_a_spec_is_a_pinned_hub_model_or_a_stand_in(spec: BackboneSpec) -> None:
    assert {"config.json", "tokenizer.json", "backbone.json", "log.jsonl"} <= set(spec.files)
    assert any(name.endswith(".safetensors") for name in spec.files)
    assert not any(name.endswith((".bin", ".pt", ".msgpack", ".h5")) for name in spec.files)
    assert load_settings(spec.settings, settings_dict(spec.settings()), "here") == spec.settings()
    if spec.repository:
        assert re.fullmatch("[0-9a-f]{40}", spec.revision)
        assert set(spec.downloaded) == set(spec.files) - {"backbone.json", "log.jsonl"}
        assert spec.shapes["vocab_size"] == {"t5": 32128, "qwen2": 151936}[spec.kind]
    else:
        assert not spec.downloaded and not spec.revision


def test_the_sharded_model_names_its_shards_and_their_index() -> None:
    weights = {name for name in QWEN2_5_3B_INSTRUCT.files if "safetensors" in name}
    shards = {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert weights == {*shards, "model.safetensors.index.json"}


@pytest.mark.parametrize("change", [{"d_model": 512}, {"architectures": ["T5EncoderModel"]}, {"vocab_size": 32100}])
def test_another_shape_is_refused(change: dict[str, Any]) -> None:
    config = {"architectures": ["T5ForConditionalGeneration"], **FLAN_T5_BASE.shapes}
    check_shapes(FLAN_T5_BASE, config, "config.json")
    with pytest.raises(InputError, match=f"{next(iter(change))} is .*flan-t5-base has"):
        check_shapes(FLAN_T5_BASE, {**config, **change}, "config.json")


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (PretrainingSettings, {"tokens_per_step": 0}, "tokens_per_step"),
        (T5MiniSettings, {"window": 8}, "window"),
        (T5MiniSettings, {"window": 1024}, "window"),
        (QwenMiniSettings, {"window": 64, "pretraining": PretrainingSettings(tokens_per_step=32)}, "window"),
        (PretrainingSettings, {"steps": 3}, "steps"),
        (PretrainingSettings, {"heldout_share": 0.0}, "heldout_share"),
        (PretrainingSettings, {"learning_rate": 0.0}, "learning_rate"),
        (PretrainingSettings, {"learning_rate": float("nan")}, "learning_rate"),
        (PretrainingSettings, {"threads": 0}, "threads"),
        (T5MiniSettings, {"width": 60}, "width"),
        (T5MiniSettings, {"vocabulary": 200}, "vocabulary"),
        (QwenMiniSettings, {"kv_heads": 3}, "kv_heads"),
        (QwenMiniSettings, {"layers": 0}, "layers"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, values: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"{named} is"):
        kind(**values)


def test_the_catalogue_is_light() -> None:
    code = "import sys; import gemsbench.backbones.catalogue; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"

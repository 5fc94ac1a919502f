"""Loading and saving of T5 and Qwen2 folders: safetensors only, nothing guessed, nothing printed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    T5ForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from gemsbench.backbones.catalogue import Kind
from gemsbench.backbones.folder import ModelFolder, check_folder
from gemsbench.errors import InputError

_T5_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Backbone:
    """A language model with its tokenizer, in evaluation mode when just loaded."""

    kind: Kind
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load_backbone(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load a plain from_pretrained folder of a T5 or Qwen2 model.

    A T5 with a head of its own comes back with `config.tie_word_embeddings` False: transformers 5 sets it to True
    whatever the file says, and the next change of the vocabulary would then replace the head by the input embedding.
    Raises InputError as check_folder does, when a tensor is missing, when the head of an untied T5 was lost before,
    or when the tokenizer does not fit.
    """
    checked = check_folder(folder)
    with _quiet():
        return Backbone(checked.kind, _model(checked, dtype), _tokenizer(checked))


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write model and tokenizer as a folder that plain `from_pretrained` loads; the caller makes it appear at once."""
    with _quiet():
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # the writer leaves them to their owner alone


def _model(checked: ModelFolder, dtype: torch.dtype) -> PreTrainedModel:
    architecture: Any = T5ForConditionalGeneration if checked.kind == "t5" else Qwen2ForCausalLM
    model: PreTrainedModel
    try:
        model, report = architecture.from_pretrained(
            checked.path, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{checked.path}: transformers cannot load it ({reason}). Make the folder again.") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{checked.path}: the weights lack {', '.join(missing[:5])}. Make the folder again.")
    if checked.kind == "t5":
        _separate_head(model, checked)
    # Sampling settings and penalties of a published generation_config.json would change beam search.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model


def _separate_head(model: PreTrainedModel, checked: ModelFolder) -> None:
    model = cast(T5ForConditionalGeneration, model)
    # The flag itself says True by now; this one is False exactly where config.json says that the matrices differ.
    untied = not model.config.scale_decoder_outputs
    if _T5_HEAD not in checked.shapes:
        if untied:
            raise InputError(
                f"{checked.path}: the weights lack {_T5_HEAD}, which this model has: the head was lost when the "
                "model was saved. Start again from the original files, with config.tie_word_embeddings set to False "
                "before the vocabulary is resized."
            )
        return
    if model.lm_head.weight is model.shared.weight:
        if not untied:
            return
        model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone())
    model.config.tie_word_embeddings = False


def _tokenizer(checked: ModelFolder) -> PreTrainedTokenizerFast:
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            checked.path, local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{checked.path}: tokenizer.json cannot be read ({reason}). Copy it again.") from error
    rows = checked.config["vocab_size"]
    if len(tokenizer) > rows:
        raise InputError(
            f"{checked.path}: the tokenizer has {len(tokenizer)} tokens, the model only {rows} rows. "
            "They are not of one model; copy the right tokenizer files."
        )
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            raise InputError(f"{checked.path}: the tokenizer names no {name[:3]} token in tokenizer_config.json.")
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block transformers prints neither progress nor advice."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]

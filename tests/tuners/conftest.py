"""Tiny backbones with item tokens, and a plain training loop."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gemsbench.backbones.loading import Backbone

N_WORDS = 30
N_ITEMS = 12
N_ROWS = N_WORDS + N_ITEMS + 6  # matrices are wider than the tokenizer
NEW_ROWS = range(N_WORDS, N_WORDS + N_ITEMS)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", *(f"w{number}" for number in range(2, N_WORDS))]
    items = [f"<|i1_{number}|>" for number in range(N_ITEMS)]
    vocabulary = {word: number for number, word in enumerate([*words, *items])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def _shake(model: Any, seed: int) -> None:
    """Weights large enough that every part of the model matters; norms and biases not at their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise)


def qwen(seed: int = 0, tied: bool = True, dtype: torch.dtype = torch.float32) -> Backbone:
    """GQA and a tied head."""
    config = Qwen2Config(
        vocab_size=N_ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=1,
        pad_token_id=0,
        attention_dropout=0.0,
    )
    model = Qwen2ForCausalLM(config)
    _shake(model, seed)
    for parameter in model.parameters():  # as from_pretrained does: position tables stay fp32
        parameter.data = parameter.data.to(dtype)
    return Backbone("qwen2", model.eval(), _tokenizer())


def t5(seed: int = 0) -> Backbone:
    """Gated gelu and an untied head."""
    config = T5Config(
        vocab_size=N_ROWS,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    _shake(model, seed)
    return Backbone("t5", model.eval(), _tokenizer())


@dataclass(frozen=True)
class Lessons:
    """Prompts int64 [B, 5] that end with an item token, and the item token each is to be answered with."""

    prompts: Tensor
    targets: Tensor


def lessons(n_cases: int, seed: int = 0, items: range = NEW_ROWS) -> Lessons:
    """Distinct random prompts with random answers."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(2, N_WORDS, (n_cases, 4), generator=generator)
    history = torch.randint(items.start, items.stop, (n_cases, 1), generator=generator)
    targets = torch.randint(items.start, items.stop, (n_cases,), generator=generator)
    return Lessons(torch.cat([words, history], dim=1), targets)


def logits(backbone_kind: str, model: Any, prompts: Tensor) -> Tensor:
    """Logits [B, V] of the first target position."""
    if backbone_kind == "t5":
        start = torch.zeros((len(prompts), 1), dtype=torch.int64)
        return model(input_ids=prompts, decoder_input_ids=start, use_cache=False).logits[:, -1]  # type: ignore[no-any-return]
    return model(input_ids=prompts, use_cache=False).logits[:, -1]  # type: ignore[no-any-return]


def calm_logits(backbone_kind: str, model: Any, prompts: Tensor) -> Tensor:
    """The same without dropout and gradient."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        values = logits(backbone_kind, model, prompts)
    model.train(was_training)
    return values


def train(kind: str, tuned: Any, taught: Lessons, steps: int) -> None:
    """Full-batch steps on the cross-entropy of the target."""
    tuned.model.train()
    for _ in range(steps):
        tuned.optimizer.zero_grad()
        cross_entropy(logits(kind, tuned.model, taught.prompts), taught.targets).backward()
        tuned.optimizer.step()


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """All of the above, for tests that cannot import this file."""
    return SimpleNamespace(
        qwen=qwen,
        t5=t5,
        backbones={"t5": t5, "qwen2": qwen},
        new_rows=NEW_ROWS,
        n_rows=N_ROWS,
        lessons=lessons,
        logits=logits,
        calm_logits=calm_logits,
        train=train,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

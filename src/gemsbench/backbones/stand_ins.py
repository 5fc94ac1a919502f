"""The stand-ins before pre-training: the real T5 and Qwen2 classes with small sizes and tokenizers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gemsbench import seeds
from gemsbench.backbones.catalogue import QwenMiniSettings, T5MiniSettings
from gemsbench.backbones.loading import Backbone
from gemsbench.backbones.stand_in_tokenizers import train_qwen_like, train_t5_like

_T5_EMBEDDING_SCALE = 0.05  # T5 starts with deviation 1, which Adam's small steps would hardly move
_ROW_BLOCK = 128


def build_stand_in(settings: T5MiniSettings | QwenMiniSettings, lines: Sequence[str], seed: int) -> Backbone:
    """An untrained stand-in whose tokenizer is trained on lines (text, one string per line); float32.

    Weights are a function of (settings, tokenizer length, seed) alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.stream_seed(seed, "backbone", "initial"))
        if isinstance(settings, T5MiniSettings):
            tokenizer = train_t5_like(lines, settings.vocabulary)
            return Backbone("t5", _t5(settings, tokenizer), tokenizer)
        tokenizer = train_qwen_like(lines, settings.vocabulary)
        return Backbone("qwen2", _qwen2(settings, tokenizer), tokenizer)


def rows_for(tokens: int) -> int:
    """Rows of the embedding matrix: the next multiple of 128 above the number of tokens.

    Like the hub models (T5: 32,100 tokens in 32,128 rows), stand-ins have rows that no token uses.
    """
    return (tokens // _ROW_BLOCK + 1) * _ROW_BLOCK


def _t5(settings: T5MiniSettings, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    values: dict[str, Any] = {
        "vocab_size": rows_for(len(tokenizer)),
        "d_model": settings.width,
        "d_kv": settings.width // settings.heads,
        "d_ff": settings.feed_forward,
        "num_layers": settings.layers,
        "num_heads": settings.heads,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    model = T5ForConditionalGeneration(T5Config(**values))
    with torch.no_grad():
        model.shared.weight.mul_(_T5_EMBEDDING_SCALE)
    # The config's flag does not reach the constructor in transformers 5: head and input are one matrix until here.
    model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


def _qwen2(settings: QwenMiniSettings, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=rows_for(len(tokenizer)),
        hidden_size=settings.width,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)

"""Tiny random models and the reference: every candidate as a row of its own through the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

VOCABULARY = 120
KINDS = ("t5", "t5-tied", "qwen2")
Build = Callable[..., Any]
Reference = Callable[..., npt.NDArray[np.float64]]


def _t5(tied: bool, attention: str, vocabulary: int) -> T5ForConditionalGeneration:
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = attention
    model = T5ForConditionalGeneration(config)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(vocabulary, 32))
    return model


def _qwen2(attention: str, vocabulary: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    config._attn_implementation = attention
    return Qwen2ForCausalLM(config)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build() -> Build:
    """kind, seed, attention, vocabulary -> a random model in training mode with dropout."""

    def model(kind: str, seed: int = 0, attention: str = "sdpa", vocabulary: int = VOCABULARY) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "qwen2":
                return _qwen2(attention, vocabulary).train()
            return _t5(kind == "t5-tied", attention, vocabulary).train()

    return model


@pytest.fixture
def one_by_one() -> Reference:
    """Log-probabilities [C] of the rows, each fed alone behind its prompt, from the logits of the whole model."""

    def scores(model: Any, prompt: Sequence[int], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        found = []
        model.eval()
        with torch.no_grad():
            for row in rows:
                target = torch.tensor([[token for token in row.tolist() if token >= 0]])
                if model.config.is_encoder_decoder:
                    logits = model(input_ids=torch.tensor([prompt]), labels=target).logits[0]
                else:
                    ids = torch.cat([torch.tensor([prompt]), target], dim=1)
                    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
                log_probs = torch.log_softmax(logits.double(), dim=-1)
                found.append(float(log_probs.gather(1, target[0][:, None]).sum()))
        model.train()
        return np.array(found)

    return scores


@pytest.fixture
def cases() -> tuple[list[list[int]], list[npt.NDArray[np.int64]]]:
    """Three cases of unequal prompts and trees; codes of 8 per level, levels apart, with duplicates."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, 80, n).tolist() for n in (7, 12, 3)]
    tables = [rng.integers(0, 8, (n, 4)) + 80 + 8 * np.arange(4) for n in (60, 25, 5)]
    tables[0][7] = tables[0][3]
    return prompts, tables

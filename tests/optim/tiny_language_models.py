"""Tiny Qwen2 and T5 with random weights, and padded batches of two made-up tasks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

VOCABULARY = 40
KINDS = ("qwen2", "t5")


def _shake(model: Any, seed: int) -> None:
    """Weights large enough that every part of the model matters; norms and biases not at their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise)


def qwen2(seed: int = 0, layers: int = 2) -> Any:
    """Grouped-query attention, biases in q, k and v, a tied head."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        attention_dropout=0.0,
        use_cache=False,
    )
    model = Qwen2ForCausalLM(config)
    _shake(model, seed)
    return model.train()


def t5(seed: int = 0, layers: int = 2) -> Any:
    """Encoder and decoder, gated gelu, an untied head."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=False,
    )
    model = T5ForConditionalGeneration(config)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    _shake(model, seed)
    return model.train()


def build(kind: str, seed: int = 0, layers: int = 2) -> Any:
    """A model by its kind."""
    return {"qwen2": qwen2, "t5": t5}[kind](seed, layers)


@dataclass(frozen=True)
class Rows:
    """Token ids [B, T] padded with 0, mask of real tokens [B, T], labels [B, T'] with -100, and each row's task."""

    kind: str
    ids: Tensor
    mask: Tensor
    labels: Tensor
    tasks: Sequence[str]

    @property
    def tokens(self) -> dict[str, float]:
        """Target tokens per task."""
        counts: dict[str, float] = {}
        for task, labels in zip(self.tasks, self.labels, strict=True):
            counts[task] = counts.get(task, 0.0) + float((labels != -100).sum())
        return counts

    def of(self, task: str) -> Rows:
        """The rows of one task."""
        return self.take([i for i, name in enumerate(self.tasks) if name == task])

    def take(self, chosen: Sequence[int]) -> Rows:
        """Some of the rows."""
        keep = list(chosen)
        return Rows(self.kind, self.ids[keep], self.mask[keep], self.labels[keep], [self.tasks[i] for i in keep])

    def row_losses(self, model: Any) -> Tensor:
        """Sum of token losses of every row [B], fp32."""
        logits = model(input_ids=self.ids, attention_mask=self.mask, **self._decoder()).logits
        labels = self.labels
        if self.kind == "qwen2":
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses = cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return losses.sum(dim=1)

    def _decoder(self) -> dict[str, Tensor]:
        if self.kind == "qwen2":
            return {}
        shifted = self.labels.clamp(min=0).roll(1, dims=1)
        shifted[:, 0] = 0
        return {"decoder_input_ids": shifted}


def rows(kind: str, tasks: Sequence[str], seed: int = 0, longest: int = 9) -> Rows:
    """Random rows of unequal length, padded left for Qwen2 and right for T5; src answers with fewer tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, count: int = 1) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    n = len(tasks)
    answers = longest if kind == "qwen2" else 4
    ids, mask = torch.zeros(n, longest, dtype=torch.int64), torch.zeros(n, longest, dtype=torch.int64)
    labels = torch.full((n, answers), -100)
    for i, task in enumerate(tasks):
        length = int(draw(longest // 2, longest + 1))
        place = slice(longest - length, longest) if kind == "qwen2" else slice(0, length)
        low, high = (2, VOCABULARY // 2) if task == "src" else (VOCABULARY // 2, VOCABULARY)
        ids[i, place], mask[i, place] = draw(low, high, length), 1
        targets = 1 if task == "src" else int(draw(2, 4))
        if kind == "qwen2":
            labels[i, -targets:] = ids[i, -targets:]
        else:
            labels[i, :targets] = draw(low, high, targets)
    return Rows(kind, ids, mask, labels, list(tasks))

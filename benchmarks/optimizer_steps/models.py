"""Models of the real shapes with random weights, and one batch of random hidden states for all contenders.

Embedding tables and heads have 1,000 rows, so that the head does not decide; they are frozen. The model is fed hidden
states that want a gradient, as they do where rows of new tokens are trained: every contender pays for the gradient at
the input of the first layer. No dropout; train mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

VOCABULARY = 1000
TASKS = ("src", "rec")


def t5_base(layers: int | None) -> Any:
    """Flan-T5-base's shape; `layers` encoder and as many decoder layers."""
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=VOCABULARY,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=layers or 12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def qwen2_5_3b(layers: int | None) -> Any:
    """Qwen2.5-3B's shape."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=layers or 36,
        num_attention_heads=16,
        num_key_value_heads=2,
        attention_dropout=0.0,
    )
    return Qwen2ForCausalLM(config)


def toy(layers: int | None) -> Any:
    """A T5 of width 32, to try the script."""
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=50,
        d_model=32,
        d_kv=8,
        d_ff=80,
        num_layers=layers or 1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


SHAPES = {"t5-base": t5_base, "qwen2.5-3b": qwen2_5_3b, "toy": toy}


@dataclass(frozen=True)
class Setup:
    """What every contender is built from."""

    shape: str
    layers: int | None
    device: str
    dtype: torch.dtype
    rank: int
    update_gap: int
    checkpointing: bool = False

    def model(self) -> nn.Module:
        """A fresh model, frozen, in train mode; the same weights every time."""
        torch.manual_seed(0)
        model = SHAPES[self.shape](self.layers).to(device=self.device, dtype=self.dtype).train().requires_grad_(False)
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model  # type: ignore[no-any-return]


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """(name, layer) of every linear layer but the head: what all contenders train."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            yield name, module


@dataclass(frozen=True)
class Batch:
    """Rows of hidden states [rows, length, width], targets int64 [rows, targets], and one task name per row."""

    states: dict[str, Tensor]
    targets: Tensor
    tasks: tuple[str, ...]

    def part(self, task: str) -> Batch:
        """The rows of one task."""
        first, count = self.tasks.index(task), self.tasks.count(task)
        rows = slice(first, first + count)
        states = {name: value[rows] for name, value in self.states.items()}
        return Batch(states, self.targets[rows], self.tasks[rows])

    @property
    def tokens(self) -> dict[str, int]:
        """Target tokens per task."""
        return {task: self.tasks.count(task) * self.targets.shape[1] for task in dict.fromkeys(self.tasks)}


def make_batch(setup: Setup, model: nn.Module, tokens: int, length: int, target_length: int) -> Batch:
    """`tokens` positions in rows of `length`, the first half of the rows of one task and the rest of the other."""
    rows = max(2, tokens // length)
    generator = torch.Generator().manual_seed(1)
    width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]

    def states(count: int) -> Tensor:
        return torch.randn(rows, count, width, generator=generator).to(device=setup.device, dtype=setup.dtype)

    fed = {"inputs_embeds": states(length)}
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        fed["decoder_inputs_embeds"] = states(target_length)
    else:
        target_length = length
    vocabulary: int = model.config.vocab_size  # type: ignore[union-attr, assignment]
    targets = torch.randint(0, vocabulary, (rows, target_length), generator=generator).to(setup.device)
    return Batch(fed, targets, (TASKS[0],) * (rows // 2) + (TASKS[1],) * (rows - rows // 2))


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy [rows, targets] in fp32."""
    states = {name: value.detach().requires_grad_() for name, value in batch.states.items()}
    logits = model(**states, use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return losses.view(batch.targets.shape)


def task_sums(losses: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Loss sums per task."""
    return {
        task: losses[[row for row, name in enumerate(tasks) if name == task]].sum() for task in dict.fromkeys(tasks)
    }

"""Micro-batches of one task, made from examples step by step of an epoch, padded on the right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gemsbench.data.schema import TASKS
from gemsbench.evaluation.ragged import Int64Array
from gemsbench.training.epoch_plan import EpochPlan, plan_epoch, steps_per_epoch
from gemsbench.training.examples import Examples
from gemsbench.training.token_lists import TokenLists

NO_LOSS = -100  # label of a position without loss


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one task for one forward pass.

    tensors: dimension 0 of each is B; "labels" (int64) is among them, NO_LOSS where there is none.
    """

    task: str
    tensors: Mapping[str, Tensor]

    @property
    def rows(self) -> int:
        """B."""
        return len(self.tensors["labels"])

    @property
    def target_tokens(self) -> int:
        """Number of positions with a loss."""
        return int((self.tensors["labels"] != NO_LOSS).sum())

    def split(self, rows: int) -> list[MicroBatch]:
        """Consecutive parts of at most `rows` rows."""
        if self.rows <= rows:
            return [self]
        parts = {name: torch.split(tensor, rows) for name, tensor in self.tensors.items()}
        count = len(parts["labels"])
        return [MicroBatch(self.task, {name: part[n] for name, part in parts.items()}) for n in range(count)]


class Batches:
    """The micro-batches of every step of every epoch, a function of (examples, sizes, seed) alone.

    A step takes batch_size examples, give or take one per task: every task in its natural proportion, so a task with
    fewer examples than steps is missing in some. kind t5: prompt and target apart (input_ids, attention_mask, labels);
    qwen2: prompt and target in one row, labels on the target.
    """

    def __init__(
        self,
        examples: Examples,
        kind: Literal["t5", "qwen2"],
        pad_token: int,
        *,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        self.examples, self.kind, self.pad_token = examples, kind, pad_token
        self.batch_size, self.micro_batch_size, self.seed = batch_size, micro_batch_size, seed
        self.steps_per_epoch = steps_per_epoch(len(examples), batch_size)
        self.lengths = examples.prompts.lengths + (examples.targets.lengths if kind == "qwen2" else 0)
        self._plans: dict[int, EpochPlan] = {}

    def step(self, epoch: int, step: int) -> list[MicroBatch]:
        """The micro-batches of a step, both counted from 0; at most micro_batch_size rows each."""
        return [MicroBatch(TASKS[task], self._tensors(rows)) for task, rows in self.rows(epoch, step)]

    def rows(self, epoch: int, step: int) -> list[tuple[int, Int64Array]]:
        """Task number and example numbers (int64 [B]) of each micro-batch of a step."""
        if epoch not in self._plans:  # the last epoch only is kept
            self._plans = {epoch: plan_epoch(self.examples.tasks, self.lengths, self.batch_size, self.seed, epoch)}
        batches = []
        for task, rows in self._plans[epoch].step(step):
            parts = -(-len(rows) // self.micro_batch_size)
            batches += [(task, part) for part in np.array_split(rows, parts)]
        return batches

    def _tensors(self, rows: Int64Array) -> dict[str, Tensor]:
        prompts, targets = self.examples.prompts.take(rows), self.examples.targets.take(rows)
        return (collate_t5 if self.kind == "t5" else collate_causal)(prompts, targets, self.pad_token)


def collate_t5(prompts: TokenLists, targets: TokenLists, pad_token: int) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, T], labels [B, L] of an encoder-decoder model, int64."""
    return {**_inputs(prompts, pad_token), "labels": torch.from_numpy(_padded(targets, NO_LOSS))}


def collate_causal(prompts: TokenLists, targets: TokenLists, pad_token: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels [B, T] of a causal model, int64; no loss on the prompt."""
    number = len(prompts)
    alternating = np.arange(2 * number).reshape(2, number).T.ravel()
    joined = TokenLists.join([prompts, targets]).take(alternating)
    rows = TokenLists(joined.ids, joined.offsets[::2])
    labels = _padded(rows, NO_LOSS)
    labels[np.arange(labels.shape[1]) < prompts.lengths[:, None]] = NO_LOSS
    return {**_inputs(rows, pad_token), "labels": torch.from_numpy(labels)}


def _inputs(rows: TokenLists, pad_token: int) -> dict[str, Tensor]:
    ids = _padded(rows, pad_token)
    mask = (np.arange(ids.shape[1]) < rows.lengths[:, None]).astype(np.int64)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _padded(rows: TokenLists, fill: int) -> npt.NDArray[np.int64]:
    """Rows as int64 [B, T], filled up on the right."""
    lengths = rows.lengths
    table = np.full((len(rows), int(lengths.max())), fill, dtype=np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = rows.ids
    return table

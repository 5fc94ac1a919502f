"""What the bi-encoder is trained on in each step, and the loss: in-batch negatives, one task per batch, in turn.

L = -(1/B) sum_k log [ exp(s cos(f(x_k), f(y_k))) / sum_l exp(s cos(f(x_k), f(y_l))) ] for anchors x and positives y,
s = 20: the multiple negatives ranking loss of sentence-transformers (Henderson et al., arXiv 1705.00652), as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from gemsbench import seeds
from gemsbench.encoders.pairs import Int64Array, batches_without_repeats
from gemsbench.errors import InputError
from gemsbench.training.batches import MicroBatch
from gemsbench.training.token_lists import TokenLists

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class PairBatches:
    """The batches of every step of every epoch, a function of (pairs, batch size, seed) alone.

    Tasks take turns, one batch each (round robin). An epoch lasts as many turns as the task with the most batches
    needs for one pass over its pairs; the others begin another pass, shuffled anew, whenever theirs is over.
    """

    def __init__(
        self, pairs: Mapping[str, Int64Array], weights: Mapping[str, float], batch_size: int, seed: int
    ) -> None:
        """pairs: int64 [n, 2] by task, rows of a text table; weights: of the tasks' losses, 0 leaves a task out.

        Raises InputError when no task has two pairs without a text in common.
        """
        self.weights, self.batch_size, self.seed = weights, batch_size, seed
        self.pairs = {task: rows for task, rows in pairs.items() if weights[task] > 0}
        passes = {task: len(self._pass(task, 0, 0)) for task in self.pairs}
        self.tasks = [task for task, batches in passes.items() if batches]
        if not self.tasks:
            raise InputError(
                "bi-encoder: training searches and recommendations give no two pairs of different texts to tell apart. "
                "Use a recipe with more items or events."
            )
        self.turns = max(passes.values())
        self.steps_per_epoch = self.turns * len(self.tasks)
        self._epoch, self._plan = -1, dict[str, list[Int64Array]]()

    def step(self, epoch: int, step: int) -> list[MicroBatch]:
        """The one batch of a step, both counted from 0: anchors and positives, int64 [B], rows of the text table."""
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, {task: self._batches(task, epoch) for task in self.tasks}
        turn, place = divmod(step, len(self.tasks))
        task = self.tasks[place]
        anchors, positives = torch.from_numpy(self.pairs[task][self._plan[task][turn]]).unbind(1)
        weight = torch.full(anchors.shape, self.weights[task])
        labels = torch.zeros_like(anchors)  # one loss term per pair
        return [MicroBatch(task, {"anchors": anchors, "positives": positives, "weight": weight, "labels": labels})]

    def _batches(self, task: str, epoch: int) -> list[Int64Array]:
        """Rows of the task's batches in an epoch, `turns` of them."""
        batches: list[Int64Array] = []
        number = 0
        while len(batches) < self.turns:
            batches += self._pass(task, epoch, number)
            number += 1
        return batches[: self.turns]

    def _pass(self, task: str, epoch: int, number: int) -> list[Int64Array]:
        rng = seeds.stream(self.seed, "bi-encoder", task, epoch, number)
        return batches_without_repeats(self.pairs[task], self.batch_size, rng)


class TextFeatures:
    """Model inputs of texts by their row in the table; a static model's texts are tokenised once, not in every step."""

    def __init__(self, model: SentenceTransformer, texts: pl.Series) -> None:
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        self.model, self.texts = model, texts
        first = model[0]
        self.tokens: TokenLists | None = None
        if isinstance(first, StaticEmbedding):
            encodings = first.tokenizer.encode_batch_fast(texts.to_list(), add_special_tokens=False)
            ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
            lengths = np.array([len(row) for row in ids], np.int64)
            self.tokens = TokenLists(np.concatenate(ids), np.concatenate([[0], np.cumsum(lengths)]))

    def of(self, rows: Tensor) -> dict[str, Tensor]:
        """Inputs of the texts in rows (int64 [B]), on the device of rows."""
        if self.tokens is not None:
            chosen = self.tokens.take(rows.cpu().numpy())
            features = {
                "input_ids": torch.from_numpy(chosen.ids.astype(np.int64)),
                "offsets": torch.from_numpy(chosen.offsets[:-1].astype(np.int64)),
            }
        else:
            features = self.model.preprocess(self.texts.gather(rows.cpu().numpy()).to_list())
        return {name: value.to(rows.device) if isinstance(value, Tensor) else value for name, value in features.items()}


def ranking_loss(features: TextFeatures, scale: float) -> Callable[[nn.Module, Mapping[str, Tensor]], Tensor]:
    """The loss of a batch of PairBatches: its pairs' weighted SUM, a float32 scalar."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    of_pairs = MultipleNegativesRankingLoss(features.model, scale=scale)

    def loss(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        assert model is features.model
        mean = of_pairs([features.of(tensors["anchors"]), features.of(tensors["positives"])], tensors["labels"])
        total: Tensor = mean.float() * tensors["weight"].sum()
        return total

    return loss

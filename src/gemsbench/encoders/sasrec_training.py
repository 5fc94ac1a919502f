"""Training of SASRec by cross-entropy over the catalogue, to the best validation NDCG@10; resumable.

The loss at every position is minus the log-probability of the next item under the softmax over the items that occur
in training recommendation events; items that do not are no part of it. (The paper has a binary loss on one sampled
negative.) The first event of a user is learned from the start row alone, every later one from events before it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gemsbench.config import settings_dict
from gemsbench.encoders.catalogue_loss import catalogue_cross_entropy
from gemsbench.encoders.sasrec_model import START, SASRecModel
from gemsbench.encoders.sasrec_scoring import SASRecScorer
from gemsbench.encoders.sasrec_sequences import TASK, TrainingWindows, histories, padded, training_windows
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array
from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.files import sha256_json
from gemsbench.progress import progress_bar
from gemsbench.seeds import stream_seed
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads
from gemsbench.training.batches import NO_LOSS, MicroBatch
from gemsbench.training.epoch_plan import EpochPlan, plan_epoch, steps_per_epoch
from gemsbench.training.examples import VALIDATION_CASES, validation_questions
from gemsbench.training.loop import Problem, train
from gemsbench.training.loop_settings import LoopSettings
from gemsbench.training.token_lists import TokenLists

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

VERSIONS = ("torch", "accelerate", "numpy", "polars")  # that a fit depends on


def _default_loop() -> LoopSettings:
    return LoopSettings(epochs=40, batch_size=64, micro_batch_size=64, patience=4, warmup=0.0)


@dataclass(frozen=True)
class SASRecSettings:
    """Config of SASRec; raises InputError for values out of range.

    Windows are as long as the histories of cases in the small profiles. On movielens-small, one seed, validation
    NDCG@10 was 0.44 with them against 0.40 with the paper's 50 events, whose later positions no case ever asks for.
    """

    width: int = 32  # of items and states; LETTER needs that of its codes
    blocks: int = 2
    heads: int = 1
    dropout: float = 0.2
    max_length: int = 10  # events that a state knows of; more than a case's history holds is never asked for
    learning_rate: float = 3e-3  # Adam
    validation_cases: int = VALIDATION_CASES  # at most
    loop: LoopSettings = field(default_factory=_default_loop)

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "heads", "max_length", "validation_cases"):
            if getattr(self, name) < 1:
                raise InputError(f"sasrec: {name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.heads:
            raise InputError(f"sasrec: width is {self.width}; it must be a multiple of heads, {self.heads}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"sasrec: dropout is {self.dropout}; it must be at least 0 and below 1.")
        if not self.learning_rate > 0:
            raise InputError(f"sasrec: learning_rate is {self.learning_rate}; it must be positive.")


@dataclass(frozen=True)
class TrainedSASRec:
    """The best model of a training, what is said of it (JSON values), and one line per evaluation."""

    model: SASRecModel
    record: Mapping[str, Any]
    log: list[dict[str, Any]]


def build_model(settings: SASRecSettings, n_items: int) -> SASRecModel:
    """The model of these settings, not initialized."""
    sizes = (settings.width, settings.blocks, settings.heads, settings.max_length)
    return SASRecModel(n_items, *sizes, settings.dropout)


def train_sasrec(settings: SASRecSettings, data: TrainingData, seed: int, checkpoint: Path) -> TrainedSASRec:
    """Train to the best validation NDCG@10; goes on from the checkpoint folder, which the caller deletes.

    Raises InputError without recommendation events in training or without recommendation cases in validation.
    """
    windows = training_windows(data.events, settings.max_length + 1)
    model = build_model(settings, data.n_items)
    model.known[torch.from_numpy(np.unique(windows.items.ids)).long()] = True
    with torch_threads(settings.loop.threads):
        generator = torch.Generator().manual_seed(stream_seed(seed, "sasrec", "initial"))
        model.initialize(generator)
        validation = _Validation.of(data, model, settings)
        batches = WindowBatches(windows, model.known, settings.loop, stream_seed(seed, "sasrec"))
        problem = Problem(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=settings.learning_rate),
            steps_per_epoch=batches.steps_per_epoch,
            step=batches.step,
            loss=next_item_loss,
            evaluate=lambda: validation.measure(model),
            fingerprint=_fingerprint(settings, data, seed, windows, validation),
            seed=batches.seed,
        )
        with progress_bar("SASRec", total=settings.loop.epochs * batches.steps_per_epoch) as report:
            result = train(problem, settings.loop, checkpoint, report)
        model.cpu()
        record = {
            "best_step": result.best_step,
            "stopped": result.stopped,
            "valid_ndcg@10": result.criterion,
            "training_events": windows.n_targets,
            "training_windows": len(windows),
            "items_without_training_events": data.n_items - int(model.known.sum()),
            "validation": validation.by_warmth(model),
        }
    return TrainedSASRec(model.eval(), record, result.log)


def next_item_loss(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    """Sum over the positions with a label of -log P(next item), a float32 scalar.

    tensors: sequences int64 [B, T]; labels int64 [B, T], places of the next items among the known ones in order of
    id, NO_LOSS where there is none. P is the softmax of state . row over the known items.
    """
    assert isinstance(model, SASRecModel)
    labels = tensors["labels"]
    wanted = labels != NO_LOSS
    states = model(tensors["sequences"])[wanted]
    return catalogue_cross_entropy(states, model.items[model.known], labels[wanted])


class WindowBatches:
    """The batches of every step of every epoch, a function of (windows, sizes, seed) alone."""

    def __init__(self, windows: TrainingWindows, known: Tensor, loop: LoopSettings, seed: int) -> None:
        self.windows, self.seed = windows, seed
        self.batch_size, self.micro_batch_size = loop.batch_size, loop.micro_batch_size
        self.steps_per_epoch = steps_per_epoch(len(windows), loop.batch_size)
        self._place = np.cumsum(known.numpy()) - 1  # of a known item among all of them
        self._epoch, self._plan = -1, EpochPlan({}, {}, {})

    def step(self, epoch: int, step: int) -> list[MicroBatch]:
        """The micro-batches of a step, both counted from 0: sequences and labels, see next_item_loss."""
        if epoch != self._epoch:
            tasks = np.zeros(len(self.windows), dtype=np.int8)
            self._plan = plan_epoch(tasks, self.windows.items.lengths, self.batch_size, self.seed, epoch)
            self._epoch = epoch
        ((_, rows),) = self._plan.step(step)
        return self._batch(self.windows.items.take(rows), self.windows.opens[rows]).split(self.micro_batch_size)

    def _batch(self, rows: TokenLists, opens: npt.NDArray[np.bool_]) -> MicroBatch:
        width = int(rows.lengths.max())
        items = padded(rows, START, width)
        before = np.pad(items[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        labels = np.where(np.arange(width) < rows.lengths[:, None], self._place[items], NO_LOSS)
        labels[~opens, 0] = NO_LOSS
        return MicroBatch(TASK, {"sequences": torch.from_numpy(before), "labels": torch.from_numpy(labels)})


@dataclass(frozen=True)
class _Validation:
    """Histories of validation cases and their candidate lists, in the same order of cases."""

    past: TokenLists
    rows: Int64Array
    lists: ValidationLists
    known_items: Int64Array

    @staticmethod
    def of(data: TrainingData, model: SASRecModel, settings: SASRecSettings) -> _Validation:
        questions = validation_questions(data, TASK, settings.validation_cases)
        chosen = data.cases.join(questions.select("case_id"), on="case_id", how="semi")
        lists = ValidationLists.of(chosen, data.valid_candidates, TASK)
        rows = np.repeat(np.arange(lists.n_cases), np.diff(lists.offsets))
        known = model.known.numpy()
        return _Validation(histories(questions, known, settings.max_length), rows, lists, np.flatnonzero(known))

    def measure(self, model: SASRecModel) -> dict[str, float]:
        ndcg10 = self.lists.ndcg10(self._scores(model))
        return {"criterion": ndcg10, "valid_ndcg@10": ndcg10}

    def by_warmth(self, model: SASRecModel) -> dict[str, Any]:
        """Hit@10 of all cases, and of those whose positive training met or not; None where there is no such case."""
        hits, warm = self.lists.hit10(self._scores(model)), self.lists.positive_in(self.known_items)
        groups = {"all": np.ones_like(warm), "warm positive": warm, "cold positive": ~warm}
        return {
            name: {"n_cases": int(group.sum()), "hit@10": float(hits[group].mean()) if group.any() else None}
            for name, group in groups.items()
        }

    def _scores(self, model: SASRecModel) -> npt.NDArray[np.float32]:
        return SASRecScorer(model).scores(self.past, self.rows, self.lists.items)


def _fingerprint(
    settings: SASRecSettings, data: TrainingData, seed: int, windows: TrainingWindows, validation: _Validation
) -> str:
    """sha256 of all that decides a fit, early stopping included: a checkpoint of another one is not used."""
    lists, past, rows = validation.lists, validation.past, windows.items
    arrays = (rows.ids, rows.offsets, windows.opens, past.ids, past.offsets, lists.items, lists.offsets, lists.positive)
    content = hashlib.sha256()
    for array in arrays:
        content.update(str(len(array)).encode() + array.tobytes())
    identity = {
        "settings": settings_dict(settings),
        "seed": seed,
        "n_items": data.n_items,
        "data": content.hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "code": source_sha256(__name__),
    }
    return sha256_json(identity)

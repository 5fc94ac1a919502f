"""Training of NCF: GMF, MLP, NeuMF from both, NeuMF from scratch; each to its best validation NDCG@10, resumable.

Every epoch's negatives and order are a function of (seed, stage, epoch) alone, so a run that was killed and one that
was not end with the same bits. Epoch 0 is the model before its first step: for NeuMF made from GMF and MLP it is
already their ensemble and may win.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gemsbench import seeds
from gemsbench.checkpoint import (
    below,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from gemsbench.errors import InputError
from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.methods.neumf import BOTH, NeuMF
from gemsbench.methods.train_pairs import TrainPairs

STAGES: Mapping[str, tuple[str, ...]] = {"gmf": ("gmf",), "mlp": ("mlp",), "neumf": BOTH, "neumf-scratch": BOTH}
Params = dict[str, Tensor]


@dataclass(frozen=True)
class NCFSettings:
    """Config of NCF. Grid of the paper: factors 8-64, learning rate 1e-4 to 5e-3, batch 128-1024, negatives 1-10.

    The default factors and rates were chosen by mean validation NDCG@10 on the three small real recipes, against 8
    factors with rates 1e-3 and 5e-3, with at most 15 epochs per stage. Raises InputError for values out of range.
    """

    factors: int = 16
    hidden_layers: int = 3
    negatives: int = 4  # per positive, drawn anew every epoch
    batch_size: int = 1024  # rows, positive and negative
    learning_rate: float = 5e-3  # Adam
    epochs: int = 50  # at most, per stage; patience ends a stage earlier
    patience: int = 5  # epochs without a better validation NDCG@10
    l2: float = 0.0  # on the embedding rows of a batch
    alpha: float = 0.5  # weight of GMF when NeuMF starts from both parts
    finetune_optimizer: Literal["sgd", "adam"] = "sgd"  # of NeuMF after pre-training
    finetune_learning_rate: float = 5e-3
    threads: int = 1  # of torch; results are bit-identical for a fixed number
    checkpoint_seconds: float = 30.0  # about this much work is lost by a kill

    def __post_init__(self) -> None:
        least = {"factors": 1, "hidden_layers": 1, "negatives": 1, "batch_size": 1, "epochs": 1, "patience": 1}
        least |= {"threads": 1, "l2": 0, "learning_rate": 0, "finetune_learning_rate": 0, "checkpoint_seconds": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise InputError(f"ncf: {name} is {getattr(self, name)}; it must be at least {smallest}.")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"ncf: alpha is {self.alpha}; it must be between 0 and 1.")


@dataclass(frozen=True)
class Problem:
    """What is learned from and what is chosen on."""

    pairs: TrainPairs
    validation: ValidationLists
    seed: int
    fingerprint: str  # of data, settings, seed and versions: a checkpoint of another one is not used

    def rng(self, stage: str, purpose: str, epoch: int) -> np.random.Generator:
        """The random numbers of one purpose in one epoch."""
        return seeds.stream(self.seed, "ncf", stage, purpose, epoch)


@dataclass(frozen=True)
class StageResult:
    """The best epoch of a finished stage."""

    best_epoch: int
    ndcg10: float  # on validation
    epochs: int  # run
    params: Params = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """The result without its parameters, as JSON values."""
        return {"best_epoch": self.best_epoch, "ndcg@10": self.ndcg10, "epochs": self.epochs}


@dataclass
class StageRun:
    """A stage on its way."""

    stage: str
    model: NeuMF
    optimizers: Sequence[torch.optim.Optimizer]
    epoch: int = -1  # last finished one; -1: nothing evaluated yet
    best_epoch: int = -1
    best_ndcg10: float = -1.0
    best: Params = field(default_factory=dict)

    def tensors(self) -> Params:
        """Everything of the stage that is a tensor, for a checkpoint."""
        named = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        named |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        return named | {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.optimizers).items()}

    def restore(self, state: Mapping[str, Any], tensors: Params) -> None:
        """Continue where a checkpoint stands."""
        self.epoch, self.best_epoch, self.best_ndcg10 = state["epoch"], state["best_epoch"], state["best_ndcg10"]
        self.model.load_state_dict(below(tensors, "model/"))
        self.best = below(tensors, "best/")
        restore_optimizers(self.optimizers, below(tensors, "optimizer/"))


def build(problem: Problem, settings: NCFSettings, stage: str) -> NeuMF:
    """The untrained model of a stage."""
    pairs = problem.pairs
    model = NeuMF(pairs.n_users, pairs.n_items, settings.factors, settings.hidden_layers, STAGES[stage])
    generator = torch.Generator().manual_seed(seeds.stream_seed(problem.seed, "ncf", stage, "initial"))
    return model.initialize(generator)


def start_stage(problem: Problem, settings: NCFSettings, stage: str, done: Mapping[str, StageResult]) -> StageRun:
    """Model and optimizers at epoch 0; NeuMF after pre-training starts from the best GMF and the best MLP."""
    model = build(problem, settings, stage)
    kind: Literal["sgd", "adam"] = "adam"
    rate = settings.learning_rate
    if stage == "neumf":
        gmf, mlp = build(problem, settings, "gmf"), build(problem, settings, "mlp")
        gmf.load_state_dict(done["gmf"].params)
        mlp.load_state_dict(done["mlp"].params)
        model.load_pretrained(gmf, mlp, settings.alpha)
        # Adam's moments of the parts do not fit the joined model, so the paper goes on with plain SGD.
        kind, rate = settings.finetune_optimizer, settings.finetune_learning_rate
    return StageRun(stage, model, make_optimizers(model, kind, rate))


def make_optimizers(model: NeuMF, kind: Literal["sgd", "adam"], rate: float) -> list[torch.optim.Optimizer]:
    """Plain SGD, or Adam whose embedding moments move only with the rows of a batch."""
    if kind == "sgd":
        return [torch.optim.SGD(model.parameters(), lr=rate)]
    tables, layers = list(model.embeddings.parameters()), list(model.head.parameters())
    return [torch.optim.SparseAdam(tables, lr=rate), torch.optim.Adam(layers, lr=rate)]


def train_epoch(run: StageRun, problem: Problem, settings: NCFSettings, epoch: int) -> float:
    """One pass over all positives with fresh negatives; returns the mean binary cross-entropy per row."""
    pairs = problem.pairs
    users = np.repeat(pairs.users, 1 + settings.negatives)
    items = np.repeat(pairs.items, 1 + settings.negatives)
    is_negative = np.arange(len(users)) % (1 + settings.negatives) > 0
    items[is_negative] = pairs.negatives(users[is_negative], problem.rng(run.stage, "negatives", epoch))
    order = problem.rng(run.stage, "order", epoch).permutation(len(users))
    labels = torch.from_numpy((~is_negative[order]).astype(np.float32))
    user_ids, item_ids = torch.from_numpy(users[order]), torch.from_numpy(items[order])
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(users), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        loss = train_step(run.model, run.optimizers, user_ids[rows], item_ids[rows], labels[rows], settings.l2)
        total += loss.double() * len(labels[rows])
    return float(total) / len(users)


def train_step(
    model: NeuMF,
    optimizers: Sequence[torch.optim.Optimizer],
    users: Tensor,
    items: Tensor,
    labels: Tensor,
    l2: float,
) -> Tensor:
    """One step on B rows (int64, int64, float32); returns their mean binary cross-entropy."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    cross_entropy = binary_cross_entropy_with_logits(model(users, items), labels)
    loss = cross_entropy + l2 * model.squared_rows(users, items) if l2 else cross_entropy
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return cross_entropy.detach()


def evaluate_epoch(run: StageRun, problem: Problem, epoch: int) -> float:
    """Validation NDCG@10 after the epoch; the best parameters are kept, the earlier epoch on a tie."""
    run.model.fill_unknown_users(problem.pairs.known_users)
    validation = problem.validation
    ndcg10 = validation.ndcg10(run.model.scores(validation.users, validation.items))
    run.epoch = epoch
    if ndcg10 > run.best_ndcg10:
        run.best_epoch, run.best_ndcg10 = epoch, ndcg10
        run.best = {name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}
    return ndcg10


class Training:
    """The four stages with their log and checkpoints in a folder; `finished` holds the results."""

    def __init__(self, problem: Problem, settings: NCFSettings, folder: Path) -> None:
        """Start, or go on from the checkpoint that lies in folder if it is of the same problem."""
        self.problem, self.settings, self.path = problem, settings, folder / "state.safetensors"
        self.finished: dict[str, StageResult] = {}
        self.log: list[dict[str, Any]] = []
        self._current: dict[str, Any] | None = None
        self._tensors: Params = {}
        self._saved_at = time.monotonic()
        loaded = load_checkpoint(self.path, problem.fingerprint)
        if loaded is not None:
            state, self._tensors = loaded
            self.log, self._current = state["log"], state["current"]
            for stage, values in state["finished"].items():
                params = below(self._tensors, f"{stage}/")
                self.finished[stage] = StageResult(values["best_epoch"], values["ndcg@10"], values["epochs"], params)

    def run(self, report: Callable[[int, str], None]) -> dict[str, StageResult]:
        """Run what is missing; report is called after each epoch with (epochs done, text)."""
        for number, stage in enumerate(STAGES):
            if stage in self.finished:
                continue
            run = start_stage(self.problem, self.settings, stage, self.finished)
            if self._current is not None and self._current["stage"] == stage:
                run.restore(self._current, below(self._tensors, "current/"))
            self._train_stage(run, report, epochs_before=number * self.settings.epochs)
            self.finished[stage] = StageResult(run.best_epoch, run.best_ndcg10, run.epoch, run.best)
            self._save(None)
        return self.finished

    def _train_stage(self, run: StageRun, report: Callable[[int, str], None], epochs_before: int) -> None:
        while run.epoch < self.settings.epochs and run.epoch - run.best_epoch < max(self.settings.patience, 1):
            began, epoch = time.perf_counter(), run.epoch + 1
            loss = train_epoch(run, self.problem, self.settings, epoch) if epoch else None
            ndcg10 = evaluate_epoch(run, self.problem, epoch)
            seconds = round(time.perf_counter() - began, 3)
            self.log.append(
                {"stage": run.stage, "epoch": epoch, "loss": loss, "valid_ndcg@10": ndcg10, "seconds": seconds}
            )
            report(epochs_before + epoch, f"{run.stage}: epoch {epoch}, validation NDCG@10 {ndcg10:.4f}")
            if time.monotonic() - self._saved_at >= self.settings.checkpoint_seconds:
                self._save(run)

    def _save(self, run: StageRun | None) -> None:
        tensors = {f"{s}/{name}": t for s, result in self.finished.items() for name, t in result.params.items()}
        current = None
        if run is not None:
            tensors |= {f"current/{name}": tensor for name, tensor in run.tensors().items()}
            current = {"stage": run.stage, "epoch": run.epoch}
            current |= {"best_epoch": run.best_epoch, "best_ndcg10": run.best_ndcg10}
        state = {
            "fingerprint": self.problem.fingerprint,
            "finished": {stage: result.summary() for stage, result in self.finished.items()},
            "current": current,
            "log": self.log,
        }
        save_checkpoint(self.path, state, tensors)
        self._saved_at = time.monotonic()

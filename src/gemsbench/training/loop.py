"""The one training loop of all language models: accumulate, clip, step, evaluate, keep the best, resume after a kill.

Everything random is a function of (seed, step), and batches are the problem's own function of (epoch, step): on the
CPU a run that was killed and one that was not end with the same bits (CUDA kernels are not asked to be deterministic).
Nothing depends on the clock but when checkpoints are written. Memory that runs out halves the micro-batches from there
on, which changes the random numbers of dropout; the log says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from gemsbench.checkpoint import (
    below,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from gemsbench.errors import InputError
from gemsbench.threads import torch_threads
from gemsbench.training.batches import MicroBatch
from gemsbench.training.loop_settings import LoopSettings
from gemsbench.training.step import Loss, StepLosses, Stepper
from gemsbench.training.task_optimizer import TaskOptimizer, trained_parameters

__all__ = ["LoopSettings", "MicroBatch", "Problem", "TrainingResult", "train"]

CRITERION = "criterion"
Stopped = Literal["patience", "epochs", "steps"]  # validation, or the cap of epochs or of steps
_WAIT_PER_WRITE = 20  # a checkpoint of D seconds is followed by at least 20 D without one: 5 % of the time at most


@dataclass(frozen=True)
class Problem:
    """What is trained, on what, and what the best weights are chosen by.

    The optimizer holds the trainable parameters of the model; the learning rates of its groups are their peaks.
    step(epoch, step of the epoch), both from 0, gives the micro-batches of one optimizer step, on the CPU.
    loss gives the SUM of the token losses of a micro-batch, a float32 scalar.
    evaluate gives "criterion" (bigger is better) and figures for the log; it is called without gradients, in eval
    mode, and must draw no random numbers that it does not seed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps_per_epoch: int
    step: Callable[[int, int], Sequence[MicroBatch]]
    loss: Loss
    evaluate: Callable[[], Mapping[str, float]]
    fingerprint: str  # of data, settings, seed and versions: a checkpoint of another one is not used
    seed: int
    divisible: bool = True  # False: a batch is one loss (its rows are each other's negatives) and cannot be cut


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended; the model holds the weights of best_step (0: as it was before the first step)."""

    stopped: Stopped
    best_step: int
    criterion: float
    log: list[dict[str, Any]]


@dataclass
class _State:
    """Where a training stands, as JSON values; losses are summed since the last line of the log."""

    step: int = 0  # finished ones
    best_step: int = -1  # -1: nothing evaluated yet
    criterion: float = 0.0  # of best_step
    unimproved: int = 0  # evaluations since best_step
    row_limit: int | None = None
    seconds: float = 0.0  # since the last line of the log
    sums: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    def add(self, losses: StepLosses) -> None:
        """Count the losses of one more step."""
        for task in losses.tokens:
            self.sums[task] = self.sums.get(task, 0.0) + losses.sums[task]
            self.tokens[task] = self.tokens.get(task, 0) + losses.tokens[task]


def train(
    problem: Problem, settings: LoopSettings, checkpoint: Path, report: Callable[[int, str], None]
) -> TrainingResult:
    """Train to the best criterion, or go on from the checkpoint folder if it is of the same problem.

    report is called after each step with (steps done, text); there are settings.total_steps of them.
    The log has one line per evaluation (the first one before the first step), one per shortage of memory, and one at
    the end. Lines of evaluations have a loss of every task met in the training, None where it was not met since the
    line before, and the optimizer's own metrics where it has some. The checkpoint is left to the caller, who deletes
    it (checkpoint.delete_checkpoint) once the model is saved. Raises InputError when there is nothing to train on,
    when a loss, gradient or criterion is not finite, and when one row, or a batch that cannot be cut, does not fit into
    memory.
    """
    if problem.steps_per_epoch < 1:
        raise InputError("training: there is no step in an epoch, so there are no training examples.")
    with torch_threads(settings.threads):
        run = _Run(problem, settings, checkpoint / "state.safetensors")
        device = run.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return run.run(report)


class _Run:
    def __init__(self, problem: Problem, settings: LoopSettings, path: Path) -> None:
        self.problem, self.settings, self.path = problem, settings, path
        # accelerate keeps the precision of the process; an earlier training may have used another one.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bf16" else "no")
        problem.model.to(self.accelerator.device)
        args = (problem.model, problem.optimizer, problem.loss, self.accelerator, problem.seed, settings.max_grad_norm)
        self.stepper = Stepper(*args, divisible=problem.divisible)
        self.trainable = trained_parameters(problem.model, problem.optimizer)
        self.tasks = sorted({batch.task for batch in problem.step(0, 0)})
        self.total_steps = settings.total_steps(problem.steps_per_epoch)
        self.evaluated_after = settings.evaluation_steps(problem.steps_per_epoch)
        for group in problem.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # torch's own name for the peak of a schedule
        self.state, self.best = _State(), dict[str, Tensor]()
        self.norms: Mapping[str, float] = {}  # of the last step's gradients
        self._restore()
        self._saved_at = self._began = time.monotonic()
        self._write_seconds = 0.0  # of the last checkpoint

    def run(self, report: Callable[[int, str], None]) -> TrainingResult:
        state, settings = self.state, self.settings
        if state.best_step < 0:
            self._evaluate()
        while state.step < self.total_steps and state.unimproved < settings.patience:
            self._step()
            if self._is_evaluation_due():
                self._evaluate()
            report(state.step, f"epoch {self._epoch:.2f}, best {state.criterion:.4f} at step {state.best_step}")
            if self._is_checkpoint_due():
                self._save()
        self._load_weights(self.best)
        end = {"stage": "end", "stopped": self._stopped, "step": state.step, "best_step": state.best_step}
        return TrainingResult(self._stopped, state.best_step, state.criterion, [*_with_equal_keys(state.log), end])

    @property
    def _stopped(self) -> Stopped:
        if self.state.unimproved >= self.settings.patience:
            return "patience"
        return "epochs" if self.total_steps == self.settings.epochs * self.problem.steps_per_epoch else "steps"

    def _is_evaluation_due(self) -> bool:
        step = self.state.step
        return (step - 1) % self.problem.steps_per_epoch + 1 in self.evaluated_after or step == self.total_steps

    @property
    def _epoch(self) -> float:
        return self.state.step / self.problem.steps_per_epoch

    def _step(self) -> None:
        state = self.state
        factor = self.settings.rate_factor(state.step, self.total_steps)
        for group in self.problem.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        epoch, step = divmod(state.step, self.problem.steps_per_epoch)
        self.problem.model.train()
        losses = self.stepper.step(state.step, self.problem.step(epoch, step))
        state.add(losses)
        self.norms = losses.norms
        if self.stepper.row_limit != state.row_limit:
            state.row_limit = self.stepper.row_limit
            state.log.append({"stage": "memory", "step": state.step, "micro_batch_size": state.row_limit})
        state.step += 1

    def _evaluate(self) -> None:
        self.problem.model.eval()
        with torch.no_grad():
            values = dict(self.problem.evaluate())
        state, criterion = self.state, float(values.pop(CRITERION))
        if not math.isfinite(criterion):
            raise InputError(f"training: the validation criterion is {criterion} after step {state.step}.")
        if state.best_step < 0 or criterion > state.criterion:
            state.best_step, state.criterion, state.unimproved = state.step, criterion, 0
            self.best = {name: p.detach().to("cpu", copy=True) for name, p in self.trainable.items()}
        else:
            state.unimproved += 1
        state.log.append(self._line(values))
        state.sums, state.tokens, state.seconds = {}, {}, 0.0

    def _line(self, values: Mapping[str, float]) -> dict[str, Any]:
        state = self.state
        losses = {task: state.sums[task] / state.tokens[task] for task in state.tokens}
        rate = max(group["lr"] for group in self.problem.optimizer.param_groups) if state.step else None
        return {
            "stage": "train",
            "step": state.step,
            "epoch": self._epoch,
            "loss": sum(state.sums.values()) / sum(state.tokens.values()) if state.tokens else None,
            **{f"loss_{task}": losses.get(task) for task in sorted({*self.tasks, *losses})},
            "learning_rate": rate,
            **{name: float(value) for name, value in values.items()},
            **self._optimizer_metrics(),
            "seconds": round(self._seconds(), 3),
        }

    def _optimizer_metrics(self) -> dict[str, float | None]:
        optimizer = self.problem.optimizer
        if not isinstance(optimizer, TaskOptimizer) or not self.state.step:
            return {}
        values = {name: float(value) for name, value in {**self.norms, **optimizer.metrics()}.items()}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN

    def _seconds(self) -> float:
        """Seconds since the last line of the log, those before a kill included."""
        now = time.monotonic()
        self.state.seconds += now - self._began
        self._began = now
        return self.state.seconds

    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[name])

    def _is_checkpoint_due(self) -> bool:
        wait = self.settings.checkpoint_seconds
        if wait:  # 0: after every step, however long that takes
            wait = max(wait, _WAIT_PER_WRITE * self._write_seconds)
        return time.monotonic() - self._saved_at >= wait

    def _save(self) -> None:
        began = time.monotonic()
        self._seconds()
        tensors: dict[str, Tensor] = {f"model/{name}": p for name, p in self.trainable.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        moments = optimizer_tensors([self.problem.optimizer])
        tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
        save_checkpoint(self.path, {"fingerprint": self.problem.fingerprint, **asdict(self.state)}, tensors)
        self._saved_at = time.monotonic()
        self._write_seconds = self._saved_at - began

    def _restore(self) -> None:
        loaded = load_checkpoint(self.path, self.problem.fingerprint)
        if loaded is None:
            return
        values, tensors = loaded
        weights = below(tensors, "model/")
        if weights.keys() != self.trainable.keys():
            return  # of another model
        del values["fingerprint"]
        self.state, self.best = _State(**values), below(tensors, "best/")
        self.stepper.row_limit = self.state.row_limit
        self._load_weights(weights)
        restore_optimizers([self.problem.optimizer], below(tensors, "optimizer/"))


def _with_equal_keys(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log with the same keys in each line of an evaluation: a rare task shows up in a later one only."""
    names = dict.fromkeys(name for line in log if line["stage"] == "train" for name in line)
    return [{**line, **{name: line.get(name) for name in names if line["stage"] == "train"}} for line in log]

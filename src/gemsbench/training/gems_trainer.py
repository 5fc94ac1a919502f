"""GEMS for users of transformers' Trainer: rows that name their task, gradients kept apart by task, the rest as usual.

    trainer = GEMSTrainer(
        model=model, args=TrainingArguments(..., learning_rate=2e-5), train_dataset=dataset,  # rows with a "task"
        data_collator=with_tasks(DataCollatorForSeq2Seq(tokenizer)), gems=GEMSPlan(tasks=("src", "rec"), rank=256),
    )
    trainer.train()

Gradient accumulation, schedulers, logging, evaluation, checkpoints and resuming are the Trainer's own. Gradients are
not clipped, whatever max_grad_norm says: Adam's step does not depend on their size. Rows of a task without any target
token in their micro-batch are left out of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments

from gemsbench.errors import InputError
from gemsbench.optim import GEMS, GEMSConfig, KnowledgeBasis, gems_param_groups
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.task_windows import TaskWindows

TASK = "task"  # key of a batch: one name per row, or one name for all rows
_DEFAULT_OPTIMIZER = TrainingArguments.__dataclass_fields__["optim"].default  # stands for: nothing was asked for

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class GEMSPlan:
    """What GEMSTrainer does with the model; learning rate, schedule and steps are those of TrainingArguments.

    weight_decay of TrainingArguments is ignored (it would change what the null space preserves): see config.
    """

    tasks: tuple[str, ...]
    rank: int = 256
    task_rank: int | None = None  # None: half of rank
    target_modules: str | tuple[str, ...] = "all-linear"
    exclude: tuple[str, ...] = ("lm_head",)
    rank_pattern: Mapping[str, int] | None = None
    others: str = "frozen"  # or "trained"
    rows: Mapping[str, range] | None = None  # parameter name -> rows of new tokens
    rows_learning_rate: float | None = None
    null_space: KnowledgeBasis | None = None
    config: GEMSConfig = field(default_factory=GEMSConfig)  # GEMSConfig.of("fast"), for instance


def with_tasks(collator: Collator) -> Collator:
    """A collator for rows with a "task" (text) out of one that knows of none.

    Rows without any task pass as they are, for evaluation needs none; InputError where only some of a batch have one.
    """

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        tasks = [row[TASK] for row in rows if TASK in row]
        batch = collator([{k: v for k, v in row.items() if k != TASK} for row in rows])
        if not tasks:
            return batch
        if len(tasks) < len(rows):
            raise InputError(f"with_tasks: {len(rows) - len(tasks)} of {len(rows)} rows have no '{TASK}'. Add it.")
        return {**batch, TASK: tasks}

    return collate


class GEMSTrainer(Trainer):
    """Trainer with GEMS as optimizer; batches must have the key "task" (see TASK) beside the model's inputs."""

    def __init__(self, *args: Any, gems: GEMSPlan, **kwargs: Any) -> None:
        """Take what Trainer takes, and gems; raises InputError for what GEMS does not go with.

        That is more than one process or device, DeepSpeed, FSDP, fp16, and an optimizer of the caller's, be it an
        object or the name in TrainingArguments(optim=...).
        """
        super().__init__(*args, **kwargs)
        self.gems_plan = gems
        self._gems: GEMS | None = None
        self._left = 0  # micro-batches of this step still to come
        self._step_tokens = 0
        self._reject_what_does_not_go_together()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """GEMS over the linear layers of the model; sets requires_grad as gems_param_groups does."""
        if self.optimizer is None:
            plan = self.gems_plan
            groups = gems_param_groups(
                cast(nn.Module, self.model if model is None else model),
                rank=plan.rank,
                task_rank=plan.task_rank,
                target_modules=plan.target_modules,
                exclude=plan.exclude,
                rank_pattern=plan.rank_pattern,
                others=cast(Any, plan.others),
                rows=plan.rows,
                rows_lr=plan.rows_learning_rate,
            )
            self._gems = GEMS(
                groups,
                lr=self.args.learning_rate,
                tasks=plan.tasks,
                null_space=plan.null_space,
                seed=self.args.seed,
                **vars(plan.config),
            )
            self.optimizer = self._gems
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of one optimizer step, whose number and target tokens are noted.

        Raises InputError for a step without any target token.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._left = len(batches)
        self._step_tokens = sum(self._target_tokens(batch) for batch in batches)
        if batches and not self._step_tokens:
            raise InputError(
                f"GEMSTrainer: step {self.state.global_step} has no target token: all labels of its micro-batches are "
                f"{NO_LOSS}. Drop the rows whose targets were cut off, or make the steps larger."
            )
        self.gems.zero_grad()  # of a step that ran out of memory; the Trainer asks the model only
        return batches, items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add the gradients of one micro-batch, task by task; returns its share of the step's mean token loss."""
        model.train()
        tasks = self._tasks_of(inputs)
        tensors = self._prepare_inputs(inputs)
        self._left -= 1
        tensors, tasks = self._with_targets(tensors, tasks)
        if self.gems_plan.config.backward == "projected" and len(set(tasks)) > 1:
            return self._mixed_step(model, tensors, tasks)
        losses = []
        names = [name for name in self.gems_plan.tasks if name in tasks]  # always in the same order
        for name in names:
            rows = torch.tensor([n for n, task in enumerate(tasks) if task == name])
            part = tensors if len(names) == 1 else _rows_of(tensors, rows, len(tasks))
            last = self._left == 0 and name == names[-1]
            share = self._target_tokens(part) / self._step_tokens
            with self.gems.task(name, tokens=share, last=last) as named:
                loss = self._loss(model, part)[0] * share
                named.record(loss.detach())
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self.args.device)

    @property
    def gems(self) -> GEMS:
        """The optimizer itself, without the wrapper that accelerate puts around it."""
        if self._gems is None:
            raise InputError("GEMSTrainer: the optimizer is made by train(); there is none yet.")
        return self._gems

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, with the gate weights and the other figures of GEMS beside each training loss."""
        if "loss" in logs and self._gems is not None:
            found = {name: float(value) for name, value in self._gems.metrics().items()}
            logs = {**logs, **{f"gems/{name}": value for name, value in found.items() if math.isfinite(value)}}
        super().log(logs, start_time)

    def _loss(self, model: nn.Module, tensors: dict[str, Any]) -> tuple[Tensor, Any]:
        """Mean token loss of these rows (models and loss functions that are not told a number give it), and outputs."""
        with self.compute_loss_context_manager():
            given = dict(tensors)  # Trainer takes the labels out, for label smoothing and loss functions of the user's
            loss, outputs = self.compute_loss(model, given, return_outputs=True, num_items_in_batch=None)
        return cast(Tensor, loss), outputs

    def _mixed_step(self, model: nn.Module, tensors: dict[str, Any], tasks: Sequence[str]) -> Tensor:
        """One forward and backward pass for the rows of all tasks, whose gradients GEMS keeps apart."""
        numbers = [list(self.gems_plan.tasks).index(task) for task in tasks]
        counts = self._tokens_by_row(tensors["labels"]).tolist()
        tokens: Counter[str] = Counter()
        for task, count in zip(tasks, counts, strict=True):
            tokens[task] += count
        share = sum(counts) / self._step_tokens
        divided = {task: count / self._step_tokens for task, count in tokens.items()}
        with self.gems.mixed_batch(list(tasks), tokens=divided, last=self._left == 0) as part:
            loss, outputs = self._loss(model, tensors)
            loss = loss * share
            sums = self._losses_by_task(outputs["logits"], tensors["labels"], torch.tensor(numbers))
            losses = {task: sums[self.gems_plan.tasks.index(task)] / self._step_tokens for task in tokens}
            part.record(loss.detach(), losses=losses)
            self.accelerator.backward(loss)
        return cast(Tensor, loss.detach())

    @torch.no_grad()
    def _losses_by_task(self, logits: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Sum of token losses per task [K], without smoothing; at target positions only."""
        if self._loss_shifts_labels:
            logits, labels = logits[:, :-1], labels[:, 1:]
        wanted = labels != NO_LOSS
        losses = cross_entropy(logits[wanted].float(), labels[wanted], reduction="none")
        rows = numbers.to(labels.device)[:, None].expand_as(labels)[wanted]
        return torch.zeros(len(self.gems_plan.tasks), device=losses.device).index_add_(0, rows, losses)

    def _with_targets(self, tensors: dict[str, Any], tasks: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The batch without the rows of tasks that have no target token in it: a mean over no token is NaN."""
        counts = self._tokens_by_row(tensors["labels"]).tolist()
        there = {task for task, count in zip(tasks, counts, strict=True) if count}
        rows = [n for n, task in enumerate(tasks) if task in there]
        if len(rows) == len(tasks):
            return tensors, tasks
        return _rows_of(tensors, torch.tensor(rows, dtype=torch.int64), len(tasks)), [tasks[n] for n in rows]

    def _tasks_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """The task of each row; raises InputError when a batch does not say, or names another task."""
        named = inputs.get(TASK)
        rows = len(inputs["labels"])
        tasks = [named] * rows if isinstance(named, str) else list(named or ())
        unknown = next((task for task in tasks if task not in self.gems_plan.tasks), None)
        if len(tasks) != rows or unknown is not None:
            wrong = "is missing or not one name per row" if unknown is None else f"holds '{unknown}'"
            raise InputError(
                f"GEMSTrainer: '{TASK}' of a batch {wrong}. The collator must give one of "
                f"{', '.join(self.gems_plan.tasks)} for each row (with_tasks makes one that does, of rows of the "
                f"training set that have a '{TASK}')."
            )
        return tasks

    def _tokens_by_row(self, labels: Tensor) -> Tensor:
        return ((labels[:, 1:] if self._loss_shifts_labels else labels) != NO_LOSS).sum(dim=1)

    def _target_tokens(self, inputs: Mapping[str, Any]) -> int:
        return int(self._tokens_by_row(inputs["labels"]).sum())

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], super()._prepare_inputs({k: v for k, v in inputs.items() if k != TASK}))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: list[str] = self._signature_columns or []
        if TASK not in known:
            known.append(TASK)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        tasks = _tasks_of_rows(dataset)
        if tasks is None or self.args.train_sampling_strategy != "random":
            return cast("Sampler[int] | None", super()._get_train_sampler(train_dataset))
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return TaskWindows(tasks, self._train_batch_size * self.args.gradient_accumulation_steps, seed)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        return torch.tensor(math.hypot(*self.gems.gradient_norms().values()))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return self._clip_grad_norm(model) if grad_norm is None else grad_norm

    def _reject_what_does_not_go_together(self) -> None:
        args = self.args
        wrong = {
            "several devices": args.world_size > 1 or args.n_gpu > 1,
            "DeepSpeed or FSDP": self.is_deepspeed_enabled or self.is_fsdp_enabled,
            "fp16": bool(args.fp16),
            "an optimizer of your own": self.optimizer is not None or self.optimizer_cls_and_kwargs is not None,
            f"optim='{getattr(args.optim, 'value', args.optim)}'": args.optim != _DEFAULT_OPTIMIZER,
        }
        found = next((name for name, there in wrong.items() if there), None)
        if found:
            raise InputError(
                f"GEMSTrainer does not go with {found}. Train on one device (CUDA_VISIBLE_DEVICES=0) in fp32 or bf16, "
                "and leave the optimizer (and TrainingArguments' optim) to it."
            )


def _rows_of(tensors: Mapping[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """The given rows of every tensor with one row per example."""
    return {
        name: value[rows.to(value.device)]
        if isinstance(value, Tensor) and value.ndim and len(value) == count
        else value
        for name, value in tensors.items()
    }


def _tasks_of_rows(dataset: Any) -> list[str] | None:
    """The task of every row of a dataset with a length; None where there is no such thing to read."""
    if not hasattr(dataset, "__len__") or not len(dataset):
        return None
    if TASK in getattr(dataset, "column_names", ()):
        return list(dataset[TASK])
    first = dataset[0]
    if not isinstance(first, Mapping) or TASK not in first:
        return None
    tasks = [dataset[n].get(TASK) for n in range(len(dataset))]
    if None in tasks:
        raise InputError(f"GEMSTrainer: row {tasks.index(None)} of the training set has no '{TASK}'. Add it.")
    return tasks

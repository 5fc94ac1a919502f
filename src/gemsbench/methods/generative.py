"""Fitting a generative method: identifiers, the common prompt, token cross-entropy and a tuner, put together.

A method of this kind is a choice of identifiers; what it shares with the others stands here. The loss is the paper's
(arXiv 2601.09496, section 3): minus the sum over the identifier's tokens, end token included, of their log-probability
given the prompt and the tokens before, over the training cases of all tasks together.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch

from gemsbench import registry
from gemsbench.backbones.catalogue import LOG, RECORD
from gemsbench.backbones.folder import check_folder
from gemsbench.backbones.loading import Backbone, load_backbone
from gemsbench.backbones.vocabulary import add_tokens
from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings, settings_dict
from gemsbench.decoding import CandidateScorer
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, sha256_file, sha256_json, table_sha256, write_json
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.vocabulary import token_strings, token_table
from gemsbench.methods.generative_scoring import MAX_LENGTH, SETTINGS_FILE, IdentifierRanker, scored_end
from gemsbench.methods.generative_validation import Validation
from gemsbench.methods.initial_weights import draw_weights
from gemsbench.progress import progress_bar
from gemsbench.seeds import stream_seed
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads
from gemsbench.training.batches import Batches
from gemsbench.training.examples import VALIDATION_CASES, Examples, training_examples
from gemsbench.training.loop import Problem, TrainingResult, train
from gemsbench.training.loop_settings import LoopSettings
from gemsbench.training.objective import Head, identifier_loss
from gemsbench.training.prompt_tokens import PromptTokens, unknown_rate
from gemsbench.training.task_optimizer import TaskOptimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gemsbench.protocol.pack import TrainingData
    from gemsbench.tuners.contract import Tuned, Tuner

# Sum of the token losses of a micro-batch (training/objective.py: identifier_loss and what methods put in its place).
Objective = Callable[["PreTrainedModel", Mapping[str, torch.Tensor], Head | None], torch.Tensor]

VERSIONS = ("torch", "transformers", "tokenizers", "accelerate", "peft", "numpy", "polars")  # that a fit depends on


@dataclass(frozen=True)
class TunerChoice:
    """How the weights of one kind of backbone move."""

    name: str = ""  # of registry.TUNERS; "": the method's own, or the usual one of this kind of backbone
    config: Mapping[str, Any] = field(default_factory=dict)  # fields of the tuner's Config
    loop: LoopSettings | None = None  # in the place of the method's, for this kind alone


@dataclass(frozen=True)
class GenerativeSettings:
    """Config of a generative method; raises InputError for values out of range."""

    tuners: Mapping[str, TunerChoice] = field(default_factory=dict)  # kind of backbone (t5, qwen2) -> its tuner
    loop: LoopSettings = field(default_factory=LoopSettings)
    train_tasks: tuple[str, ...] = ("rec", "src")  # one alone is the single-task form of the method
    history_tasks: tuple[str, ...] = ("rec", "src")  # events of these tasks are shown in the prompt
    validation_cases: int = VALIDATION_CASES  # per task, at most
    initial: Literal["pretrained", "random"] = "pretrained"  # random: the backbone's architecture with new weights

    def __post_init__(self) -> None:
        for kind in self.tuners:
            registry.lookup(MAX_LENGTH, kind, "kind of backbone (under tuners)")
        for name in ("train_tasks", "history_tasks"):
            tasks = getattr(self, name)
            if not tasks or not set(tasks) <= {"rec", "src"}:
                raise InputError(f"{name} is {list(tasks)}; name rec, src or both.")
        if self.validation_cases < 1:
            raise InputError(f"validation_cases is {self.validation_cases}; it must be at least 1.")

    def loop_of(self, kind: str) -> LoopSettings:
        """How a backbone of this kind is trained."""
        return self.tuners.get(kind, TunerChoice()).loop or self.loop


@dataclass(frozen=True)
class Assembly:
    """What a fit is put together from."""

    settings: GenerativeSettings
    loop: LoopSettings
    codes: ItemCodes
    data: TrainingData
    backbone: Backbone
    tuner_name: str
    tuned: Tuned
    half: bool  # the saved model is scored in bf16; a merged adapter is not, its updates would be rounded away
    examples: Examples
    validation: Validation
    first_row: int  # id of the first identifier token


def fit_generative(
    target: str,
    settings: GenerativeSettings,
    data: TrainingData,
    backbone: Path | None,
    seed: int,
    out: Path,
    *,
    identifiers: Path | None = None,
    basis: Path | None = None,
    tuner: str = "",
    objective: Objective = identifier_loss,
) -> None:
    """Tune a backbone to write the identifiers and save it as the folder out; goes on from `<out>.checkpoint`.

    target: module of the method, whose source decides whether a checkpoint is still its own. identifiers: folder of
    the code table. basis: file of the backbone's knowledge basis, for a tuner that needs one. tuner: where the
    settings name none; "": the usual one of the kind of backbone. out becomes a plain `from_pretrained` folder with
    the codes, generative.json, diagnostics.json and log.jsonl.
    Raises InputError without a backbone or identifiers, for identifiers of other items or colliding ones, and for data
    without training or validation cases.
    """
    name = target.rpartition(".")[2]
    if backbone is None:
        raise InputError(f"{name}: needs a backbone. Name one of the profile's with --backbone.")
    if identifiers is None:
        raise InputError(f"{name}: needs the identifiers of the items. Make them with `gemsbench ids SCHEME RECIPE`.")
    codes = load_codes(identifiers, data.n_items)
    codes.require_injective()
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    loop = settings.loop_of(check_folder(backbone).kind)
    with torch_threads(loop.threads):
        parts = assemble(settings, codes, data, backbone, seed, tuner=tuner, basis=basis)
        identity = fingerprint(target, parts, backbone, seed, basis)
        problem = _problem(parts, identity, seed, objective)
        resumed = checkpoint.is_dir()
        with progress_bar("training", total=loop.total_steps(problem.steps_per_epoch)) as report:
            result = train(problem, loop, checkpoint, report)
        with atomic_path(out) as folder:
            _save(parts, result, folder, resumed)
    delete_checkpoint(checkpoint)


def assemble(
    settings: GenerativeSettings,
    codes: ItemCodes,
    data: TrainingData,
    folder: Path,
    seed: int,
    *,
    tuner: str = "",
    basis: Path | None = None,
) -> Assembly:
    """Load the backbone, add a token per code, put the tuner in, and turn the cases into prompts and targets."""
    kind = check_folder(folder).kind
    choice, loop = settings.tuners.get(kind, TunerChoice()), settings.loop_of(kind)
    name = choice.name or tuner or registry.DEFAULT_TUNERS[kind]
    chosen: Tuner = registry.resolve(registry.lookup(registry.TUNERS, name, "tuner"))()
    own: Any = load_settings(chosen.Config, choice.config, f"tuners: {kind}: config ({name})")
    _check_knowledge(settings, own, f"tuners: {kind}: {name}")
    half = loop.precision == "bf16"
    backbone = load_backbone(folder, torch.bfloat16 if half and chosen.frozen_base else torch.float32)
    if settings.initial == "random":
        draw_weights(backbone, stream_seed(seed, "initial weights"))
    new_rows = add_tokens(backbone, token_strings(codes), stream_seed(seed, "new rows"))
    tuned = chosen.prepare(
        own,
        backbone,
        new_rows,
        activation_checkpointing=loop.activation_checkpointing,
        seed=stream_seed(seed, "tuner"),
        tasks=settings.train_tasks,
        basis=basis if settings.initial == "pretrained" else None,  # new weights know nothing
    )
    item_tokens = token_table(codes, new_rows.start)
    prompts = PromptTokens(backbone.tokenizer, kind, item_tokens, MAX_LENGTH[kind], settings.history_tasks)
    scorer = CandidateScorer(tuned.model, end_token=scored_end(codes, prompts), head=tuned.head())
    ranker = IdentifierRanker(tuned.model, scorer, prompts, item_tokens, half)
    return Assembly(
        settings=settings,
        loop=loop,
        codes=codes,
        data=data,
        backbone=backbone,
        tuner_name=name,
        tuned=tuned,
        half=half and not chosen.frozen_base,
        examples=training_examples(data, settings.train_tasks, prompts, item_tokens),
        validation=Validation.of(data, settings.train_tasks, settings.validation_cases, ranker),
        first_row=new_rows.start,
    )


def _check_knowledge(settings: GenerativeSettings, own: Any, where: str) -> None:
    if settings.initial == "random" and getattr(own, "basis_side", None):
        raise InputError(
            f"{where} is to keep what the backbone knows, and new weights (initial: random) know nothing. Set "
            "null_space: false."
        )


def _problem(parts: Assembly, identity: str, seed: int, objective: Objective) -> Problem:
    loop, head = parts.loop, parts.tuned.head()
    batches = Batches(
        parts.examples,
        parts.backbone.kind,
        parts.backbone.tokenizer.pad_token_id,
        batch_size=loop.batch_size,
        micro_batch_size=loop.micro_batch_size,
        seed=seed,
    )
    return Problem(
        model=parts.tuned.model,
        optimizer=parts.tuned.optimizer,
        steps_per_epoch=batches.steps_per_epoch,
        step=batches.step,
        loss=lambda _, tensors: objective(parts.tuned.model, tensors, head),
        evaluate=parts.validation.measure,
        fingerprint=identity,
        seed=seed,
    )


def fingerprint(target: str, parts: Assembly, folder: Path, seed: int, basis: Path | None = None) -> str:
    """sha256 of all that decides a fit: a checkpoint of another one is not used."""
    data = parts.data
    tables = (data.cases.sort("case_id"), data.valid_candidates.sort("case_id"), data.queries.sort("query_id"))
    backbone = (file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in (LOG, RECORD))
    return sha256_json(
        {
            "settings": settings_dict(parts.settings),
            "seed": seed,
            "data": [table_sha256(table) for table in tables],
            "codes": table_sha256(parts.codes.table()),
            "backbone": {file.name: sha256_file(file) for file in backbone},
            "basis": None if basis is None else sha256_file(basis),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "code": source_sha256(target, registry.TUNERS[parts.tuner_name]),
        }
    )


def _save(parts: Assembly, result: TrainingResult, folder: Path, resumed: bool) -> None:
    diagnostics = _diagnostics(parts, result, resumed)
    parts.tuned.save(folder)
    parts.codes.save(folder)
    saved = {
        "first_row": parts.first_row,
        "half": parts.half,
        "threads": parts.loop.threads,
        "history_tasks": list(parts.settings.history_tasks),
        "codes_sha256": table_sha256(parts.codes.table()),
    }
    write_json(folder / SETTINGS_FILE, saved)
    write_json(folder / "diagnostics.json", diagnostics)
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in result.log), "utf-8")


def _diagnostics(parts: Assembly, result: TrainingResult, resumed: bool) -> dict[str, Any]:
    """What to know of a fit beside its scores; "stopped" says whether validation or a cap ended it."""
    learned = (pl.col("split") == "train") & pl.col("task").is_in(parts.settings.train_tasks)
    cases = parts.data.cases.filter(learned)
    warm = np.union1d(cases["target_item"].to_numpy(), cases["hist_items"].list.explode(empty_as_null=False).to_numpy())
    warm = warm.astype(np.int64)
    asked = parts.data.queries["text"]
    return {
        "stopped": result.stopped,
        "best_step": result.best_step,
        "valid_ndcg@10": result.criterion,
        "tuner": parts.tuner_name,
        "parameters": parts.tuned.counts(),
        "training_cases": len(parts.examples),
        "longest_prompt_tokens": int(parts.examples.prompts.lengths.max()),
        "unknown_token_share_of_queries": unknown_rate(parts.backbone.tokenizer, asked.to_list()),
        "items_in_no_training_case": 1 - len(warm) / parts.data.n_items,
        "validation_hit@10": parts.validation.by_warmth(warm, None if resumed else result.criterion),
        **_optimizer_diagnostics(parts.tuned.optimizer),
    }


def _optimizer_diagnostics(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer that keeps the tasks apart says of itself at the end; how many matrices have which ranks."""
    if not isinstance(optimizer, TaskOptimizer):
        return {}
    ranks = Counter(f"{shared} + {task} per task" for shared, task in optimizer.effective_ranks().values())
    values = {name: value for name, value in optimizer.metrics().items() if math.isfinite(value)}
    return {"optimizer": {**values, "matrices of rank": dict(sorted(ranks.items()))}}

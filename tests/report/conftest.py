"""A small profile with two recipes, three methods and two seeds, its run folders written by the real evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import files, registry
from gemsbench.data.schema import TASK
from gemsbench.evaluation import metrics
from gemsbench.evaluation.evaluation import Evaluation, write_evaluation
from gemsbench.profile import NO_BACKBONE, MethodSettings, Profile, TableSettings, runs
from gemsbench.profile import Run as ProfileRun

CASES = 400
VALID = "valid_ndcg@10"
STATS = {
    "users": 1234,
    "items": 567,
    "inter_src": 8901,
    "inter_rec": 23456,
    "density_src": 1.27213,
    "density_rec": 3.35234,
    "upstream_leak_rate": {"all": 0.2604, "last 5": 0.2},
}
# method -> share of cases whose positive gets a good rank; NCF and BSR are real rows of Table 1
STRENGTH = {"random": 0.0, "popularity": 0.2, "bm25": 0.4, "category-match": 0.3, "ncf": 0.3, "bsr": 0.8, "gems": 0.95}


@pytest.fixture
def profile() -> Profile:
    """Two columns, NCF and a stand-in for BSR; two seeds."""
    return Profile(
        profile="tiny",
        seeds=(1, 2),
        history_length=5,
        recipes={"simulated-qilin": {}, "simulated-amazon": {}},
        methods={
            "random": MethodSettings(),
            "popularity": MethodSettings(),
            "bm25": MethodSettings(),
            "category-match": MethodSettings(recipes=("simulated-amazon",)),
            "ncf": MethodSettings(),
            "bsr+plain": MethodSettings(target="elsewhere.module:Thing"),
        },
        tables=TableSettings(
            columns={"Qilin": "simulated-qilin", "Amazon": "simulated-amazon"},
            blocks={"T5-base": "t5-mini", "Qwen-3B": "qwen-mini"},
        ),
    )


@pytest.fixture
def one_seed(profile: Profile) -> Profile:
    """The same with one seed."""
    return dataclasses.replace(profile, seeds=(1,))


@pytest.fixture
def with_gems(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with two rows of the tables that need a backbone, as if they were registered."""
    entries = {key: registry.MethodEntry("elsewhere:Thing", ("rec", "src"), True, True) for key in ("bsr", "gems")}
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **entries})
    return dataclasses.replace(profile, methods={**profile.methods, "bsr": MethodSettings(), "gems": MethodSettings()})


def evaluation_of(ranks: dict[str, np.ndarray], fingerprint: str, method: str) -> Evaluation:
    """An evaluation whose positives stand at the given ranks; ties with nothing."""
    values, tables, start = {}, [], 0
    for task, best in ranks.items():
        zeros = np.zeros(len(best), dtype=np.int64)
        offsets = np.arange(len(best) + 1, dtype=np.int64)
        values[task] = metrics.summary(metrics.Ranks(best.astype(np.int64), offsets, best - 1, zeros, zeros + 1))
        ids = pl.Series("case_id", np.arange(start, start + len(best), dtype=np.int64))
        tables.append(
            pl.DataFrame([ids, pl.Series("task", [task] * len(best), TASK)]).with_columns(
                rank=pl.Series(best, dtype=pl.UInt8)
            )
        )
        start += 10_000
    return Evaluation(values, pl.concat(tables), {"method": method, "fingerprint": fingerprint})


def draw_ranks(strength: float, seed: int) -> np.ndarray:
    """Ranks 1..100 of CASES positives, better for more strength."""
    stream = np.random.default_rng(seed)
    good = stream.random(CASES) < strength
    return np.where(good, stream.integers(1, 8, CASES), stream.integers(1, 101, CASES))


def write_run(run: ProfileRun, folder: Path, tasks: tuple[str, ...], fingerprint: str = "") -> None:
    """Write metrics.json and ranks.parquet of one run; another backbone gives other ranks."""
    strength = STRENGTH[run.method.partition("+")[0]]
    first = run.seed + 10 * len(run.method) + 1000 * len(run.backbone)
    ranks = {task: draw_ranks(strength, first + (task == "src")) for task in tasks}
    write_evaluation(evaluation_of(ranks, fingerprint or f"print-of-{run.recipe}", run.method), run.folder(folder))


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[[Profile], Path]:
    """A function that writes every run and stats.json of a profile and returns results/<profile>."""
    from gemsbench.profile import method_entry

    def write(profile: Profile) -> Path:
        folder = tmp_path / "results" / profile.profile
        for run in runs(profile):
            write_run(run, folder, method_entry(profile, run.method).tasks)
        for recipe in profile.recipes:
            files.write_json(folder / "prepared" / recipe / "stats.json", STATS)
        return folder

    return write


def language_model_log(seed: int, epochs: int, best: int, stopped: str) -> list[dict[str, Any]]:
    """Lines as the training loop writes them; ten steps make an epoch, the log begins before the first step."""
    stream = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    for epoch in range(epochs + 1):
        losses = {task: scale * math.exp(-epoch / 5) + 0.5 for task, scale in (("rec", 6.0), ("src", 5.0))}
        found = {task: 0.4 - 0.01 * abs(epoch - best) + 0.001 * stream.random() for task in ("rec", "src")}
        line = {"stage": "train", "step": 10 * epoch, "epoch": float(epoch), "learning_rate": 0.001, "seconds": 0.1}
        line |= {f"loss_{task}": losses[task] if epoch else None for task in losses}
        line |= {f"{VALID}_{task}": found[task] for task in found}
        lines.append(line | {"loss": sum(losses.values()) / 2 if epoch else None, VALID: sum(found.values()) / 2})
    return [*lines, {"stage": "end", "stopped": stopped, "step": 10 * epochs, "best_step": 10 * best}]


def ncf_log(seed: int) -> list[dict[str, Any]]:
    """Lines as NCF writes them: GMF alone is better than NeuMF, which is better after pre-training."""
    tops = {"gmf": 0.9, "mlp": 0.5, "neumf": 0.5 + 0.01 * np.random.default_rng(seed).random(), "neumf-scratch": 0.4}
    return [
        {"stage": stage, "epoch": epoch, "loss": 0.6 / epoch if epoch else None, VALID: top - 0.1 * (epoch - 2) ** 2}
        for stage, top in tops.items()
        for epoch in range(5)
    ]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """A log.jsonl."""
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def write_logs(tmp_path: Path) -> Callable[[Profile], Path]:
    """A function that writes the log of every run of a profile and of its backbones and returns results/<profile>."""

    def write(profile: Profile) -> Path:
        folder = tmp_path / "results" / profile.profile
        for run in runs(profile):
            lines: list[dict[str, Any]] = [{"stage": "fit", "seconds": 0.1}]
            if run.method == "ncf":
                lines = ncf_log(run.seed)
            elif run.backbone != NO_BACKBONE:
                capped = run.backbone == "t5-mini"
                lines = language_model_log(run.seed, 6 + run.seed, 4, "epochs" if capped else "patience")
            write_lines(run.folder(folder) / "log.jsonl", lines)
        for backbone in profile.tables.blocks.values():
            steps: list[dict[str, Any]] = [
                {"stage": "pretrain", "step": 20 * n, "loss": 6 / (n + 1), "heldout_loss": 7 / (n + 1)}
                for n in range(6)
            ]
            steps = [line | {"epoch": line["step"] / 80, "unigram_loss": 6.25} for line in steps]
            write_lines(folder / "backbones" / backbone / "log.jsonl", steps)
        return folder

    return write

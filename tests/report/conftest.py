"""A small profile with two recipes, three methods and two seeds, its run folders written by the real evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench import files
from gemsbench.data.schema import TASK
from gemsbench.evaluation import metrics
from gemsbench.evaluation.evaluate import Evaluation, write_evaluation
from gemsbench.profile import MethodSettings, Profile, TableSettings, runs
from gemsbench.profile import Run as ProfileRun

CASES = 400
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
    """Write metrics.json and ranks.parquet of one run."""
    strength = STRENGTH[run.method.partition("+")[0]]
    ranks = {task: draw_ranks(strength, run.seed + 10 * len(run.method) + (task == "src")) for task in tasks}
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

"""The measured numbers behind the tables: the evaluations of exactly the runs that a profile lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

import polars as pl

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.evaluation import Evaluation, read_evaluation
from gemsbench.evaluation.evaluation import METRICS_FILE, RANKS_FILE
from gemsbench.evaluation.metrics import check_one_positive_identities
from gemsbench.profile import Profile, Run, method_entry, runs
from gemsbench.report.rows import METRICS

MEASURED = (*METRICS, *(f"{metric}_exp" for metric in METRICS), "tie_rate", "n")
CAPS = ("epochs", "steps")  # ends of a training that validation might have let go on
ResultKey: TypeAlias = tuple[str, str, str]  # recipe, backbone, method


@dataclass(frozen=True)
class MethodResult:
    """All seeds of one method on one recipe and backbone; one entry per seed in every tuple."""

    recipe: str
    backbone: str
    method: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]
    metrics: tuple[Mapping[str, Any], ...]  # task -> metric -> mean over cases
    fingerprint: str
    stopped: tuple[str | None, ...]  # what ended training: "patience", or the cap of CAPS; None where nothing says so

    def per_seed(self, task: str, metric: str) -> tuple[float, ...]:
        """Mean over cases of one metric, one value per seed."""
        return tuple(float(values[task][metric]) for values in self.metrics)

    def mean(self, task: str, metric: str) -> float:
        """Mean over seeds, unrounded."""
        return fmean(self.per_seed(task, metric))

    def deviation(self, task: str, metric: str) -> float | None:
        """Standard deviation over seeds (divisor: seeds - 1); None for one seed."""
        values = self.per_seed(task, metric)
        return stdev(values) if len(values) > 1 else None

    def cases(self, task: str) -> int:
        """Number of test cases."""
        return int(self.metrics[0][task]["n"])

    @property
    def capped(self) -> int:
        """Number of seeds whose training was ended by a cap of epochs or steps and not by validation."""
        return sum(end in CAPS for end in self.stopped)

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Metrics and per-case ranks, read when first asked for."""
        return tuple(read_evaluation(folder) for folder in self.folders)


@dataclass(frozen=True)
class Results:
    """Every result of a profile; folder is results/<profile>."""

    folder: Path
    by_key: Mapping[ResultKey, MethodResult]

    def get(self, recipe: str, backbone: str, method: str, task: str) -> MethodResult | None:
        """The result of a method that answers the task; None where it was not run."""
        result = self.by_key.get((recipe, backbone, method))
        return result if result is not None and task in result.tasks else None

    def cases(self, recipe: str, task: str) -> int | None:
        """Number of test cases of a task, the same for every method; None where nothing was run."""
        answers = (result for result in self.by_key.values() if result.recipe == recipe and task in result.tasks)
        return next((result.cases(task) for result in answers), None)

    def fingerprint(self, recipe: str) -> str:
        """The protocol fingerprint that all results of the recipe share; "" where none was run."""
        return next((result.fingerprint for result in self.by_key.values() if result.recipe == recipe), "")


def load_results(profile: Profile, folder: Path) -> Results:
    """Read every run of the profile (and no other) below folder = results/<profile>.

    Raises InputError for a missing or incomplete run, and when the runs of a recipe answer different questions;
    CheckError when a number is impossible for cases with one positive.
    """
    grouped: dict[ResultKey, list[Run]] = defaultdict(list)
    for run in runs(profile):
        grouped[run.recipe, run.backbone, run.method].append(run)
    by_key = {key: _method_result(profile, folder, members) for key, members in grouped.items()}
    _check_same_questions(list(by_key.values()))
    return Results(folder, by_key)


def _method_result(profile: Profile, folder: Path, members: list[Run]) -> MethodResult:
    first = members[0]
    folders = tuple(run.folder(folder) for run in members)
    asked = method_entry(profile, first.method).tasks
    commands = (f"snakemake --cores all --configfile <profile> -- {f / METRICS_FILE}" for f in folders)
    metrics = [_read_metrics(folder, asked, command) for folder, command in zip(folders, commands, strict=True)]
    headers = [files.read_header(run_folder / RANKS_FILE) for run_folder in folders]
    fingerprints = {str(header.get("fingerprint", "")) for header in headers}
    if len(fingerprints) > 1:
        raise InputError(
            f"{folders[0].parent}: the seeds of this method were evaluated on different questions (protocol "
            f"fingerprints {_shown(fingerprints)}). Delete the folder and make the runs again."
        )
    return MethodResult(
        recipe=first.recipe,
        backbone=first.backbone,
        method=first.method,
        tasks=tuple(task for task in asked if task in metrics[0]),
        seeds=tuple(run.seed for run in members),
        folders=folders,
        metrics=tuple(metrics),
        fingerprint=fingerprints.pop(),
        stopped=tuple(header.get("stopped") for header in headers),
    )


def _read_metrics(folder: Path, asked: tuple[str, ...], command: str) -> Mapping[str, Any]:
    path = folder / METRICS_FILE
    for needed in (path, folder / RANKS_FILE):
        if not needed.is_file():
            raise InputError(
                f"{needed}: missing. The profile lists this run, and a table without it would be incomplete. "
                f"Make it: {command}"
            )
    metrics = files.read_json(path)
    if not isinstance(metrics, Mapping) or not all(isinstance(metrics.get(task, {}), Mapping) for task in asked):
        raise InputError(f"{path}: not the metrics of a run. Delete it and make it again: {command}")
    answered = [task for task in asked if task in metrics]
    absent = [f"{t}.{name}" for t in answered for name in MEASURED if name not in metrics[t]]
    if absent or not answered:
        raise InputError(f"{path}: no {', '.join(absent or asked)} in it. Delete the file and make it again: {command}")
    several = _tasks_with_several_positives(folder / RANKS_FILE)
    for task in answered:
        if task not in several:
            check_one_positive_identities(metrics[task], f"{path} ({task})")
    return metrics


def _tasks_with_several_positives(path: Path) -> set[str]:
    """Tasks with a case of more than one positive; ranks.parquet has a list column only where there is such a case."""
    try:
        if "ranks" not in pl.read_parquet_schema(path):
            return set()
        several = pl.scan_parquet(path).filter(pl.col("ranks").list.len() > 1).select(pl.col("task").cast(pl.String))
        return set(several.unique().collect()["task"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{path}: not a readable parquet file ({error}). Delete it and evaluate the run again."
        ) from error


def _check_same_questions(results: list[MethodResult]) -> None:
    """All methods of a recipe must share the protocol fingerprint and the number of cases of each task."""
    seen: dict[tuple[str, str], tuple[str | int, Path]] = {}
    for result in results:
        facts: dict[str, str | int] = {"protocol fingerprint": result.fingerprint or "(none)"}
        for folder, metrics in zip(result.folders, result.metrics, strict=True):
            for name, value in (facts | {f"number of {t} cases": int(metrics[t]["n"]) for t in result.tasks}).items():
                known, where = seen.setdefault((result.recipe, name), (value, folder))
                if known != value:
                    raise InputError(
                        f"{result.recipe}: numbers of different questions cannot stand in one column: {name} is "
                        f"{known} in {where} and {value} in {folder}. Delete the older run and make it again."
                    )


def _shown(fingerprints: set[str]) -> str:
    return ", ".join(f"{fingerprint[:12] or '(none)'}" for fingerprint in sorted(fingerprints))

"""What a job is expected to need: workflow/resources.yaml, or what an earlier run of it measured."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemsbench.config import load_settings, read_yaml
from gemsbench.errors import InputError
from gemsbench.pipeline.job import RULES, Job

RESOURCES = Path("workflow/resources.yaml")
DEFAULT = "default"


@dataclass(frozen=True)
class Needs:
    """Requested for one job; mem_mb in MB, runtime in minutes, gpu in devices; guess: nobody has run such a job."""

    threads: int = 1
    mem_mb: int = 1000
    runtime: int = 10
    gpu: int = 0
    guess: bool = False


@dataclass(frozen=True)
class Expected:
    """Expected of one job: seconds and MB, and whether they were measured by an earlier run."""

    seconds: float
    memory_mb: float
    measured: bool


def needs(rule: str, profile: str, path: Path = RESOURCES) -> Needs:
    """The entry of a rule: its default, overridden key by key by the profile's; raises InputError."""
    table = read_yaml(path)
    unknown = sorted(set(table) - set(RULES))
    if unknown or rule not in table:
        raise InputError(f"{path}: one entry for each of {', '.join(RULES)} is needed; wrong: {unknown or rule}.")
    entry: Mapping[str, Mapping[str, int]] = table[rule]
    values = {**entry.get(DEFAULT, {}), **entry.get(profile, {})}
    return load_settings(Needs, values, f"{path}: {rule}")


def benchmark_path(results: Path, job: Job) -> Path:
    """Where Snakemake writes the time and memory of a job."""
    return results / "benchmarks" / job.rule / f"{job.name}.tsv"


def expected(job: Job, results: Path, requested: Needs) -> Expected:
    """Time and memory of a job: measured by its last run in this profile, else as requested."""
    path = benchmark_path(results, job)
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        if rows:
            return Expected(_number(rows[-1].get("s")), _number(rows[-1].get("max_rss")), measured=True)
    return Expected(60.0 * requested.runtime, float(requested.mem_mb), measured=False)


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0  # "-" or "NA": the job was too short to be sampled

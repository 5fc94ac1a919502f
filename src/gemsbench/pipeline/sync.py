"""After `git clone` and `dvc pull`: make time stamps say what the contents say.

Snakemake decides by time stamps where its own records are missing or belong to other files. Every job whose outputs
carry the identity of the present code, settings and inputs is stamped, in DAG order, as newer than all of these; the
outputs of every other job become older than everything, and what Snakemake remembers of either is dropped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json
from gemsbench.pipeline.data_jobs import results_folder
from gemsbench.pipeline.job import Job
from gemsbench.pipeline.jobs import all_jobs
from gemsbench.pipeline.resources import benchmark_path
from gemsbench.pipeline.settings_files import settings_path, write_settings
from gemsbench.pipeline.state import State, lost, states
from gemsbench.profile import Profile
from gemsbench.provenance import read_record

OLDEST = 10**9  # one second after the epoch, in ns: older than any source file
DIRECTORY_STAMP = ".snakemake_timestamp"  # its time stamp stands for that of the folder
SNAKEMAKE = Path(".snakemake")
ARRIVED_AFTER = 10  # seconds between the end of a job and its file's time stamp that say: the file came from elsewhere


@dataclass(frozen=True)
class Synced:
    """What `sync` found and did: results in order, stamped as current, made to run again, and not there yet."""

    kept: tuple[State, ...]
    stamped: tuple[State, ...]
    stale: tuple[State, ...]
    missing: tuple[State, ...]


def sync(profile: Profile, config: Path) -> Synced:
    """Bring the time stamps of a profile's results in line with their provenance.

    Raises InputError while another run is at work, and for a pinned raw file whose content is not the pinned one.
    """
    refuse_while_locked()
    results = results_folder(profile)
    jobs = list(all_jobs(profile))
    write_settings(results, jobs)
    judged = states(jobs, results)
    _refuse_altered_downloads(judged)
    _drop_untrue_notes(jobs)
    memory = SNAKEMAKE / f"synced-{profile.profile}.json"
    settled = _settled(memory)
    groups: dict[str, list[State]] = {"kept": [], "stamped": [], "stale": [], "missing": []}
    unsettled: list[Job] = []
    for state in judged:
        job, present = state.job, _written(results, state.job)
        group: str = state.verdict if state.verdict != "current" else "kept"
        if state.verdict == "stale" and _oldest(present) > OLDEST:
            unsettled.append(job)
            _stamp(present, OLDEST)
        elif state.verdict == "current" and present:
            in_order = _oldest(present) >= _newest(_read(results, job))
            if not in_order or settled.get(_key(job)) != _arrival(job):
                unsettled.append(job)
            if not in_order:
                group = "stamped"
                _stamp(present, max(time.time_ns(), _newest(_read(results, job)) + 1))
        groups[group].append(state)
    _forget([path for job in unsettled for path in job.all_outputs], config)
    write_json(memory, {_key(job): _arrival(job) for job in jobs if _arrival(job)})
    return Synced(*(tuple(groups[name]) for name in ("kept", "stamped", "stale", "missing")))


def refuse_while_locked() -> None:
    """Raise InputError where Snakemake holds a lock."""
    locks = SNAKEMAKE / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        raise InputError(
            f"{Path.cwd()}: another run is at work here, or was killed. Wait for it; if none is running, "
            "`make unlock` (snakemake --unlock), then the same command again."
        )


def _refuse_altered_downloads(judged: Iterable[State]) -> None:
    for state in judged:
        if state.job.rule == "fetch" and state.job.pins and state.verdict == "stale":
            raise InputError(f"{state.job.folder}: {state.reason}. Delete that file and run again to fetch it anew.")


def _drop_untrue_notes(jobs: Iterable[Job]) -> None:
    """Snakemake sees only the note that a hub's files have come: without it, it fetches those that are gone."""
    for job in jobs:
        if lost(job):
            for path in job.outputs.values():
                path.unlink(missing_ok=True)


def _key(job: Job) -> str:
    return f"{job.rule}/{job.name}"


def _settled(memory: Path) -> dict[str, int]:
    try:
        return dict(read_json(memory))
    except InputError:
        return {}


def _arrival(job: Job) -> int | None:
    """Time stamp of a result that was not written by a job in this folder (pulled, checked out or stamped)."""
    path = job.provenance_path
    record = read_record(path) if path else None
    if path is None or record is None:
        return None
    finished = datetime.fromisoformat(record["finished"]).timestamp()
    stamp = path.stat().st_mtime_ns
    return stamp if abs(stamp / 1e9 - finished) > ARRIVED_AFTER else None


def _written(results: Path, job: Job) -> list[Path]:
    """Existing files whose time stamps Snakemake takes for the age of a job's results."""
    return [path for path in (*job.all_outputs, benchmark_path(results, job)) if path.exists()]


def _read(results: Path, job: Job) -> list[Path]:
    settings = settings_path(results, job)
    paths = (*job.inputs.values(), *job.source_files(), *([settings] if settings else []))
    return [path for path in paths if path.exists()]


def _stamps(paths: Sequence[Path]) -> list[int]:
    carriers = (path / DIRECTORY_STAMP if (path / DIRECTORY_STAMP).exists() else path for path in paths)
    return [path.stat().st_mtime_ns for path in carriers]


def _oldest(paths: Sequence[Path]) -> int:
    return min(_stamps(paths), default=OLDEST)


def _newest(paths: Sequence[Path]) -> int:
    return max(_stamps(paths), default=0)


def _stamp(paths: Iterable[Path], moment: int) -> None:
    for path in paths:
        for carrier in (path / DIRECTORY_STAMP, path):
            if carrier.exists():
                os.utime(carrier, ns=(moment, moment))


def _forget(paths: Sequence[Path], config: Path) -> None:
    """Drop what Snakemake remembers of files that it did not write as they lie there now."""
    metadata = SNAKEMAKE / "metadata"
    if not paths or not metadata.is_dir() or not any(metadata.iterdir()):
        return
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    done = subprocess.run([*command, "--cleanup-metadata", *map(str, paths)], capture_output=True, text=True)
    if done.returncode and "metadata was not present" not in done.stdout + done.stderr:
        raise InputError(f"snakemake --cleanup-metadata failed:\n{done.stderr.strip()}")

"""Settings as files: one JSON per job, so that Snakemake sees which jobs an edit of the profile concerns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gemsbench.files import write_json
from gemsbench.pipeline.job import Job


def settings_path(results: Path, job: Job) -> Path | None:
    """results/<profile>/settings/<rule>/<name>.json; None for a job without settings.

    Raw files are shared by all profiles, and so is the settings file of the job that makes them.
    """
    if not job.settings:
        return None
    folder = job.folder.parent / "settings" if job.rule == "fetch" else results / "settings" / job.rule
    return folder / f"{job.name}.json"


def write_settings(results: Path, jobs: Iterable[Job]) -> tuple[Path, ...]:
    """Write the settings files whose content changed and return them; the others keep their time stamp."""
    written = []
    for job in jobs:
        path = settings_path(results, job)
        if path is not None and not _holds(path, job):
            write_json(path, dict(job.settings))
            written.append(path)
    return tuple(written)


def _holds(path: Path, job: Job) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(dict(job.settings))))
    except (OSError, ValueError):
        return False

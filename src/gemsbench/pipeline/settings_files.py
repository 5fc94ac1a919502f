"""Settings as files: one JSON per job, so that Snakemake sees which jobs an edit of the profile concerns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gemsbench.files import write_json
from gemsbench.pipeline.jobs import Job


def settings_path(results: Path, job: Job) -> Path | None:
    """results/<profile>/settings/<rule>/<name>.json; None for a job without settings."""
    return results / "settings" / job.rule / f"{job.name}.json" if job.settings else None


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

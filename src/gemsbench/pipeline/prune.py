"""Files below results/<profile> that the present profile does not produce, e.g. those of a seed taken out of it."""

from __future__ import annotations

from pathlib import Path

from gemsbench.files import remove
from gemsbench.pipeline.data_jobs import results_folder
from gemsbench.pipeline.jobs import all_jobs
from gemsbench.pipeline.resources import benchmark_path
from gemsbench.pipeline.settings_files import settings_path
from gemsbench.pipeline.sync import refuse_while_locked
from gemsbench.profile import Profile

FOLDER_RULES = ("backbone", "encoder", "identifiers")  # whose checkpoints lie beside their folder


def unclaimed(profile: Profile) -> list[Path]:
    """Files that no job of the profile writes, sorted; leftovers of killed jobs are among them."""
    results = results_folder(profile)
    claimed: set[Path] = set()
    folders: set[Path] = set()
    for job in all_jobs(profile):
        settings = settings_path(results, job)
        claimed.update((*job.all_outputs, benchmark_path(results, job), *([settings] if settings else [])))
        folders.update(job.unversioned.values())
        trained = (job.folder,) if job.rule in FOLDER_RULES else job.unversioned.values()
        folders.update(folder.with_name(f"{folder.name}.checkpoint") for folder in trained)  # of an unfinished job
    return [
        path
        for path in sorted(results.rglob("*"))
        if (path.is_file() or path.is_symlink()) and path not in claimed and folders.isdisjoint(path.parents)
    ]


def prune(profile: Profile) -> list[Path]:
    """Remove the unclaimed files and the folders left empty by that; returns the files.

    Raises InputError while a run is at work, whose unfinished files are unclaimed too.
    """
    refuse_while_locked()
    results = results_folder(profile)
    paths = unclaimed(profile)
    for path in paths:
        remove(path)
    for folder in sorted((path for path in results.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return paths

"""Is a result still that of the present settings, inputs and code? Answered by content, never by time stamps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemsbench.pipeline.job import ON_DEMAND, Job, content_hash, content_name
from gemsbench.pipeline.resources import benchmark_path
from gemsbench.provenance import read_record

Verdict = Literal["current", "stale", "missing"]


@dataclass(frozen=True)
class State:
    """What is known of one job: its own verdict, and whether it runs because a job before it does."""

    job: Job
    verdict: Verdict
    reason: str = ""
    follows: bool = False

    @property
    def runs(self) -> bool:
        """Whether the workflow has to run this job."""
        return self.verdict != "current" or self.follows


def states(jobs: Iterable[Job], results: Path) -> list[State]:
    """Judge every job, in DAG order; a job after one that runs is marked `follows`. results: results/<profile>.

    Missing outputs of an ON_DEMAND job make it run only when something that runs reads them.
    """
    judged = [(job, *judge(job)) for job in jobs]
    needed: frozenset[Path] = frozenset()
    while True:
        found = _following(judged, needed, results)
        read = frozenset(path for state in found if state.runs for path in state.job.inputs.values())
        if read == needed:
            return found
        needed = read


def standing(jobs: Iterable[Job], results: Path) -> frozenset[tuple[str, str]]:
    """(rule, name) of the jobs whose results stand whether or not their replaceable inputs are there, and how old.

    They are current and came from elsewhere, as after `dvc pull`: making such an input for another job is no reason to
    run them. Empty where no such input is missing or younger than the results, so that no age can mislead.
    """
    listed = list(jobs)
    if not any(_misleads(job, path, results) for job in listed for path in job.inputs.values()):
        return frozenset()
    return frozenset((state.job.rule, state.job.name) for state in states(listed, results) if not state.runs)


def _misleads(job: Job, path: Path, results: Path) -> bool:
    own = job.provenance_path
    if own is None or not own.is_file() or _is_noticed(job, path, results):
        return False
    return not path.is_file() or path.stat().st_mtime_ns > own.stat().st_mtime_ns


def _following(judged: Iterable[tuple[Job, Verdict, str]], needed: frozenset[Path], results: Path) -> list[State]:
    found: list[State] = []
    remade: set[Path] = set()
    for job, verdict, reason in judged:
        if job.rule in ON_DEMAND and verdict == "missing" and needed.isdisjoint(_absent(job)):
            verdict, reason = "current", "not needed"
        follows = any(path in remade and _is_noticed(job, path, results) for path in job.inputs.values())
        state = State(job, verdict, reason, follows)
        found.append(state)
        if state.runs:
            remade.update(job.all_outputs)
    return found


def _is_noticed(job: Job, path: Path, results: Path) -> bool:
    """Whether making an input anew runs the job: always, except a replaceable input of a result from elsewhere.

    Snakemake has run a job here when its benchmark is there; then it knows the job with this input.
    """
    replaceable = any(job.inputs[name] == path for name in job.replaceable)
    return not replaceable or benchmark_path(results, job).is_file()


def lost(job: Job) -> tuple[Path, ...]:
    """The files that the job's outputs stand for and that are not there."""
    return tuple(job.folder / name for name in job.noted if not (job.folder / name).is_file())


def _absent(job: Job) -> list[Path]:
    """Outputs that are not there, or stand for a file that is not."""
    return [path for path in job.outputs.values() if not path.is_file() or lost(job)]


def judge(job: Job) -> tuple[Verdict, str]:
    """The verdict on one job's outputs as they lie there, and why."""
    if absent := _absent(job):
        gone = next((path for path in absent if not path.is_file()), None) or lost(job)[0]
        return "missing", f"{gone} is missing"
    path = job.provenance_path
    if path is None:
        return _judge_download(job)
    record = read_record(path)
    if record is None:
        return "stale", f"{path} is missing"
    recorded = record.get("identity", {})
    present = _identity(job, recorded)
    if present is None:
        return "stale", "an input is missing"
    changed = [part for part in present if present[part] != recorded.get(part)]
    if changed:
        return "stale", f"other {', '.join(changed)}"
    hashes = record.get("outputs", {})
    altered = [name for name, output in job.outputs.items() if content_hash(output) != hashes.get(name)]
    return ("stale", f"{altered[0]} was altered") if altered else ("current", "")


def _judge_download(job: Job) -> tuple[Verdict, str]:
    """By the pins; files that an output only stands for by their size, as they may be of many gigabytes."""
    for name, pin in job.pins.items():
        if content_name(job.outputs[name], pin) != pin:
            return "stale", f"{name} is not the pinned file"
    for name, size in job.noted.items():
        found = (job.folder / name).stat().st_size
        if size and found != size:
            return "stale", f"{name} has {found} bytes, not the listed {size}"
    return "current", ""


def _identity(job: Job, recorded: Mapping[str, Any]) -> dict[str, Any] | None:
    """What decides the result of a job now; missing replaceable inputs count as what they were last made as.

    That is what the record of their maker says, if it is that of the maker's present settings, inputs and code; else
    what they were when the job ran.
    """
    identity = job.identity(known={**recorded.get("inputs", {}), **_made(job)})
    return None if identity is None else identity.as_json()


def _made(job: Job) -> dict[str, str]:
    """Input -> hash of the file that its maker made last, by the maker's record, unless that is out of date."""
    made: dict[str, str] = {}
    for maker in job.makers:
        record = read_record(maker.provenance_path) if maker.provenance_path else None
        if record is None or _identity(maker, record.get("identity", {})) != record.get("identity"):
            continue
        outputs = {path: name for name, path in maker.outputs.items()}
        hashes = record.get("outputs", {})
        made |= {name: hashes[outputs[path]] for name, path in job.inputs.items() if outputs.get(path) in hashes}
    return made

"""Is a result still that of the present settings, inputs and code? Answered by content, never by time stamps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gemsbench.files import sha256_file
from gemsbench.pipeline.jobs import Job
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


def states(jobs: Iterable[Job]) -> list[State]:
    """Judge every job, in DAG order; a job after one that runs is marked `follows`."""
    found: list[State] = []
    remade: dict[str, bool] = {}  # output path -> whether it is made again
    for job in jobs:
        verdict, reason = judge(job)
        follows = any(remade.get(str(path), False) for path in job.inputs.values())
        state = State(job, verdict, reason, follows)
        found.append(state)
        # A missing raw file is made again only if something needs it, which its readers say themselves.
        again = state.runs and not (job.rule == "fetch" and verdict == "missing")
        remade.update((str(path), again) for path in job.all_outputs)
    return _without_unneeded_fetches(found)


def _without_unneeded_fetches(found: list[State]) -> list[State]:
    needed = {str(path) for state in found if state.runs for path in state.job.inputs.values()}
    return [
        State(state.job, "current", "not needed")
        if state.job.rule == "fetch"
        and state.verdict == "missing"
        and needed.isdisjoint(map(str, state.job.all_outputs))
        else state
        for state in found
    ]


def judge(job: Job) -> tuple[Verdict, str]:
    """The verdict on one job's outputs as they lie there, and why."""
    absent = [path for path in job.outputs.values() if not path.is_file()]
    if absent:
        return "missing", f"{absent[0]} is missing"
    path = job.provenance_path
    if path is None:
        wrong = [name for name, output in job.outputs.items() if sha256_file(output) != job.pins.get(name)]
        return ("stale", f"{wrong[0]} is not the pinned file") if wrong else ("current", "")
    record = read_record(path)
    if record is None:
        return "stale", f"{path} is missing"
    recorded = record.get("identity", {})
    identity = job.identity(known=recorded.get("inputs", {}))
    if identity is None:
        return "stale", "an input is missing"
    present = identity.as_json()
    changed = [part for part in present if present[part] != recorded.get(part)]
    if changed:
        return "stale", f"other {', '.join(changed)}"
    hashes = record.get("outputs", {})
    altered = [name for name, output in job.outputs.items() if sha256_file(output) != hashes.get(name)]
    return ("stale", f"{altered[0]} was altered") if altered else ("current", "")

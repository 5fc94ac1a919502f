"""What would run, and how much time and memory it needs, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from gemsbench.pipeline.data_jobs import results_folder
from gemsbench.pipeline.job import RULES
from gemsbench.pipeline.jobs import all_jobs
from gemsbench.pipeline.resources import Expected, Needs, expected, needs
from gemsbench.pipeline.state import State, states
from gemsbench.profile import Profile

HEADERS = ("rule", "jobs", "to run", "threads", "s per job", "MB per job", "s in all", "from")


@dataclass(frozen=True)
class PlannedRule:
    """One line of the plan: counts, and time and memory of the jobs that would run."""

    rule: str
    jobs: int
    to_run: int
    needs: Needs
    seconds: tuple[float, ...]  # of the jobs that would run
    seconds_each: float  # mean; of all jobs where none would run
    memory_mb: float
    source: str
    unmeasured: bool = False  # some of the jobs that would run have no measured time

    def row(self) -> tuple[str | int, ...]:
        """The line as printed, in the order of HEADERS."""
        costs = map(_round, (self.seconds_each, self.memory_mb, sum(self.seconds)))
        return (self.rule, self.jobs, self.to_run, self.needs.threads, *costs, self.source)


@dataclass(frozen=True)
class Plan:
    """The whole plan.

    seconds: on `cores` cores, jobs side by side without gaps, those on a GPU one after another, each rule after the one
    before.
    """

    rules: tuple[PlannedRule, ...]
    cores: int
    seconds: float
    reasons: tuple[tuple[str, str], ...]  # (job, why it runs), without the jobs that only follow others

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Rules with a job that would run and that no earlier run of it measured."""
        return tuple(rule.rule for rule in self.rules if rule.unmeasured)

    @property
    def guessed(self) -> tuple[str, ...]:
        """Those of them whose upper limits are guesses."""
        return tuple(rule.rule for rule in self.rules if rule.unmeasured and rule.needs.guess)


def plan(profile: Profile, cores: int | None = None) -> Plan:
    """Judge every job of a profile and add up what the ones that run are expected to need."""
    cores = cores or len(os.sched_getaffinity(0))
    judged = sorted(states(all_jobs(profile), results_folder(profile)), key=lambda state: RULES.index(state.job.rule))
    planned = tuple(_planned(profile, rule, list(group)) for rule, group in groupby(judged, key=lambda s: s.job.rule))
    seconds = sum(_side_by_side(rule, cores) for rule in planned)
    reasons = tuple((f"{s.job.rule} {s.job.name}", s.reason) for s in judged if s.verdict != "current")
    return Plan(planned, cores, seconds, reasons)


def _planned(profile: Profile, rule: str, judged: Sequence[State]) -> PlannedRule:
    requested = needs(rule, profile.profile)
    # A plan for jobs that are done shows what they took.
    shown = [state for state in judged if state.runs] or judged
    costs = [expected(state.job, results_folder(profile), requested) for state in shown]
    to_run = sum(state.runs for state in judged)
    return PlannedRule(
        rule=rule,
        jobs=len(judged),
        to_run=to_run,
        needs=requested,
        seconds=tuple(cost.seconds for cost in costs) if to_run else (),
        seconds_each=sum(cost.seconds for cost in costs) / len(costs),
        memory_mb=max((cost.memory_mb for cost in costs), default=0.0),
        source=_source(costs, requested),
        unmeasured=bool(to_run) and not all(cost.measured for cost in costs),
    )


def _source(costs: Sequence[Expected], requested: Needs) -> str:
    measured = sum(cost.measured for cost in costs)
    if measured == len(costs):
        return "measured"
    if measured:
        return f"{measured} of {len(costs)} measured"
    return "guess" if requested.guess else "upper limit"


def _side_by_side(rule: PlannedRule, cores: int) -> float:
    lanes = 1 if rule.needs.gpu else max(1, cores // max(1, rule.needs.threads))
    return max(sum(rule.seconds) / lanes, max(rule.seconds, default=0.0))


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"

"""Is one run better than another? A paired two-sided t-test over test cases.

Cases are independent units (one per user and task). With several seeds per method the per-case values are averaged
over seeds first. The star of the tables: p < 0.01 and a positive mean difference (arXiv 2601.09496, section 5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gemsbench.errors import InputError
from gemsbench.evaluation.evaluation import METRICS, RANKS_FILE, Evaluation, evaluate, read_evaluation
from gemsbench.evaluation.questions import PackLike, load
from gemsbench.evaluation.ragged import Int64Array
from gemsbench.evaluation.scores import Scores

Float64Array = npt.NDArray[np.float64]
RunLike: TypeAlias = Path | Scores | Evaluation  # run folder, score file, scores, or an evaluation

LEVEL = 0.01


@dataclass(frozen=True)
class PairedTest:
    """Paired comparison of two value arrays a and b, one pair per case.

    difference = mean(a) - mean(b); relative = difference / mean(b), None where mean(b) is 0; t, p (two-sided) and
    d_z (Cohen: mean over standard deviation of the differences) are None where all differences are equal.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    relative: float | None
    t: float | None
    p: float | None
    d_z: float | None
    wins: int
    ties: int
    losses: int

    @property
    def star(self) -> bool:
        """Whether a is significantly better than b."""
        return self.p is not None and self.p < LEVEL and self.difference > 0


@dataclass(frozen=True)
class Row:
    """One line of a comparison: a task, a metric (hit@5, ...) and its test."""

    task: str
    metric: str
    test: PairedTest


@dataclass(frozen=True)
class Comparison:
    """Run(s) a against run(s) b on every task that both answer; runs_* count what was averaged (seeds)."""

    name_a: str
    name_b: str
    runs_a: int
    runs_b: int
    rows: tuple[Row, ...]

    def records(self) -> list[dict[str, Any]]:
        """One flat mapping per row, for tables and JSON."""
        return [
            {"task": row.task, "metric": row.metric, **dataclasses.asdict(row.test), "star": row.test.star}
            for row in self.rows
        ]


def paired_t_test(a: Float64Array, b: Float64Array) -> PairedTest:
    """Paired two-sided t-test of per-case values float64 [Q], in the same case order; a is tested against b."""
    from scipy import stats  # half a second to import, so only when a test runs

    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise InputError(f"a paired test needs two arrays of equal length, these are {a.shape} and {b.shape}.")
    gap = a - b
    difference = float(gap.mean())
    t = p = d_z = None
    if len(gap) > 1 and np.ptp(gap) > 1e-12:  # below that only rounding differs
        tested = stats.ttest_rel(a, b)
        t, p = float(tested.statistic), float(tested.pvalue)
        d_z = difference / float(gap.std(ddof=1))
    base = float(b.mean())
    return PairedTest(
        n=len(gap),
        mean_a=float(a.mean()),
        mean_b=base,
        difference=difference,
        relative=difference / base if base else None,
        t=t,
        p=p,
        d_z=d_z,
        wins=int(np.sum(gap > 0)),
        ties=int(np.sum(gap == 0)),
        losses=int(np.sum(gap < 0)),
    )


def mean_per_case(runs: Sequence[Evaluation], task: str, metric: str) -> tuple[Int64Array, Float64Array]:
    """Per-case values averaged over runs (seeds), by ascending case_id; raises InputError when the cases differ."""
    total, first = None, None
    for run in runs:
        case_ids, values = run.per_case(task, metric)
        order = np.argsort(case_ids, kind="stable")
        if first is None or total is None:
            first, total = case_ids[order], values[order]
            continue
        _require_same_cases(first, case_ids[order], task)
        total = total + values[order]
    if first is None or total is None:
        raise InputError("no runs to average.")
    return first, total / len(runs)


def compare(
    a: RunLike | Sequence[RunLike], b: RunLike | Sequence[RunLike], data: Path | PackLike | None = None
) -> Comparison:
    """Test a against b on every shared task and metric, paired by case_id.

    a and b: a run folder, a score file, scores or an evaluation, or a sequence of them (seeds, averaged per case).
    data: what scores are evaluated on. None: run folders are compared by their stored ranks, score files are refused.
    Raises InputError when the runs answer no common task or were made on other candidates.
    """
    pack = None if data is None else load(data)
    runs_a, runs_b = _evaluations(a, pack), _evaluations(b, pack)
    _require_same_fingerprint([*runs_a, *runs_b], pack)
    tasks = [task for task in runs_a[0].metrics if all(task in run.metrics for run in (*runs_a, *runs_b))]
    if not tasks:
        raise InputError(f"{_name(runs_a)} and {_name(runs_b)} answer no common task, so there is nothing to compare.")
    rows = []
    for task in tasks:
        for metric in METRICS:
            ids_a, values_a = mean_per_case(runs_a, task, metric)
            ids_b, values_b = mean_per_case(runs_b, task, metric)
            _require_same_cases(ids_a, ids_b, task)
            rows.append(Row(task, metric, paired_t_test(values_a, values_b)))
    return Comparison(_name(runs_a), _name(runs_b), len(runs_a), len(runs_b), tuple(rows))


def _evaluations(runs: RunLike | Sequence[RunLike], pack: PackLike | None) -> list[Evaluation]:
    several: Sequence[RunLike] = [runs] if isinstance(runs, (str, Path, Scores, Evaluation)) else runs
    if not several:
        raise InputError("name at least one run on each side of the comparison.")
    return [_evaluation(run, pack) for run in several]


def _evaluation(run: RunLike, pack: PackLike | None) -> Evaluation:
    if isinstance(run, Evaluation):
        return run
    if isinstance(run, (str, Path)):
        path = Path(run)
        has_scores = (path / "scores.parquet").is_file()
        if path.is_dir() and (path / RANKS_FILE).is_file() and not (pack and has_scores):
            return read_evaluation(path)
        run = path / "scores.parquet" if path.is_dir() else path
    if pack is None:
        raise InputError(f"{run if isinstance(run, Path) else 'scores'}: name the data that these scores are of.")
    return evaluate(run, pack)


def _name(runs: Sequence[Evaluation]) -> str:
    return str(runs[0].header.get("method", "unnamed run"))


def _require_same_fingerprint(runs: Sequence[Evaluation], pack: PackLike | None) -> None:
    found = {str(run.header.get("fingerprint", "")) for run in runs}
    if pack is not None:
        found.add(pack.fingerprint)
    if len(found) > 1:
        shown = ", ".join(f"{fingerprint[:12] or '(none)'}" for fingerprint in sorted(found))
        raise InputError(f"these are runs (and data) of different candidates (fingerprints {shown}): not comparable.")


def _require_same_cases(first: Int64Array, second: Int64Array, task: str) -> None:
    if not np.array_equal(first, second):
        differing = np.setxor1d(first, second)
        raise InputError(
            f"the runs answer different cases of task {task}: {len(differing)} cases are in one only"
            f"{f', first: {differing[0]}' if len(differing) else ''}. Evaluate both on the same data."
        )

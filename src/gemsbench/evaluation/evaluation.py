"""From a score file to metrics.json and one rank per case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import files
from gemsbench.config import nearest
from gemsbench.data.schema import TASK
from gemsbench.errors import InputError
from gemsbench.evaluation import metrics, questions, ragged
from gemsbench.evaluation.scores import Scores, align, describe, read_scores

METRICS_FILE = "metrics.json"
RANKS_FILE = "ranks.parquet"
WORST_RANK = 255  # what one byte holds: 255 means "255 or worse"; no metric looks beyond rank 10
METRICS = tuple(f"{name}@{k}" for k in metrics.CUTOFFS for name in ("hit", "ndcg"))


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one run.

    metrics: task -> {"hit@5", "ndcg@5", "hit@10", "ndcg@10", each also with "_exp", "tie_rate", "n"}.
    ranks: case_id int64, task, rank uint8 (pessimistic, of the best positive, 255 = 255 or worse); where some case has
    several positives also `ranks` list<uint8>, best first. header: that of the score file.
    """

    metrics: Mapping[str, Mapping[str, float]]
    ranks: pl.DataFrame
    header: Mapping[str, Any]

    def per_case(self, task: str, metric: str) -> tuple[ragged.Int64Array, npt.NDArray[np.float64]]:
        """(case ids, values of one of hit@5, hit@10, ndcg@5, ndcg@10), one per test case of the task."""
        if metric not in METRICS:
            raise InputError(f"no metric '{metric}' per case. {nearest(metric, METRICS)}")
        rows = self.ranks.filter(pl.col("task") == task)
        name, k = metric.split("@")
        case_ids = rows["case_id"].to_numpy()
        best = rows["rank"].to_numpy()
        if name == "hit":
            return case_ids, metrics.hit(best, int(k))
        if "ranks" in rows.columns:
            flat, offsets = ragged.flatten(rows["ranks"])
        else:
            flat, offsets = best, np.arange(len(best) + 1, dtype=np.int64)
        return case_ids, metrics.ndcg(flat, offsets, int(k))


def evaluate(scores: Path | Scores, data: Path | questions.PackLike) -> Evaluation:
    """Hit and NDCG at 5 and 10 with pessimistic ties, per task, over the test cases of data.

    scores: a score file or what read_scores returns; its header says which tasks it answers and which candidates it
    is of. data: a prepared folder, an exported pack, or a loaded pack. Raises InputError when the scores are not of
    exactly these candidates (see gemsbench.evaluation.scores.align) or hold NaN.
    """
    run = scores if isinstance(scores, Scores) else read_scores(Path(scores))
    pack = questions.load(data)
    tasks = questions.declared_tasks(run.header, describe(run.header))
    asked = questions.select_questions(pack, tasks)
    aligned = align(run, asked.table, pack.fingerprint)
    _check_fitted_on(run.header, pack)
    ranks = metrics.rank_positives(aligned.flat, asked.offsets, asked.positive)
    task_of = asked.table["task"].cast(pl.String).to_numpy()
    by_task = {task: metrics.summary(_only(ranks, task_of == task)) for task in tasks if np.any(task_of == task)}
    if not by_task:
        raise InputError(f"{describe(run.header)}: the data has no test case of {', '.join(tasks)}.")
    return Evaluation(by_task, _rank_table(asked.table, ranks), dict(run.header))


def _check_fitted_on(header: Mapping[str, Any], pack: questions.PackLike) -> None:
    """Refuse scores of a model that saw other events than the training ones; a run from outside may declare nothing."""
    declared = header.get("fitted_on")
    if declared is not None and declared != pack.fitted_on:
        raise InputError(
            f"{describe(header)}: the model declares to be fitted on {declared}, the training events of this data are "
            f"{pack.fitted_on}. Train it on this data's training split and score again."
        )


def _only(ranks: metrics.Ranks, chosen: npt.NDArray[np.bool_]) -> metrics.Ranks:
    """The ranks of the chosen cases."""
    counts = np.diff(ranks.offsets)
    keep = np.repeat(chosen, counts)
    return metrics.Ranks(
        ranks.ranks[keep],
        ragged.offsets_of(counts[chosen]),
        ranks.above[keep],
        ranks.negatives_tied[keep],
        ranks.positives_tied[keep],
    )


def _rank_table(cases: pl.DataFrame, ranks: metrics.Ranks) -> pl.DataFrame:
    small = np.minimum(ranks.ranks, WORST_RANK).astype(np.uint8)
    counts = np.diff(ranks.offsets)
    table = cases.select(pl.col("case_id"), pl.col("task").cast(TASK), pl.Series("rank", small[ranks.offsets[:-1]]))
    if np.all(counts == 1):
        return table
    return table.with_columns(ragged.list_column("ranks", small, counts))


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json and ranks.parquet into folder; raises CheckError when impossible numbers would be written."""
    if "ranks" in evaluation.ranks.columns:
        several = evaluation.ranks.filter(pl.col("ranks").list.len() > 1)["task"].cast(pl.String).unique().to_list()
    else:
        several = []
    for task, values in evaluation.metrics.items():
        if task not in several:
            metrics.check_one_positive_identities(values, f"{describe(evaluation.header)}, task {task}")
    files.write_table(folder / RANKS_FILE, evaluation.ranks, metadata=evaluation.header)
    files.write_json(folder / METRICS_FILE, evaluation.metrics)


def read_evaluation(folder: Path) -> Evaluation:
    """What write_evaluation wrote; raises InputError when a file is missing or damaged."""
    ranks = files.read_table(folder / RANKS_FILE)
    return Evaluation(files.read_json(folder / METRICS_FILE), ranks, files.read_header(folder / RANKS_FILE))

"""TREC run and qrels files, so that trec_eval, ir_measures, ranx and PyTerrier read our results and we read theirs.

qid = case_id, docno = item_id. The score of a candidate is minus its rank in a strict order in which every positive
stands at its pessimistic rank: no two scores of a case are equal, so every tool computes the figures that we print.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal

import numpy as np
import polars as pl

from gemsbench import files
from gemsbench.data.schema import TASKS
from gemsbench.errors import InputError
from gemsbench.evaluation import metrics, questions, ragged
from gemsbench.evaluation.metrics import Float32Array, Float64Array
from gemsbench.evaluation.scores import SHOWN, Scores, align, describe, read_scores, write_scores
from gemsbench.evaluation.trec_lines import RunLines, read_run

CASES_AT_A_TIME = 16_384
ITEM_MASK = 2**31 - 1  # item ids are positive int32


def export_run(
    path: Path,
    scores: Path | Scores,
    data: Path | questions.PackLike,
    *,
    task: str | None = None,
    tag: str | None = None,
) -> None:
    """Write a TREC run ("qid Q0 docno rank score tag") of the test cases, of one task or of all that it answers."""
    run = scores if isinstance(scores, Scores) else read_scores(Path(scores))
    where = describe(run.header)
    pack = questions.load(data)
    tasks = questions.declared_tasks(run.header, where)
    asked = questions.select_questions(pack, tasks)
    aligned = align(run, asked.table, pack.fingerprint)
    chosen = _rows_of_task(asked, task, where)
    label = (tag or str(run.header.get("method", "gemsbench"))).replace(" ", "-")
    with files.atomic_path(path) as temporary, temporary.open("wb") as handle:
        for start in range(0, len(chosen), CASES_AT_A_TIME):
            _write_lines(handle, asked, aligned, chosen[start : start + CASES_AT_A_TIME], label)


def _rows_of_task(asked: questions.Questions, task: str | None, where: str) -> ragged.Int64Array:
    if task is None:
        return np.arange(asked.table.height, dtype=np.int64)
    rows = np.flatnonzero((asked.table["task"].cast(pl.String) == task).to_numpy())
    if len(rows) == 0:
        raise InputError(f"{where}: no test case of task '{task}'.")
    return rows


def _write_lines(
    handle: IO[bytes], asked: questions.Questions, aligned: Scores, rows: ragged.Int64Array, tag: str
) -> None:
    values, offsets = ragged.gather(aligned.flat, asked.offsets, rows)
    items, _ = ragged.gather(asked.items, asked.offsets, rows)
    positive, _ = ragged.gather(asked.positive, asked.offsets, rows)
    ranks = metrics.pessimistic_order(values, offsets, positive)
    case_ids = np.repeat(asked.table["case_id"].to_numpy()[rows], np.diff(offsets))
    lines = pl.DataFrame({"qid": case_ids, "docno": items, "rank": ranks}).select(
        "qid", pl.lit("Q0"), "docno", "rank", (-pl.col("rank")).alias("score"), pl.lit(tag).alias("tag")
    )
    lines = lines.sort("qid", "rank", maintain_order=True)
    lines.write_csv(handle, include_header=False, separator=" ", quote_style="never")


def export_qrels(path: Path, data: Path | questions.PackLike, *, task: str | None = None) -> None:
    """Write TREC qrels ("qid 0 docno 1") of the positives of all test cases, or of one task."""
    pack = questions.load(data)
    tasks = TASKS if task is None else (task,)
    asked = questions.select_questions(pack, tuple(tasks))
    if asked.table.is_empty():
        raise InputError(f"the data has no test case of {', '.join(tasks)}.")
    lines = asked.table.select("case_id", pl.col("positives").alias("docno")).explode("docno")
    lines = lines.select("case_id", pl.lit("0").alias("zero"), "docno", pl.lit("1").alias("gain"))
    with files.atomic_path(path) as temporary:
        lines.write_csv(temporary, include_header=False, separator=" ", quote_style="never")


def import_run(
    run: Path, data: Path | questions.PackLike, out: Path, *, missing: Literal["error", "-inf"] = "error"
) -> Scores:
    """Turn a TREC run into the score file `out` and return its scores.

    The order comes from the run's score column (its rank column is ignored, as in trec_eval); the stored score is
    minus the dense rank in it, which keeps the order and the ties of double precision in float32. Cases or candidates
    that the run leaves out: missing="error" raises InputError, "-inf" scores them -inf (below everything, a miss).
    Raises InputError on malformed lines, NaN, repeated lines, and on cases or items that are not in the data.
    """
    pack = questions.load(data)
    lines = read_run(run)
    asked = _questions_of_run(lines, pack, run)
    values = _scores_of_candidates(lines, asked, run)
    absent = np.isnan(values)
    if absent.any() and missing == "error":
        first = int(np.flatnonzero(absent)[0])
        case = int(np.searchsorted(asked.offsets, first, side="right")) - 1
        raise InputError(
            f"{run}: {int(absent.sum())} candidates are not ranked, first: case {asked.table['case_id'][case]}, item "
            f"{asked.items[first]}. Rank them all, or import with missing='-inf' to count them as misses."
        )
    header = {
        "method": lines.tag,
        "fingerprint": pack.fingerprint,
        "tasks": [task for task in TASKS if (asked.table["task"].cast(pl.String) == task).any()],
        "source": f"TREC run {run.name}",
    }
    case_ids = asked.table["case_id"].to_numpy()
    imported = Scores(case_ids, _minus_dense_ranks(values, asked.offsets), asked.offsets, header)
    write_scores(out, case_ids, (imported.flat, np.diff(asked.offsets)), header)
    return imported


def _questions_of_run(lines: RunLines, pack: questions.PackLike, run: Path) -> questions.Questions:
    """All test cases of the tasks that occur in the run."""
    every = questions.select_questions(pack, TASKS)
    named = np.unique(lines.qid)
    foreign = np.setdiff1d(named, every.table["case_id"].to_numpy())
    if len(foreign):
        shown = ", ".join(map(str, foreign[:SHOWN]))
        raise InputError(f"{run}: {len(foreign)} query ids are not test cases of the data, first: {shown}.")
    tasks = every.table.filter(pl.col("case_id").is_in(named))["task"].unique()
    if len(tasks) == every.table["task"].n_unique():
        return every
    return questions.questions_of(every.table.filter(pl.col("task").is_in(tasks.implode())))


def _scores_of_candidates(lines: RunLines, asked: questions.Questions, run: Path) -> Float64Array:
    """The run's score of every candidate, float64 [N]; NaN where the run leaves it out."""
    # One key per (case, item): cases are in ascending order, so searchsorted finds the case of a line.
    owner = np.repeat(np.arange(asked.table.height, dtype=np.int64), np.diff(asked.offsets))
    keys = owner << 32 | asked.items
    order = np.argsort(keys)
    wanted = np.searchsorted(asked.table["case_id"].to_numpy(), lines.qid) << 32 | (lines.docno & ITEM_MASK)
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    unknown = np.flatnonzero((keys[place] != wanted) | (lines.docno != lines.docno & ITEM_MASK))
    if len(unknown):
        raise InputError(
            f"{run}: {len(unknown)} lines name an item that is not a candidate of its case, first: case "
            f"{lines.qid[unknown[0]]}, item {lines.docno[unknown[0]]}. Rank the candidates of this data only."
        )
    repeated = np.flatnonzero(np.bincount(place, minlength=len(keys)) > 1)
    if len(repeated):
        raise InputError(
            f"{run}: {len(repeated)} candidates are ranked more than once, first: case "
            f"{asked.table['case_id'][int(owner[repeated[0]])]}, item {asked.items[repeated[0]]}."
        )
    values = np.full(len(keys), np.nan)
    values[place] = lines.score
    return values


def _minus_dense_ranks(values: Float64Array, offsets: ragged.Int64Array) -> Float32Array:
    """Minus the rank of each value among the distinct values of its case, -inf for NaN."""
    result = np.empty(len(values), dtype=np.float32)
    for start in range(0, len(offsets) - 1, CASES_AT_A_TIME):
        cut = offsets[start : start + CASES_AT_A_TIME + 1]
        part = values[cut[0] : cut[-1]]
        owner = np.repeat(np.arange(len(cut) - 1), np.diff(cut))
        order = np.lexsort((-part, owner))  # NaN last within each case
        ranked = part[order]
        is_new = np.ones(len(part), dtype=np.int64)
        is_new[1:] = (ranked[1:] != ranked[:-1]) | (owner[1:] != owner[:-1])
        distinct = np.cumsum(is_new)
        before = distinct[cut[:-1] - cut[0]] - 1  # distinct values of the cases in front
        result[cut[0] + order] = np.where(np.isnan(ranked), -np.inf, before[owner] - distinct)
    return result

"""What is evaluated: the test cases of the declared tasks, with their candidates and positives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.config import nearest
from gemsbench.data.schema import TASKS
from gemsbench.errors import InputError
from gemsbench.evaluation import ragged
from gemsbench.protocol.pack import load_pack


class PackLike(Protocol):
    """The three things of a pack that evaluation reads; gemsbench.protocol.pack.Pack is one."""

    @property
    def fingerprint(self) -> str:
        """Protocol fingerprint of cases and candidates."""
        ...

    @property
    def fitted_on(self) -> dict[str, str]:
        """What a method must have been fitted on: split and sha256 of the training events."""
        ...

    def cases(self, *splits: str) -> pl.DataFrame:
        """Cases of the splits: case_id, task, ..."""
        ...

    def candidates(self, *splits: str) -> pl.DataFrame:
        """Candidate lists of the splits: case_id, items list<int32>, positives list<int32>."""
        ...


@dataclass(frozen=True)
class Questions:
    """Cases in one fixed order: candidates of case q are items[offsets[q]:offsets[q + 1]].

    table: case_id int64, task, items, positives [Q]; items int32 [N], positive bool [N], offsets int64 [Q+1].
    """

    table: pl.DataFrame
    items: npt.NDArray[np.int32]
    positive: npt.NDArray[np.bool_]
    offsets: ragged.Int64Array


def load(data: Path | PackLike) -> PackLike:
    """The pack behind data: a prepared folder, an exported pack, or an object that has one's parts already."""
    return load_pack(data) if isinstance(data, (str, Path)) else data


def declared_tasks(header: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The tasks that a run answers: header["tasks"], or both where the header is silent; raises InputError."""
    tasks = header.get("tasks", TASKS)
    if not isinstance(tasks, (list, tuple)):
        raise InputError(f"{where}: the header's tasks must be a list of {', '.join(TASKS)}, not {tasks!r}.")
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"{where}: the header declares the task '{task}'. {nearest(str(task), TASKS)}")
    return tuple(task for task in TASKS if task in tasks)


def select_questions(pack: PackLike, tasks: tuple[str, ...]) -> Questions:
    """Test cases of the tasks by ascending case_id; raises InputError on missing candidates or positives."""
    cases = pack.cases("test").filter(pl.col("task").cast(pl.String).is_in(list(tasks))).select("case_id", "task")
    lists = pack.candidates("test").select("case_id", "items", "positives")
    return questions_of(cases.sort("case_id").join(lists, on="case_id", how="left", maintain_order="left"))


def questions_of(table: pl.DataFrame) -> Questions:
    """Questions from rows of case_id, task, items, positives; checks that every positive is one of the candidates."""
    if table["items"].null_count():
        missing = table.filter(pl.col("items").is_null())["case_id"]
        raise InputError(f"{len(missing)} test cases have no candidates, first: {missing[0]}. Prepare the data again.")
    empty = table.filter(pl.col("positives").list.len() == 0)["case_id"]
    if len(empty):
        raise InputError(
            f"{len(empty)} test cases have no right answer, first: case {empty[0]}: a recipe of released code. "
            "`gemsbench evaluate` does not average such cases; gemsbench.evaluation.eval_modes has that code's ways to."
        )
    items, offsets = ragged.flatten(table["items"])
    wanted, positive_offsets = ragged.flatten(table["positives"])
    positive = _mark(items, offsets, wanted, positive_offsets)
    found = np.bincount(np.repeat(np.arange(table.height), np.diff(offsets))[positive], minlength=table.height)
    wrong = np.flatnonzero((found != np.diff(positive_offsets)) | (found == 0))
    if len(wrong):
        raise InputError(
            f"{len(wrong)} cases do not hold each of their positives once among the candidates, first: case "
            f"{table['case_id'][int(wrong[0])]}. Prepare the data again."
        )
    return Questions(table, items, positive, offsets)


def _mark(
    items: npt.NDArray[np.int32],
    offsets: ragged.Int64Array,
    wanted: npt.NDArray[np.int32],
    wanted_offsets: ragged.Int64Array,
) -> npt.NDArray[np.bool_]:
    """Which candidates are positives: one pass per n-th positive, so the usual 1 + 99 takes one pass."""
    counts, lengths = np.diff(wanted_offsets), np.diff(offsets)
    marked = np.zeros(len(items), dtype=np.bool_)
    for n in range(int(counts.max(initial=0))):
        has = counts > n
        nth = np.zeros(len(counts), dtype=np.int32)  # 0 is no item
        nth[has] = wanted[wanted_offsets[:-1][has] + n]
        marked |= items == np.repeat(nth, lengths)
    return marked

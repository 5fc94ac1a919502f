"""Popularity: a sanity row; the number of users who met the item in the training split of the case's own task.

Recommendation cases count recommendation events (purchases, ratings, clicks without a query); search cases count search
events, whatever their query. Counts of the own task are what a deployed list of best sellers shows, and the other task
would let search behaviour into a recommendation row. A user counts once per item, so that one person's many queries
for an item do not make it popular. Cost: one pass over the training events.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.files import read_header, read_table, write_table
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import NoSettings, ScoreArray

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class Popularity:
    """Score = number of users with a training event of the case's task on the item (0 for items never seen)."""

    Config = NoSettings

    def fit(self, config: NoSettings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Count the distinct users of each item, task by task."""
        counts = (
            data.events.group_by("task", "item_id")
            .agg(pl.col("user_id").n_unique().cast(pl.Int32).alias("n_users"))
            .sort("task", "item_id")
        )
        write_table(out / "popularity.parquet", counts, {"n_items": data.n_items})

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 arrays of counts; equal counts tie."""
        n_items = int(read_header(artefact / "popularity.parquet")["n_items"])
        counts = read_table(artefact / "popularity.parquet").with_columns(pl.col("task").cast(pl.String))
        tasks = counts["task"].unique().sort().to_list()
        table = np.zeros((len(tasks) + 1, n_items + 1))  # the last row serves tasks without any training event
        for row, task in enumerate(tasks):
            of_task = counts.filter(pl.col("task") == task)
            table[row, of_task["item_id"].to_numpy()] = of_task["n_users"].to_numpy()

        def count(batch: CandidateBatch) -> npt.NDArray[np.float64]:
            names = batch.cases["task"].cast(pl.String)
            row_of_case = names.replace_strict(tasks, range(len(tasks)), default=len(tasks), return_dtype=pl.Int64)
            counted: npt.NDArray[np.float64] = table[row_of_case.to_numpy()[batch.rows], batch.items]
            return counted

        yield from score_in_batches(cases, count, n_items)

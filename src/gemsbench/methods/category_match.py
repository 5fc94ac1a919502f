"""Category match: a sanity row for searches that are made from category paths; 1 where the item has the case's query.

With uniform negatives almost no negative shares the target's category path, so this row shows how much of the task the
query alone solves. Most scores tie: read the expectation over random tie-breaking beside the pessimistic figure.
Cost: one look-up per candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.sorted_keys import contains
from gemsbench.files import read_header, read_table, write_table
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import NoSettings, ScoreArray

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class CategoryMatch:
    """Score = 1.0 when the case's query is one of the queries synthesised from the item's categories, else 0.0."""

    Config = NoSettings

    def fit(self, config: NoSettings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Save the pairs (item, query) of the catalogue; raises InputError when no item has a query."""
        pairs = (
            data.items.select("item_id", pl.col("query_ids").alias("query_id"))
            .explode("query_id")
            .drop_nulls()
            .unique()
            .sort("item_id", "query_id")
        )
        if pairs.is_empty():
            raise InputError(
                "category-match: no item of this recipe has a query made from its categories. "
                "Name the recipes that do under methods: category-match: recipes: [...] in the profile."
            )
        write_table(out / "item_queries.parquet", pairs, {"n_items": data.n_items})

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 arrays of zeros and ones."""
        n_items = int(read_header(artefact / "item_queries.parquet")["n_items"])
        pairs = read_table(artefact / "item_queries.parquet").cast(pl.Int64)
        stride = n_items + 1
        keys = np.sort((pairs["query_id"] * stride + pairs["item_id"]).to_numpy())

        def match(batch: CandidateBatch) -> npt.NDArray[np.float64]:
            return contains(keys, batch.per_candidate("query_id") * stride + batch.items).astype(np.float64)

        yield from score_in_batches(cases, match, n_items)

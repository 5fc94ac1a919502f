"""Lists of different lengths as flat columns: list q is the lengths[q] values that follow those of the lists before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

IntArray = npt.NDArray[np.int64]


def gathered(first: IntArray, lengths: IntArray) -> IntArray:
    """Positions first[q], first[q] + 1, ... (lengths[q] of them) of all lists q, one after the other; int64."""
    ends = np.cumsum(lengths)
    return np.repeat(first - (ends - lengths), lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def list_columns(flat: Mapping[str, pl.Series], lengths: IntArray) -> pl.DataFrame:
    """Columns of lists from flat columns; row q has lengths[q] values of each, an empty list where that is 0."""
    row = pl.Series("row", np.repeat(np.arange(lengths.size), lengths)).set_sorted()
    filled = pl.DataFrame([row, *(values.alias(name) for name, values in flat.items())])
    filled = filled.group_by("row", maintain_order=True).agg(pl.all())
    rows = pl.DataFrame({"row": np.arange(lengths.size)})
    lists = rows.join(filled, on="row", how="left", maintain_order="left").drop("row")
    return lists.with_columns(
        pl.col(name).fill_null(pl.lit([], dtype=pl.List(values.dtype))) for name, values in flat.items()
    )

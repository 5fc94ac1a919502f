"""Lists of different lengths as one flat array and offsets: list q is flat[offsets[q]:offsets[q + 1]]."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

ScalarT = TypeVar("ScalarT", bound=np.generic)
Int64Array = npt.NDArray[np.int64]

GATHER_ROWS = 8192  # lists moved at a time: bounds the index array of a ragged gather


def offsets_of(lengths: npt.NDArray[Any]) -> Int64Array:
    """Offsets int64 [Q+1] of lists with the given lengths [Q]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flatten(column: pl.Series) -> tuple[npt.NDArray[Any], Int64Array]:
    """A list column without null rows as (flat values, offsets); null values become NaN in float columns."""
    values = column.list.explode(empty_as_null=False)
    return values.rechunk().to_numpy(), offsets_of(column.list.len().to_numpy())


def list_column(name: str, flat: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> pl.Series:
    """A polars list column from flat values and lengths; the inverse of flatten."""
    if len(lengths) and lengths[0] > 0 and np.all(lengths == lengths[0]):
        return pl.Series(name, flat.reshape(len(lengths), int(lengths[0]))).arr.to_list()
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    values = pl.DataFrame({"row": rows, name: flat}).group_by("row", maintain_order=True).agg(name)
    every = pl.DataFrame({"row": np.arange(len(lengths), dtype=np.int64)})
    column = every.join(values, on="row", how="left", maintain_order="left")[name]
    return column.fill_null(pl.Series([[]], dtype=column.dtype))


def gather(
    flat: npt.NDArray[ScalarT], offsets: Int64Array, rows: Int64Array
) -> tuple[npt.NDArray[ScalarT], Int64Array]:
    """The lists named by rows, in that order, as a new (flat, offsets)."""
    new_offsets = offsets_of(np.diff(offsets)[rows])
    gathered = np.empty(int(new_offsets[-1]), dtype=flat.dtype)
    for start in range(0, len(rows), GATHER_ROWS):
        chunk = rows[start : start + GATHER_ROWS]
        local = new_offsets[start : start + len(chunk) + 1]
        shift = np.repeat(offsets[chunk] - local[:-1], np.diff(local))
        gathered[local[0] : local[-1]] = flat[shift + np.arange(local[0], local[-1])]
    return gathered, new_offsets

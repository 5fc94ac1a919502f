"""Rows that are equal, found once, so that equal vectors cannot get different codes through rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_CHUNK = 8192  # rows compared at a time


def distinct_rows(vectors: Float32Array) -> tuple[Int64Array, Int64Array]:
    """Where each distinct row first stands, int64 [m], and which of those each row equals, int64 [n].

    vectors: [n, D], finite. The m rows come in an order (of their bytes) that does not depend on the order of vectors:
    a sum over them has the same bits for every order of items.
    """
    rows = np.ascontiguousarray(vectors) + np.float32(0)  # -0.0 becomes 0.0: equal numbers, equal bytes
    order = np.argsort(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), kind="stable")
    new = np.ones(len(rows), np.bool_)
    for start in range(1, len(rows), _CHUNK):
        these = order[start : start + _CHUNK]
        before = order[start - 1 : start - 1 + len(these)]
        new[start : start + _CHUNK] = (rows[these] != rows[before]).any(axis=1)
    inverse = np.empty(len(rows), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new].astype(np.int64), inverse

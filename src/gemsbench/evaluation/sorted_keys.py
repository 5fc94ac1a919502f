"""Membership of many integers in a sorted key array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def contains(keys: Int64Array, wanted: Int64Array) -> npt.NDArray[np.bool_]:
    """Whether each wanted value is one of keys (int64, ascending): bool, shape of wanted; O(log) each."""
    if keys.size == 0:
        return np.zeros(wanted.shape, dtype=np.bool_)
    positions = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    found: npt.NDArray[np.bool_] = keys[positions] == wanted
    return found

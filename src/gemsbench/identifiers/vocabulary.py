"""Codes as tokens: one token per (level, code), the same number on two levels is two tokens."""

from __future__ import annotations

import numpy as np

from gemsbench.identifiers.codes import ABSENT, Int32Array, ItemCodes


def token_strings(codes: ItemCodes) -> list[str]:
    """All sum(sizes) tokens `<|i{level}_{code}|>` (levels from 1), ordered by level, then code."""
    return [f"<|i{level}_{code}|>" for level, size in enumerate(codes.sizes, start=1) for code in range(size)]


def token_table(codes: ItemCodes, first_id: int) -> Int32Array:
    """Token ids int32 [n_items + 1, L] of every item, -1 where a level is absent.

    first_id is the id of the first of token_strings; the others follow without a gap.
    """
    offsets = first_id + np.cumsum([0, *codes.sizes[:-1]])
    return np.where(codes.codes == ABSENT, ABSENT, codes.codes + offsets).astype(np.int32)

"""Phrases drawn from the word lists, for whole columns at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl


def pick(phrases: Sequence[str], size: int, rng: np.random.Generator) -> pl.Series:
    """Draw that many phrases, evenly."""
    return pl.Series(list(phrases)).gather(rng.integers(len(phrases), size=size))

"""Ids that look like the real ones: distinct, of fixed width, in no visible order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)


def asins(numbers: npt.NDArray[np.int64]) -> pl.Series:
    """Product ids of ten characters; one in 97 is all digits, as books have it (so ids are text, not numbers)."""
    frame = pl.DataFrame({"code": _base36(numbers, 7), "number": numbers})
    digits = pl.format("0{}", (pl.col("number") * 7_919 % 1_000_000_007).cast(pl.String).str.zfill(9))
    plain = pl.format("B00{}", pl.col("code"))
    return frame.select(pl.when(pl.col("number") % 97 == 96).then(digits).otherwise(plain).alias("asin")).to_series()


def reviewer_ids(numbers: npt.NDArray[np.int64]) -> pl.Series:
    """Reviewer ids: A and thirteen characters."""
    frame = pl.DataFrame({"high": _base36(numbers + 17, 7), "low": _base36(numbers * 3 + 5, 6)})
    return frame.select(pl.format("A{}{}", pl.col("high"), pl.col("low")).alias("reviewerID")).to_series()


def _base36(numbers: npt.NDArray[np.int64], width: int) -> pl.Series:
    """Map 0, 1, 2 ... to scattered codes of `width` characters, one to one below 36**width."""
    space = 36**width  # the factor below is coprime to it
    rest = (numbers.astype(np.uint64) * np.uint64(48_271_307) + np.uint64(1_234_567)) % np.uint64(space)
    characters = np.empty((numbers.size, width), dtype=np.uint8)
    for place in range(width - 1, -1, -1):
        characters[:, place] = _DIGITS[rest % np.uint64(36)]
        rest //= np.uint64(36)
    return pl.Series(characters.view(f"S{width}").ravel().astype(f"U{width}").tolist())

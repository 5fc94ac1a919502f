"""Which questions were asked and how answers are ranked, as one hash; numbers with different ones are not compared."""

from __future__ import annotations

import polars as pl

from gemsbench.files import sha256_json, table_sha256

TIE_RULE = "pessimistic"  # rank = 1 + number of negatives that score at least as high as the positive
DECODING = "exact"  # every candidate is scored; no beam
SCORE_END = "auto"  # the end token counts only where identifiers differ in length


def protocol_fingerprint(cases: pl.DataFrame, candidates: pl.DataFrame) -> str:
    """sha256 over canonical JSON of the tables' hashes and the ranking rules; nothing of a method is in it."""
    return sha256_json(
        {
            "cases": table_sha256(cases),
            "candidates": table_sha256(candidates),
            "ties": TIE_RULE,
            "decoding": DECODING,
            "score_end": SCORE_END,
        }
    )

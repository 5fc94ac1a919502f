"""Cleaning of item texts: entities resolved, tags and control characters removed, white space folded."""

from __future__ import annotations

import html
import re
from functools import cache

import polars as pl

UNKNOWN_ITEM = "unknown product"  # text of an item without any; a text is never empty
_TAG = r"</?[A-Za-z!][^<>]*>"
_OPEN_TAG = r"<([A-Za-z!/])"  # what is left of a tag that was cut off
_SPACE = r"[\p{Cc}\s]+"


def clean_text(texts: pl.Series) -> pl.Series:
    """Clean every text (str, null becomes ""); entities are resolved twice, as "&amp;quot;" occurs."""
    texts = texts.cast(pl.String).fill_null("")
    rows = texts.str.contains("&", literal=True).arg_true()
    if rows.len():
        resolved = [html.unescape(html.unescape(text)) for text in texts.gather(rows)]
        texts = texts.scatter(rows, pl.Series(resolved, dtype=pl.String))
    frame = texts.alias("text").to_frame()
    cleaned = frame.select(
        pl.col("text")
        .str.replace_all(_TAG, " ")
        .str.replace_all(_OPEN_TAG, "< $1")
        .str.replace_all(_SPACE, " ")
        .str.strip_chars(" ")
    )
    return cleaned.to_series().alias(texts.name)


@cache
def clean_name(name: str) -> str:
    """Clean one short name that occurs often, e.g. a category level."""
    without_tags = re.sub(_TAG, " ", html.unescape(html.unescape(valid_unicode(name))))
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", re.sub(_OPEN_TAG, r"< \1", without_tags)).split())


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which a literal can spell but no table can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def compose(*columns: str) -> pl.Expr:
    """The non-empty columns joined by a space, as `text`; UNKNOWN_ITEM where all are empty."""
    joined = pl.concat_str([pl.col(column) for column in columns], separator=" ")
    folded = joined.str.replace_all(" +", " ").str.strip_chars(" ")
    return pl.when(folded == "").then(pl.lit(UNKNOWN_ITEM)).otherwise(folded).alias("text")

"""Queries made from category paths, after Van Gysel et al. (CIKM 2016) and Ai et al. (SIGIR 2017).

Our defaults differ from Ai et al. in two points: a character that is no letter becomes a space instead of nothing
("Audio/Video" gives two words, as a tokenizer would see them), and nothing is stemmed.
`inquery_stopwords.txt` is the public 418-word list of the INQUERY system as the Lemur project (BSD) distributes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import polars as pl

MIN_LEVELS = 2  # the root alone says nothing
_NOT_A_LETTER = re.compile("[^A-Za-z ]")
_LEVEL_MARK = "\x1f"


@cache
def stop_words() -> frozenset[str]:
    """The INQUERY stop words, lower case."""
    return frozenset(files("gemsbench.data").joinpath("inquery_stopwords.txt").read_text(encoding="utf-8").split())


def path_query(path: Sequence[str], *, separator: str = " ") -> str:
    """The query of one category path (level names, root first); "" when the path has one level or no word is left.

    Non-letters become `separator`, words are lower-cased, stop words dropped, of repeated words the last is kept.
    separator "" is what Ai et al. (SIGIR 2017) do.
    """
    if len(path) < MIN_LEVELS:
        return ""
    words = _NOT_A_LETTER.sub(separator, " ".join(path)).lower().split()
    last_first = dict.fromkeys(word for word in reversed(words) if word not in stop_words())
    return " ".join(reversed(last_first))


def add_queries(items: pl.DataFrame) -> pl.DataFrame:
    """Add the column queries (list[str]: sorted, distinct) made from category_paths (list[list[str]])."""
    rows = pl.int_range(pl.len(), dtype=pl.UInt32).alias("row")
    paths = (
        items.select(rows, pl.col("category_paths"))
        .explode("category_paths", empty_as_null=False, keep_nulls=False)
        .select("row", pl.col("category_paths").list.join(_LEVEL_MARK).alias("path"))
    )
    distinct = paths["path"].unique()
    queries = [path_query(path.split(_LEVEL_MARK)) for path in distinct]
    lookup = pl.DataFrame({"path": distinct, "query": pl.Series(queries, dtype=pl.String)})
    per_item = (
        paths.join(lookup, on="path")
        .filter(pl.col("query") != "")
        .group_by("row")
        .agg(pl.col("query").unique().sort().alias("queries"))
    )
    return (
        items.drop("queries", strict=False)
        .with_columns(rows)
        .join(per_item, on="row", how="left", maintain_order="left")
        .drop("row")
        .with_columns(pl.col("queries").fill_null(pl.lit([], dtype=pl.List(pl.String))))
    )

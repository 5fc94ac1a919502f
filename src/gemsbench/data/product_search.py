"""The files of Ai et al. (SIGIR 2017): who asked which query for which product of the McAuley 2014 reviews.

query_text.txt.gz has a query per line; a line of train.qrels.gz and test.qrels.gz is `reviewer_number 0 asin label`,
where number is the query's line, counted from 0. The searches of a user are his reviews; about three in ten are hidden.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from gemsbench.data.gzip_lines import LineCheck, line_chunks
from gemsbench.errors import InputError

QUERIES = "query_text.txt.gz"
QRELS = {"train": "train.qrels.gz", "test": "test.qrels.gz"}
_TRIPLE = r"^(?<user>[A-Za-z0-9_#-]+)_(?<query>[0-9]{1,9}) 0 (?<item>[A-Za-z0-9_#-]+) [0-9]+[ \r]*$"


def read_queries(folder: Path) -> pl.Series:
    """The queries (str), in the order of their numbers; raises InputError for a missing, damaged or empty file."""
    check = LineCheck(folder / QUERIES)
    lines = [_lines(chunk) for _, chunk in line_chunks(check.path, check)]
    check.finish()
    return pl.concat(lines).str.strip_chars().alias("query")


def read_triples(folder: Path, split: str, queries: int) -> tuple[pl.DataFrame, LineCheck]:
    """user, item (str) and query (int64, below queries) of <split>.qrels.gz, in the order of the file.

    Raises InputError when the file is missing or damaged, when more than 0.1 % of its lines are no triples, and when
    it names queries that there are not.
    """
    check = LineCheck(folder / QRELS[split])
    parts = [_triples(first, chunk, check) for first, chunk in line_chunks(check.path, check)]
    check.judged = check.lines
    check.finish()
    triples = pl.concat(parts)
    beyond = triples.filter(pl.col("query") >= queries).height
    if beyond:
        raise InputError(
            f"{check.path}: {beyond} lines name a query that {QUERIES} does not have (it has {queries}). "
            "The two files belong to different releases: download both again."
        )
    return triples, check


def _lines(chunk: bytes) -> pl.Series:
    return pl.Series(chunk.decode("utf-8", "replace").removesuffix("\n").split("\n"), dtype=pl.String)


def _triples(first: int, chunk: bytes, check: LineCheck) -> pl.DataFrame:
    lines = pl.DataFrame({"line": _lines(chunk)})
    table = lines.select(pl.col("line").str.extract_groups(_TRIPLE)).unnest("line")
    for number in table["item"].is_null().arg_true():
        check.skip(first + int(number), "not a line 'reviewer_query 0 asin label'")
    return table.drop_nulls().select("user", "item", pl.col("query").cast(pl.Int64))

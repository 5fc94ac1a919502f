"""Parsing of TREC run files, a bounded number of bytes at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array

FIELDS = ("qid", "q0", "docno", "rank", "score", "tag")
BLOCK_BYTES = 32 * 2**20
NO_NEWLINE_BYTES = 2**20  # a "line" longer than this is no TREC line; without the limit it would fill the memory


@dataclass(frozen=True)
class RunLines:
    """The columns of a TREC run that mean something: qid int64 [L], docno int64 [L], score float64 [L]; and its tag."""

    qid: Int64Array
    docno: Int64Array
    score: npt.NDArray[np.float64]
    tag: str


def read_run(run: Path) -> RunLines:
    """Read a TREC run, fields separated by any white space, blank lines ignored.

    Raises InputError for a missing or empty file and for lines whose qid, docno or score is not a number.
    """
    if not run.is_file():
        raise InputError(f"{run}: no such file.")
    parts, number = [], 0
    for block in _blocks(run):
        parts.append(_parse(block, run, number))
        number += block.count(b"\n")
    parts = [part for part in parts if part.height]
    if not parts:
        raise InputError(f"{run}: the run is empty.")
    columns = {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in ("qid", "docno", "score")}
    return RunLines(**columns, tag=str(parts[0]["tag"][0]))


def _blocks(run: Path) -> Iterator[bytes]:
    """The file in pieces that end with a line."""
    with run.open("rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            rest = handle.readline(NO_NEWLINE_BYTES)
            if len(rest) == NO_NEWLINE_BYTES:
                raise InputError(f"{run}: not a TREC run, it has lines longer than {NO_NEWLINE_BYTES} bytes.")
            yield block + rest


def _parse(block: bytes, run: Path, lines_before: int) -> pl.DataFrame:
    """Columns qid, docno int64, score float64, tag of the lines of one block."""
    try:
        text = pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            separator="\x1f",
            quote_char=None,
            new_columns=["line"],
            infer_schema=False,
        )
    except pl.exceptions.NoDataError:
        text = pl.DataFrame(schema={"line": pl.String})
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{run}: not readable as utf-8 text ({error}).") from error
    lines = text.with_row_index("number", offset=lines_before + 1).filter(pl.col("line").str.strip_chars() != "")
    words = pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ").str.splitn(" ", len(FIELDS))
    parsed = (
        lines.with_columns(words.struct.rename_fields(list(FIELDS)).alias("words"))
        .unnest("words")
        .with_columns(
            pl.col("qid", "docno").cast(pl.Int64, strict=False), pl.col("score").cast(pl.Float64, strict=False)
        )
    )
    bad = parsed.filter(pl.any_horizontal(pl.col("qid", "docno", "score", "tag").is_null()) | pl.col("score").is_nan())
    if bad.height:
        raise InputError(
            f"{run}: {bad.height} lines are not 'qid Q0 docno rank score tag' with qid = case_id, docno = item_id "
            f"and a number as score, first: line {bad['number'][0]}: {bad['line'][0][:80]!r}."
        )
    return parsed.select("qid", "docno", "score", "tag")

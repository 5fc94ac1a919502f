"""Metadata lines that are Python dict literals (McAuley 2014): parsed as data, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data.gzip_lines import LineCheck, line_chunks

_ASIN = r"""['"]asin['"]\s*:\s*['"]([^'"\\]+)['"]"""
_LONGEST_LINE = 1_000_000  # characters; the parser's memory grows with the line


def wanted_records(path: Path, wanted: pl.Series, check: LineCheck) -> Iterator[dict[str, Any]]:
    """Yield the record of every line whose asin is in wanted; a product listed twice counts once.

    Literal parsing takes about 0.1 ms a line, so the asin is first found by a regular expression. Judged (see check)
    are lines without asin and wanted ones; malformed are those without asin, that are no dict literal, or whose record
    has another asin. Text in the file is never evaluated.
    """
    seen: set[str] = set()
    for first, chunk in line_chunks(path, check):
        for number, asin, line in _wanted_lines(first, chunk, wanted, check):
            if asin in seen:
                continue
            check.judged += 1
            record = _parse(line)
            if isinstance(record, str):
                check.skip(number, record)
            elif record.get("asin") != asin:
                check.skip(number, "its asin is not the one that is named first")
            else:
                seen.add(asin)
                yield record


def _wanted_lines(first: int, chunk: bytes, wanted: pl.Series, check: LineCheck) -> Iterator[tuple[int, str, str]]:
    lines = pl.DataFrame({"line": chunk.decode("utf-8", "replace").rstrip("\n").split("\n")})
    lines = lines.with_row_index("number", offset=first).with_columns(pl.col("line").str.extract(_ASIN).alias("asin"))
    nameless = lines.filter(pl.col("asin").is_null() & (pl.col("line").str.strip_chars() != ""))
    check.judged += nameless.height
    for number in nameless["number"]:
        check.skip(number, "no asin")
    yield from lines.filter(pl.col("asin").is_in(wanted.implode())).select("number", "asin", "line").iter_rows()


def _parse(line: str) -> dict[str, Any] | str:
    """The record, or the reason why the line has none."""
    if len(line) > _LONGEST_LINE:
        return f"longer than {_LONGEST_LINE:,} characters"
    try:
        record = ast.literal_eval(line.strip())
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        return f"not a Python literal ({type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''})"
    return record if isinstance(record, dict) else "not a dict"

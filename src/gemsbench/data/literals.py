"""Metadata lines that are Python dict literals (McAuley 2014): parsed as data, never run."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data.gzip_lines import LineCheck, line_chunks

_ASIN = r"""['"]asin['"]\s*:\s*['"]([^'"\\]+)['"]"""
# Most of a line is which products were bought together: plain ids in lists, which no recipe reads.
_RELATED = r"""'related': \{(?:'\w+': \[(?:'\w*'(?:, )?)*\](?:, )?)*\}(?:, )?"""
# Strings whose quotes and escapes mean the same in JSON, numbers and brackets; no names. Such a line becomes JSON by
# exchanging quotes, and is then read ten times as fast; what JSON does not take is left to the literal parser.
_DOUBLE, _SINGLE = r'"((?:[^"\\]|\\[bfnrt\\"])*)"', r"""'((?:[^'"\\]|\\[bfnrt\\])*)'"""
_QUOTED = f"{_DOUBLE}|{_SINGLE}"
_LIKE_JSON = rf"^(?:{_QUOTED}|[-+0-9.eE,:\[\]{{}} ])*$"
_LONGEST_LINE = 1_000_000  # characters; the parser's memory grows with the line


def wanted_records(path: Path, wanted: pl.Series, check: LineCheck) -> Iterator[dict[str, Any]]:
    """Yield the record of every line whose asin is in wanted; a product listed twice counts once.

    Literal parsing takes about 0.1 ms a line, so the asin is first found by a regular expression, and `related` is left
    out where it is nothing but lists of ids. Judged (see check) are lines without asin and wanted ones; malformed are
    those without asin, that are no dict literal, or whose record has another asin. Nothing in the file is ever run.
    """
    seen: set[str] = set()
    for first, chunk in line_chunks(path, check):
        for number, asin, line, as_json in _wanted_lines(first, chunk, wanted, check):
            if asin in seen:
                continue
            check.judged += 1
            record = _parse(line, as_json)
            if isinstance(record, str):
                check.skip(number, record)
            elif record.get("asin") != asin:
                check.skip(number, "its asin is not the one that is named first")
            else:
                seen.add(asin)
                yield record


def _wanted_lines(
    first: int, chunk: bytes, wanted: pl.Series, check: LineCheck
) -> Iterator[tuple[int, str, str, str | None]]:
    lines = pl.DataFrame({"line": chunk.decode("utf-8", "replace").rstrip("\n").split("\n")})
    lines = lines.with_row_index("number", offset=first).with_columns(pl.col("line").str.extract(_ASIN).alias("asin"))
    nameless = lines.filter(pl.col("asin").is_null() & (pl.col("line").str.strip_chars() != ""))
    check.judged += nameless.height
    for number in nameless["number"]:
        check.skip(number, "no asin")
    named = lines.filter(pl.col("asin").is_in(wanted.implode()))
    named = named.with_columns(pl.col("line").str.strip_chars().str.replace(_RELATED, ""))
    as_json = pl.when(pl.col("line").str.contains(_LIKE_JSON)).then(pl.col("line").str.replace_all(_QUOTED, '"$1$2"'))
    yield from named.select("number", "asin", "line", as_json.alias("as_json")).iter_rows()


def _parse(line: str, as_json: str | None) -> dict[str, Any] | str:
    """The record, or the reason why the line has none."""
    if len(line) > _LONGEST_LINE:
        return f"longer than {_LONGEST_LINE:,} characters"
    if as_json is not None:
        with suppress(ValueError, RecursionError):
            return _dict(json.loads(as_json))
    try:
        return _dict(ast.literal_eval(line))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        return f"not a Python literal ({type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''})"


def _dict(record: object) -> dict[str, Any] | str:
    return record if isinstance(record, dict) else "not a dict"

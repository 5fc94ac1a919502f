"""Delimited text files read line by line: a malformed line is counted and listed, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.malformed import stop_above_limit
from gemsbench.errors import InputError

INTEGER = r"[0-9]+"
DECIMAL = r"[0-9]+(?:\.[0-9]+)?"
_NOT_UTF8 = "\x00"  # stands for a whole line; no field may contain it
_QUOTED = r'"(?:[^"]|"")*"'


@dataclass(frozen=True)
class Delimited:
    """A parsed file: columns of text, and its malformed lines as "file:line: reason"."""

    table: pl.DataFrame
    skipped: tuple[str, ...]


def read_delimited(path: Path, separator: str, columns: Mapping[str, str], *, quoted: bool = False) -> Delimited:
    """Read the named columns of a utf-8 file with a header line, as text.

    columns: name -> regular expression of a valid value ("" for any text). quoted: values may stand in double quotes.
    Raises InputError when the file or a column is missing or more than 0.1 % of its lines are malformed.
    """
    lines = _lines(path)
    header = lines[0].split(separator) if len(lines) else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(
            f"{path}: missing columns {', '.join(missing)}. Its first line has: {', '.join(header) or '(nothing)'}."
        )
    free = f'{_QUOTED}|[^{separator}"\\x00]*' if quoted else f"[^{separator}\\x00]*"
    fields = (f"(?P<f{n}>{columns.get(name) or free})" for n, name in enumerate(header))
    pattern = f"^{separator.join(fields)}$"
    table = (
        lines[1:]
        .to_frame("line")
        .select(
            pl.int_range(2, pl.len() + 2).alias("number"),
            pl.col("line").str.contains(pattern).alias("ok"),
            pl.col("line").str.extract_groups(pattern).alias("fields"),
        )
    )
    bad = table.filter(~pl.col("ok"))["number"].to_list()
    skipped = tuple(f"{path.name}:{number}: not {len(header)} valid values" for number in bad)
    stop_above_limit(path, len(skipped), table.height, skipped)
    values = table.filter("ok").unnest("fields")
    parsed = values.select(pl.col(f"f{header.index(name)}").alias(name) for name in columns)
    return Delimited(_unquoted(parsed) if quoted else parsed, skipped)


def _lines(path: Path) -> pl.Series:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Run `gemsbench data fetch` for this recipe first.")
    content = path.read_bytes()
    try:
        rows = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        rows = [_decoded(row) for row in content.split(b"\n")]
    if rows[-1] == "":
        rows.pop()
    return pl.Series("line", rows, dtype=pl.String).str.strip_suffix("\r")


def _decoded(row: bytes) -> str:
    try:
        return row.decode("utf-8")
    except UnicodeDecodeError:
        return _NOT_UTF8


def _unquoted(table: pl.DataFrame) -> pl.DataFrame:
    def value(column: str) -> pl.Expr:
        text = pl.col(column)
        inner = text.str.slice(1, text.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
        return pl.when(text.str.starts_with('"')).then(inner).otherwise(text).alias(column)

    return table.select(value(column) for column in table.columns)

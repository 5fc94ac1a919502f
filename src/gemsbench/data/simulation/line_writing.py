"""Lines of JSON and of Python literals made column-wise, and gzip files whose bytes depend on the lines only."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import polars as pl

from gemsbench.files import atomic_path

Part: TypeAlias = "str | pl.Expr"  # fixed text, or a column
_LEVEL = 4  # half the time of the usual 6, a few percent larger


def join(*parts: Part) -> pl.Expr:
    """The parts one after the other, as text."""
    return pl.concat_str([pl.lit(part) if isinstance(part, str) else part for part in parts])


def json_text(column: pl.Expr) -> pl.Expr:
    """The text as a JSON string."""
    return join('"', column.str.replace_many(["\\", '"', "\n"], ["\\\\", '\\"', "\\n"]), '"')


def literal_text(column: pl.Expr) -> pl.Expr:
    """The text as Python's repr writes it: in double quotes where it holds an apostrophe and no double quote."""
    escaped = column.str.replace_many(["\\", "\n", "\t", "®"], ["\\\\", "\\n", "\\t", "\\xae"])
    in_single = join("'", escaped.str.replace_all("'", "\\'", literal=True), "'")
    apostrophe_only = column.str.contains("'", literal=True) & ~column.str.contains('"', literal=True)
    return pl.when(apostrophe_only).then(join('"', escaped, '"')).otherwise(in_single)


def write_lines(path: Path, chunks: Iterable[pl.Series]) -> int:
    """Write the lines of every chunk (str) to path, whole or not at all; returns the number of lines."""
    count = 0
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0) as handle,
    ):
        for lines in chunks:
            count += lines.len()
            handle.write(("\n".join(lines.to_list()) + "\n").encode())
    return count

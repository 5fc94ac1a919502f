"""The one model of a printed table; the writers (LaTeX, Markdown, HTML, JSON) only walk over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NOT_RUN = "--"  # printed for a method that is not built or was not run

Style = Literal["", "best", "second"]


@dataclass(frozen=True)
class Cell:
    """One number as printed; details are JSON values that stand behind it (unrounded value, n, seeds, run folders)."""

    text: str
    style: Style = ""
    star: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line: its name and one cell per column."""

    name: str
    cells: tuple[Cell, ...]
    grey: bool = False  # printed in the paper, not measured here


@dataclass(frozen=True)
class Block:
    """Lines between two rules; the label spans them in the first of two stub columns ("" where there is one)."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ColumnGroup:
    """Columns under one spanning heading ("" for none); short stands before each column where headings cannot span."""

    label: str
    columns: tuple[str, ...]
    short: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; all text is plain, each writer escapes it."""

    name: str  # stem of the files
    title: str  # "Table 1"
    caption: str
    stub: tuple[str, ...]  # headings of the one or two columns left of the numbers
    groups: tuple[ColumnGroup, ...]
    blocks: tuple[Block, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of columns with cells."""
        return sum(len(group.columns) for group in self.groups)

    @property
    def grouped(self) -> bool:
        """Whether any heading spans columns."""
        return any(group.label for group in self.groups)

    def rows(self) -> Iterator[tuple[Block, Row]]:
        """Every line with its block, top to bottom."""
        for block in self.blocks:
            for row in block.rows:
                yield block, row

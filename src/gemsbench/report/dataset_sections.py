"""Statistics of a dataset as titled lists of lines: aligned text for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tabulate import tabulate

from gemsbench.report.markdown import escape

# size: a count, or a density in percent
Kind: TypeAlias = Literal["text", "count", "share", "ratio", "metric", "mean", "size"]
Value: TypeAlias = str | int | float | None

WIDEST = 46  # characters of a text column; longer ones wrap
_FORMATS: dict[Kind, str] = {
    "count": ",",
    "share": ".2%",
    "ratio": ".3f",
    "metric": ".4f",
    "mean": ",.2f",
}


@dataclass(frozen=True)
class Column:
    """One column; name is its key in JSON, heading (by default the name) may have several lines."""

    name: str
    kind: Kind
    heading: str = ""


@dataclass(frozen=True)
class Section:
    """Lines with one value per column (None where there is none), and remarks below them."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()


def as_text(sections: Iterable[Section]) -> str:
    """Every section with its title, in columns."""
    return "\n\n".join(_text(section) for section in sections) + "\n"


def as_json(sections: Iterable[Section], **about: Any) -> str:
    """One JSON object: about, then name of the section -> {rows: [{column: value}], notes}; values are not rounded."""
    told: dict[str, Any] = dict(about)
    for section in sections:
        names = [column.name for column in section.columns]
        rows = [dict(zip(names, row, strict=True)) for row in section.rows]
        told[section.name] = {"rows": rows, "notes": list(section.notes)}
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(section: Section, level: int) -> str:
    """A section under a heading of this level, its lines as a Markdown table."""
    parts = [f"{'#' * level} {escape(section.title)}"]
    if section.rows:
        columns = [dataclasses.replace(c, heading=(c.heading or c.name).replace("\n", " ")) for c in section.columns]
        parts.append(_grid(columns, section.rows, "pipe"))
    return "\n\n".join([*parts, *(escape(note) for note in section.notes)])


def printed(value: Value, kind: Kind) -> str:
    """A value as text: thousands separators, percent signs; "" for None; a text in any column stays as it is."""
    if value is None:
        return ""
    if kind == "text" or isinstance(value, str):
        return str(value)
    if kind == "size":
        return f"{value:,}" if isinstance(value, int) else f"{value:.5f}%"
    return format(value, _FORMATS[kind])


def _text(section: Section) -> str:
    lines = [section.title]
    if section.rows:
        lines.append(_grid(section.columns, section.rows))
    lines += [f"  {note}" for note in section.notes]
    return "\n".join(lines)


def _grid(
    columns: Sequence[Column], rows: Sequence[Sequence[Value]], form: Literal["simple", "pipe"] = "simple"
) -> str:
    cells = [[printed(value, column.kind) for value, column in zip(row, columns, strict=True)] for row in rows]
    headers = [column.heading or column.name for column in columns]
    if form == "pipe":
        cells, headers = [[escape(cell) for cell in row] for row in cells], [escape(header) for header in headers]
    left = [column.kind == "text" for column in columns]
    return tabulate(
        cells,
        headers=headers,
        tablefmt=form,
        disable_numparse=True,
        colalign=["left" if text else "right" for text in left],
        # A Markdown reader wraps by itself.
        maxcolwidths=[WIDEST if text and form == "simple" else None for text in left],
    )

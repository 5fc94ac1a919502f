"""Markdown through tabulate: one header line, so that every Markdown reader shows it."""

from __future__ import annotations

import re

from tabulate import tabulate

from gemsbench.report.table import Cell, Row, Table


def escape(text: str) -> str:
    """Plain text as Markdown text."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)


def render(table: Table) -> str:
    """The table with its caption above, as the text of a .md file."""
    columns = [escape(f"{group.short} {name}".strip()) for group in table.groups for name in group.columns]
    lines = []
    for block in table.blocks:
        for index, row in enumerate(block.rows):
            label = [escape(block.label) if index == 0 else ""] if len(table.stub) == 2 else []
            lines.append([*label, _grey(escape(row.name), row), *(_grey(_cell(cell), row) for cell in row.cells)])
    body = tabulate(
        lines,
        headers=[*(escape(name) for name in table.stub), *columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left"] * len(table.stub) + ["right"] * table.width,
    )
    return f"**{escape(table.title)}.** {escape(table.caption)}\n\n{body}\n"


def _cell(cell: Cell) -> str:
    text = escape(cell.text) + (r"\*" if cell.star else "")
    if cell.style == "best":
        return f"**{text}**"
    return f"<u>{text}</u>" if cell.style == "second" else text


def _grey(text: str, row: Row) -> str:
    return f"*{text}*" if row.grey else text

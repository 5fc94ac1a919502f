"""LaTeX: a table* without preamble; it needs booktabs, graphicx (shrinks wide tables), multirow and xcolor (grey)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gemsbench.report.table import Cell, Row, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}

SHRINK = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"  # never enlarges


def escape(text: str) -> str:
    """Plain text as LaTeX text."""
    return re.sub("[" + re.escape("".join(SPECIAL)) + "]", lambda match: SPECIAL[match[0]], text)


def render(table: Table) -> str:
    """The table as the text of a .tex file, to be included in a document that has its own preamble."""
    align = "c" if table.grouped else "r"
    columns = "l" * len(table.stub) + " ".join(align * len(group.columns) for group in table.groups)
    lines = [
        f"% {table.title}. Needs \\usepackage{{booktabs,graphicx,multirow,xcolor}}. Generated; do not edit.",
        r"\begin{table*}[t]",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\small\setlength{\tabcolsep}{3.5pt}",
        SHRINK,
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_head(table),
        *_body(table),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _head(table: Table) -> Iterator[str]:
    columns = [escape(name) for group in table.groups for name in group.columns]
    if not table.grouped:
        yield _line([*(escape(name) for name in table.stub), *columns])
        return
    spans = [
        rf"\multicolumn{{{len(group.columns)}}}{{c}}{{{escape(group.label)}}}"
        if group.label
        else " & ".join([""] * len(group.columns))
        for group in table.groups
    ]
    yield _line([*(rf"\multirow{{2}}{{*}}{{{escape(name)}}}" for name in table.stub), *spans])
    yield "".join(_rules(table))
    yield _line([*[""] * len(table.stub), *columns])


def _rules(table: Table) -> Iterator[str]:
    left = len(table.stub) + 1
    for group in table.groups:
        right = left + len(group.columns) - 1
        if group.label:
            yield rf"\cmidrule(lr){{{left}-{right}}}"
        left = right + 1


def _body(table: Table) -> Iterator[str]:
    for block in table.blocks:
        yield r"\midrule"
        for index, row in enumerate(block.rows):
            label = rf"\multirow{{{len(block.rows)}}}{{*}}{{{escape(block.label)}}}" if index == 0 else ""
            stub = [label, _grey(escape(row.name), row)] if len(table.stub) == 2 else [_grey(escape(row.name), row)]
            yield _line([*stub, *(_grey(_cell(cell), row) for cell in row.cells)])


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text) + ("*" if cell.star else "")
    if cell.style == "best":
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if cell.style == "second" else text


def _grey(text: str, row: Row) -> str:
    return rf"\textcolor{{gray}}{{{text}}}" if row.grey else text

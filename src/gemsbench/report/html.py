"""HTML: self-contained pages that open anywhere; hovering over a number shows what stands behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from gemsbench.report.table import Cell, Row, Table

STYLE = """
:root { color-scheme: light dark; --rule: #444; --thin: #bbb; --grey: #6b6b6b; --shade: #00000008; }
@media (prefers-color-scheme: dark) { :root { --rule: #aaa; --thin: #555; --grey: #9a9a9a; --shade: #ffffff0d; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 92rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: 1.2rem; }
section { margin: 2.5rem 0; }
.scroll { overflow-x: auto; }
table { font-size: 14px; border-collapse: collapse; }
table { border-top: 2px solid var(--rule); border-bottom: 2px solid var(--rule); }
.caption { max-width: 60rem; margin: 0 0 .6rem; }
th, td { padding: .18rem .55rem; text-align: left; font-weight: normal; white-space: nowrap; }
thead th { vertical-align: bottom; }
thead th.number, td { text-align: right; font-variant-numeric: tabular-nums; }
thead th.group { text-align: center; border-bottom: 1px solid var(--thin); }
thead th[rowspan], thead tr:last-child th, tbody.block tr:last-child > * { border-bottom: 1px solid var(--rule); }
tbody th.block { vertical-align: middle; padding-right: 1rem; border-bottom: 1px solid var(--rule); }
tbody tr:hover td, tbody tr:hover th.row { background: var(--shade); }
strong { font-weight: 700; }
.star { display: inline-block; width: 0; }
u { text-underline-offset: .18em; }
tr.grey > * { color: var(--grey); }
details > summary { cursor: pointer; color: var(--grey); }
""".strip()


def page(title: str, tables: Sequence[Table], printed: Sequence[Table] = ()) -> str:
    """A page with tables; the paper's printed tables follow, folded. No script, nothing loaded from elsewhere."""
    links = "".join(f'<a href="#{escape(table.name)}">{escape(table.title)}</a>' for table in tables)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}\n</style></head>",
        f"<body>\n<h1>{escape(title)}</h1>",
        *([f"<nav>{links}</nav>"] if len(tables) > 1 else []),
        *(_section(table) for table in tables),
        *(
            f"<details><summary>{escape(table.title)}, as printed</summary>\n{_section(table)}\n</details>"
            for table in printed
        ),
        "</body>\n</html>",
    ]
    return "\n".join(parts) + "\n"


def render(table: Table) -> str:
    """A page with one table, as the text of a .html file."""
    return page(table.title, [table])


def _section(table: Table) -> str:
    caption = f'<p class="caption"><b>{escape(table.title)}.</b> {escape(table.caption)}</p>'
    head = "\n".join(_head(table))
    body = "\n".join(_body(table))
    grid = f"<table>\n<thead>\n{head}\n</thead>\n{body}\n</table>"
    return f'<section id="{escape(table.name)}">\n{caption}\n<div class="scroll">\n{grid}\n</div>\n</section>'


def _head(table: Table) -> Iterator[str]:
    rows = 2 if table.grouped else 1
    stub = "".join(f'<th scope="col" rowspan="{rows}">{escape(name)}</th>' for name in table.stub)
    columns = "".join(
        f'<th scope="col" class="number">{escape(name)}</th>' for group in table.groups for name in group.columns
    )
    if not table.grouped:
        yield f"<tr>{stub}{columns}</tr>"
        return
    groups = "".join(
        f'<th scope="colgroup" class="group" colspan="{len(group.columns)}">{escape(group.label)}</th>'
        for group in table.groups
    )
    yield f"<tr>{stub}{groups}</tr>"
    yield f"<tr>{columns}</tr>"


def _body(table: Table) -> Iterator[str]:
    for block in table.blocks:
        yield '<tbody class="block">'
        for index, row in enumerate(block.rows):
            label = ""
            if index == 0 and len(table.stub) == 2:
                label = f'<th scope="rowgroup" class="block" rowspan="{len(block.rows)}">{escape(block.label)}</th>'
            yield _row(row, label)
        yield "</tbody>"


def _row(row: Row, label: str) -> str:
    grey = ' class="grey"' if row.grey else ""
    cells = "".join(_cell(cell) for cell in row.cells)
    return f'<tr{grey}>{label}<th scope="row" class="row">{escape(row.name)}</th>{cells}</tr>'


def _cell(cell: Cell) -> str:
    text = escape(cell.text) + ('<span class="star">*</span>' if cell.star else "")
    if cell.style == "best":
        text = f"<strong>{text}</strong>"
    elif cell.style == "second":
        text = f"<u>{text}</u>"
    behind = "; ".join(_facts(cell))
    title = f' title="{escape(behind)}"' if behind else ""
    return f"<td{title}>{text}</td>"


def _ends(stopped: Sequence[str | None]) -> Iterator[str]:
    """What ended the training, one value per seed."""
    for end, words in (("epochs", "its cap of epochs"), ("steps", "its cap of steps"), ("patience", "validation")):
        seeds = stopped.count(end)
        if seeds:
            share = f" in {seeds} of {len(stopped)} seeds" if seeds < len(stopped) else ""
            yield f"training stopped by {words}{share}"


def _facts(cell: Cell) -> Iterator[str]:
    """What hovering shows."""
    details = cell.details
    if "value" in details:
        yield f"{details['value']:.10g}"
    if details.get("sd") is not None:
        yield f"sd {details['sd']:.4g} over {len(details['seeds'])} seeds"
    if details.get("stopped"):
        yield from _ends(details["stopped"])
    if "tie_rate" in details:
        yield f"{details['tie_rate']:.4f} of the cases tie; in random order {details['expected_under_random_ties']:.4f}"
    if "n" in details:
        yield f"{details['n']:,} cases"
    if "p_best_vs_second" in details:
        yield f"p = {details['p_best_vs_second']:.3g} against the second best"
    yield from details.get("runs", ())

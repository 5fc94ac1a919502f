"""JSON: every cell with its unrounded value and what stands behind it."""

from __future__ import annotations

import json
from typing import Any

from gemsbench.report.table import Cell, Table


def record(table: Table) -> dict[str, Any]:
    """The table as JSON values; columns and rows in printed order."""
    columns = [{"group": group.label, "name": name} for group in table.groups for name in group.columns]
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        **table.details,
        "columns": columns,
        "rows": [
            {
                "block": block.label,
                "name": row.name,
                "printed_in_paper": row.grey,
                "cells": [_cell(cell) for cell in row.cells],
            }
            for block, row in table.rows()
        ],
    }


def render(table: Table) -> str:
    """The table as the text of a .json file (sorted keys, two spaces)."""
    return json.dumps(record(table), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _cell(cell: Cell) -> dict[str, Any]:
    return {"printed": cell.text, "mark": cell.style, "star": cell.star, **cell.details}

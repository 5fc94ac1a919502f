"""The sizes of a dataset, counted the two ways in which Table 4 of arXiv 2601.09496 can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemsbench.data.recipe import Recipe
from gemsbench.data.schema import TASKS
from gemsbench.report.published import read_published

QUANTITIES = ("users", "items", "inter_src", "inter_rec", "density_src", "density_rec")
_TABLE_4 = "Table 4: "  # stages of a released recipe, counted as that table counts


def counted_in_cases(statistics: Mapping[str, Any]) -> dict[str, float]:
    """The sizes of a recipe as Table 4 seems to count: what occurs in cases, and the number of cases per task.

    A released recipe brings counts of its own, made of entries instead of items. Densities are percent, as there.
    """
    funnel, names = statistics["funnel"], QUANTITIES[:4]
    told = {name: funnel[_TABLE_4 + name] for name in names if _TABLE_4 + name in funnel}
    counts: dict[str, float] = told if len(told) == len(names) else dict(statistics["in_cases"])
    cells = counts["users"] * counts["items"]
    for task in TASKS:
        counts[f"density_{task}"] = 100.0 * counts[f"inter_{task}"] / cells if cells else 0.0
    return counts


def printed_in_paper(recipe: Recipe) -> Mapping[str, Any] | None:
    """The dataset's row in Table 4, None where the paper has none."""
    rows = read_published("table4").filter(dataset=recipe.paper_row)
    return rows.row(0, named=True) if recipe.paper_row and rows.height else None

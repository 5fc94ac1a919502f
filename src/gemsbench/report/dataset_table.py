"""Table 4: what the data of each recipe looks like, beside what the paper prints (arXiv 2601.09496)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemsbench import files
from gemsbench.data.recipe import Recipe
from gemsbench.errors import InputError
from gemsbench.profile import Profile
from gemsbench.registry import RECIPES, resolve
from gemsbench.report.captions import PAPER, SizeRows, column_heading, columns_of, dataset_caption
from gemsbench.report.dataset_sizes import counted_in_cases
from gemsbench.report.published import read_published
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Table

LEAKS = "upstream_leak_rate"
OWN_LEAKS = "leak_rate"  # share of cases whose target stands in their own history
COLUMNS = {
    "users": "#User",
    "items": "#Item",
    "inter_src": "#Inter-S",
    "inter_rec": "#Inter-R",
    "density_src": "Density-S",
    "density_rec": "Density-R",
}


def dataset_table(profile: Profile, folder: Path) -> Table:
    """Build Table 4 from prepared/<recipe>/stats.json of every recipe below folder = results/<profile>.

    A recipe that stands for a dataset of the paper has a second row, counted as the paper's table seems to count.
    """
    printed = {record["dataset"]: record for record in read_published("table4").iter_rows(named=True)}
    named = columns_of(profile)
    named |= {recipe: recipe for recipe in profile.recipes if recipe not in named.values()}
    blocks: list[Block] = []
    leaks: dict[str, float] = {}
    released: dict[str, float] = {}
    in_cases: dict[str, str] = {}
    for label, name in named.items():
        path = folder / "prepared" / name / "stats.json"
        recipe: Recipe = resolve(RECIPES[name])
        heading, stats = column_heading(label, name), _read(path, recipe)
        source = {"recipe": name, "file": _below(path, folder)}
        rows = [_row(heading, stats, source)]
        if recipe.released:
            released[heading] = float(stats[OWN_LEAKS]["src"]["test"])
        else:
            leaks[heading] = float(stats[LEAKS]["all"])
        if recipe.paper_row:
            rows.append(_row(f"{heading}, in cases", counted_in_cases(stats), {**source, "counted": "in cases"}))
            in_cases[heading] = recipe.paper_row
        paper = recipe.paper_row or label
        if paper in printed:
            rows.append(_row(f"{paper} (printed in the paper)", printed[paper], {"source": PAPER}, grey=True))
        blocks.append(Block("", tuple(rows)))
    return Table(
        name="table4",
        title="Table 4",
        caption=dataset_caption(profile, SizeRows(leaks, released, in_cases)),
        stub=("Dataset",),
        groups=(ColumnGroup("", tuple(COLUMNS.values())),),
        blocks=tuple(blocks),
        details={
            "profile": profile.profile,
            "comparable_with_paper": profile.comparable_with_paper,
            LEAKS: leaks,
            **({OWN_LEAKS: released} if released else {}),
        },
    )


def _read(path: Path, recipe: Recipe) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make it: snakemake --cores all {path}")
    stats: Mapping[str, Any] = files.read_json(path)
    needed = (*COLUMNS, OWN_LEAKS if recipe.released else LEAKS, *(("in_cases", "funnel") if recipe.paper_row else ()))
    missing = [key for key in needed if key not in stats]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} in it. Delete it and prepare the recipe again.")
    return stats


def _row(name: str, values: Mapping[str, Any], details: Mapping[str, Any], grey: bool = False) -> Row:
    cells = (
        Cell(_printed(key, values[key]), details={**details, "quantity": key, "value": values[key]}) for key in COLUMNS
    )
    return Row(name, tuple(cells), grey)


def _printed(key: str, value: float) -> str:
    return f"{value:.5f}%" if key.startswith("density") else f"{value:,}"


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()

"""Table 4: what the data of each recipe looks like, beside what the paper prints (arXiv 2601.09496)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.profile import Profile
from gemsbench.report.captions import PAPER, column_heading, columns_of, dataset_caption
from gemsbench.report.published import read_published
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Table

LEAKS = "upstream_leak_rate"
COLUMNS = {
    "users": "#User",
    "items": "#Item",
    "inter_src": "#Inter-S",
    "inter_rec": "#Inter-R",
    "density_src": "Density-S",
    "density_rec": "Density-R",
}


def dataset_table(profile: Profile, folder: Path) -> Table:
    """Build Table 4 from prepared/<recipe>/stats.json of every recipe below folder = results/<profile>."""
    printed = {record["dataset"]: record for record in read_published("table4").iter_rows(named=True)}
    named = columns_of(profile)
    named |= {recipe: recipe for recipe in profile.recipes if recipe not in named.values()}
    blocks, leaks = [], {}
    for label, recipe in named.items():
        path = folder / "prepared" / recipe / "stats.json"
        heading, stats = column_heading(label, recipe), _read(path)
        leaks[heading] = float(stats[LEAKS]["all"])
        rows = [_row(heading, stats, {"recipe": recipe, "file": _below(path, folder)})]
        if label in printed:
            source = {"source": PAPER}
            rows.append(_row(f"{label} (printed in the paper)", printed[label], source, grey=True))
        blocks.append(Block("", tuple(rows)))
    return Table(
        name="table4",
        title="Table 4",
        caption=dataset_caption(profile, leaks),
        stub=("Dataset",),
        groups=(ColumnGroup("", tuple(COLUMNS.values())),),
        blocks=tuple(blocks),
        details={"profile": profile.profile, "comparable_with_paper": profile.comparable_with_paper, LEAKS: leaks},
    )


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make it: snakemake --cores all {path}")
    stats: Mapping[str, Any] = files.read_json(path)
    missing = [key for key in (*COLUMNS, LEAKS) if key not in stats]
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

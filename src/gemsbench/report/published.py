"""The numbers printed in the paper (arXiv 2601.09496), read from results/published/*.csv."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from gemsbench.errors import InputError
from gemsbench.report.captions import PAPER
from gemsbench.report.rows import METRICS, TASK_NAMES, ComparisonRows
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Style, Table

DATASETS = ("Qilin", "Amazon")
STYLES: dict[str, Style] = {"": "", "best": "best", "best*": "best", "second": "second"}


def published_folder() -> Path:
    """The folder of the CSV files: in an installed package beside this file, else in the checkout."""
    inside, checkout = Path(__file__).parent / "published", Path(__file__).parents[3] / "results" / "published"
    for folder in (inside, checkout):
        if folder.is_dir():
            return folder
    raise InputError(f"{checkout}: no such folder. The paper's printed numbers are part of the repository; restore it.")


def read_published(name: str) -> pl.DataFrame:
    """One of table1, table2 (task, method, dataset, metric, value, mark) or table4; raises InputError."""
    path = published_folder() / f"{name}.csv"
    try:
        return pl.read_csv(path).with_columns(pl.col(pl.String).fill_null(""))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not readable ({error}). Restore it from the repository.") from error


def published_comparison(rows: ComparisonRows) -> Table:
    """Table 1 or 2 as printed in the paper, its marks included."""
    cells = {
        (record["task"], record["method"], record["dataset"], record["metric"]): Cell(
            f"{record['value']:.4f}", STYLES[record["mark"]], record["mark"] == "best*", {"value": record["value"]}
        )
        for record in read_published(rows.name).iter_rows(named=True)
    }
    blocks = (
        Block(
            TASK_NAMES[task],
            tuple(Row(name, tuple(cells[task, name, d, m] for d in DATASETS for m in METRICS)) for name in names),
        )
        for task, names in rows.tasks.items()
    )
    return Table(
        name=f"{rows.name}-printed",
        title=f"{rows.title} of the paper",
        caption=f"As printed in {PAPER}, backbone {rows.backbone}. Nothing here was measured by this repository.",
        stub=("Task", "Method"),
        groups=tuple(ColumnGroup(dataset, tuple(METRICS.values()), dataset) for dataset in DATASETS),
        blocks=tuple(blocks),
    )

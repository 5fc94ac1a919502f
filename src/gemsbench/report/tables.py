"""Writes Tables 1, 2 and 4 and the appendix table of a profile in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemsbench import files
from gemsbench.profile import Profile
from gemsbench.report import html, latex, markdown, table_json
from gemsbench.report.comparison_table import comparison_table
from gemsbench.report.dataset_table import dataset_table
from gemsbench.report.published import published_comparison
from gemsbench.report.rows import TABLE_1, TABLE_2
from gemsbench.report.run_results import load_results
from gemsbench.report.sanity_table import sanity_table
from gemsbench.report.table import Table

FORMATS: dict[str, Callable[[Table], str]] = {
    "tex": latex.render,
    "md": markdown.render,
    "html": html.render,
    "json": table_json.render,
}


def build_tables(profile: Profile, results: Path) -> list[Table]:
    """The tables of a profile from results = results/<profile>; raises InputError and CheckError (see load_results)."""
    measured = load_results(profile, results)
    return [
        comparison_table(profile, TABLE_1, measured),
        comparison_table(profile, TABLE_2, measured),
        dataset_table(profile, results),
        sanity_table(profile, measured),
    ]


def write_tables(profile: Profile, results: Path, out: Path) -> list[Path]:
    """Write {table1,table2,table4,sanity}.{tex,md,html,json} and index.html into out; returns the paths.

    Only runs that the profile lists are read, below results = results/<profile>. Everything is computed before the
    first file is written, so an error leaves the old files alone; each file is replaced whole.
    """
    tables = build_tables(profile, results)
    printed = [published_comparison(TABLE_1), published_comparison(TABLE_2)]
    texts = {out / f"{table.name}.{suffix}": write(table) for table in tables for suffix, write in FORMATS.items()}
    texts[out / "index.html"] = html.page(f"gemsbench tables, profile {profile.profile}", tables, printed)
    for path, text in texts.items():
        files.write_text(path, text)
    return list(texts)

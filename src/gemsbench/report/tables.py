"""Writes Tables 1, 2 and 4, the appendix table and that of identifiers of a profile in every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.profile import Profile, encoders_in_use, identifiers_in_use
from gemsbench.report import html, latex, markdown, table_json
from gemsbench.report.comparison_table import comparison_table
from gemsbench.report.dataset_table import dataset_table
from gemsbench.report.identifiers_table import identifiers_table
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
        identifiers_table(
            profile,
            _statistics(results / "identifiers", identifiers_in_use(profile)),
            _statistics(results / "encoders", encoders_in_use(profile)),
        ),
    ]


def _statistics(folder: Path, made: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Recipe -> name -> stats.json of what was made below the folder; raises InputError for a missing file."""
    found: dict[str, dict[str, Any]] = {}
    for recipe, name in made:
        path = folder / recipe / name / "stats.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file. Make it: snakemake --cores all {path}")
        found.setdefault(recipe, {})[name] = files.read_json(path)
    return found


def write_tables(profile: Profile, results: Path, out: Path) -> list[Path]:
    """Write {table1,table2,table4,sanity,identifiers}.{tex,md,html,json} and index.html into out; returns the paths.

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

"""Table 4: recipes that stand for a dataset of the paper have a second count beside the paper's own row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.profile import Profile, TableSettings
from gemsbench.report.dataset_table import dataset_table
from gemsbench.report.table import Row, Table
from gemsbench.report.tables import FORMATS

AMAZON, REFERENCE, QILIN = "electronics-2014", "qilin-reference", "simulated-qilin"
SIZES = {
    "users": 192_403,
    "items": 63_001,
    "inter_src": 1_000,
    "inter_rec": 2_000,
    "density_src": 1.0,
    "density_rec": 2.0,
}
STATS: Mapping[str, Any] = {
    **SIZES,
    "in_cases": {"users": 100, "items": 50, "inter_src": 10, "inter_rec": 20},
    "funnel": {},
    "leak_rate": {"rec": {"test": 0.03}, "src": {"test": 0.251}},
}
PAPER_COUNTS = {"users": 3_816, "items": 275_515, "inter_src": 16_626, "inter_rec": 101_085}


@pytest.fixture
def real(profile: Profile, tmp_path: Path) -> tuple[Profile, Path]:
    """Amazon is a real recipe, Qilin a simulated one, and a released one stands beside them."""
    columns = {"Qilin": QILIN, "Amazon": AMAZON}
    made = dataclasses.replace(
        profile,
        recipes={QILIN: {}, AMAZON: {}, REFERENCE: {}},
        methods={},
        tables=TableSettings(columns=columns, extra_columns={"Released": REFERENCE}),
        comparable_with_paper=True,
    )
    write(tmp_path, QILIN, {**SIZES, "upstream_leak_rate": {"all": 0.11}})
    write(tmp_path, AMAZON, {**STATS, "upstream_leak_rate": {"all": 0.34}})
    funnel = {f"Table 4: {name}": value for name, value in PAPER_COUNTS.items()}
    write(tmp_path, REFERENCE, {**STATS, "funnel": funnel})
    return made, tmp_path


def write(folder: Path, recipe: str, stats: Mapping[str, Any]) -> None:
    files.write_json(folder / "prepared" / recipe / "stats.json", stats)


def rows_of(table: Table) -> list[Row]:
    return [row for _, row in table.rows()]


def texts(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def test_rows_and_their_counts(real: tuple[Profile, Path]) -> None:
    rows = rows_of(dataset_table(*real))
    assert [(row.name, row.grey) for row in rows] == [
        ("Qilin (simulated-qilin)", False),
        ("Qilin (printed in the paper)", True),
        ("Amazon (electronics-2014)", False),
        ("Amazon (electronics-2014), in cases", False),
        ("Amazon (printed in the paper)", True),
        ("Released (qilin-reference)", False),
        ("Released (qilin-reference), in cases", False),
        ("Qilin (printed in the paper)", True),
    ]
    assert texts(rows[2])[:2] == ["192,403", "63,001"]
    assert texts(rows[3]) == ["100", "50", "10", "20", "0.20000%", "0.40000%"]
    assert texts(rows[6])[:4] == texts(rows[7])[:4] == ["3,816", "275,515", "16,626", "101,085"]
    assert rows[3].cells[0].details["counted"] == "in cases"


def test_the_caption_says_what_the_second_count_and_the_leaks_are(real: tuple[Profile, Path]) -> None:
    caption = dataset_table(*real).caption
    assert "Rows 'in cases' count as the paper's table seems to" in caption
    assert "#User and #Item of Amazon are very likely exchanged" in caption
    assert "11.0% of Qilin (simulated-qilin), 34.0% of Amazon (electronics-2014); here none." in caption
    assert "item stands in their own history: 25.1% of Released (qilin-reference)." in caption
    assert "not the paper's" not in caption


def test_without_such_recipes_nothing_is_added(real: tuple[Profile, Path]) -> None:
    profile, folder = real
    small = dataclasses.replace(profile, recipes={QILIN: {}}, tables=TableSettings(columns={"Qilin": QILIN}))
    table = dataset_table(small, folder)
    assert len(rows_of(table)) == 2
    assert "in cases" not in table.caption and "released" not in table.caption
    assert set(table.details) == {"profile", "comparable_with_paper", "upstream_leak_rate"}


def test_only_released_recipes_claim_no_clean_histories(real: tuple[Profile, Path]) -> None:
    profile, folder = real
    alone = dataclasses.replace(profile, recipes={REFERENCE: {}}, tables=TableSettings(columns={"Qilin": REFERENCE}))
    caption = dataset_table(alone, folder).caption
    assert "Rows 'in cases'" in caption
    assert "here none" not in caption and "exchanged" not in caption


def test_every_format_prints_the_rows(real: tuple[Profile, Path]) -> None:
    table = dataset_table(*real)
    for write_as in FORMATS.values():
        assert "in cases" in write_as(table)
    assert r"\textcolor{gray}{158,296}" in FORMATS["tex"](table)


@pytest.mark.parametrize(("recipe", "key"), [(AMAZON, "in_cases"), (AMAZON, "upstream_leak_rate"), (QILIN, "users")])
def test_statistics_of_an_earlier_version_are_refused(real: tuple[Profile, Path], recipe: str, key: str) -> None:
    profile, folder = real
    path = folder / "prepared" / recipe / "stats.json"
    files.write_json(path, {name: value for name, value in files.read_json(path).items() if name != key})
    with pytest.raises(InputError, match=f"no {key} in it"):
        dataset_table(profile, folder)

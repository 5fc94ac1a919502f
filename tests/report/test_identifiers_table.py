"""The table of identifiers: every number from the statistics of real code tables, and no claim beyond them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ItemCodes
from gemsbench.identifiers.collisions import append_level
from gemsbench.identifiers.scheme import Identifiers, RawCodes
from gemsbench.identifiers.statistics import identifier_statistics
from gemsbench.profile import Profile
from gemsbench.report import html, latex, markdown, table_json
from gemsbench.report.identifiers_table import identifiers_table
from gemsbench.report.table import Table

ITEMS = pl.DataFrame({"item_id": range(1, 7), "raw_id": [f"B{number}" for number in range(6)]})
TOLD = {"ndcg@10": 0.31416, "chance": 0.04543, "n": 321}


def padded(rows: list[list[int]]) -> np.ndarray:
    return np.array([[-1] * len(rows[0]), *rows], np.int32)


def appended() -> dict[str, Any]:
    """Statistics of six items whose two levels tell three apart, five after the scheme's policy."""
    quantised = RawCodes(padded([[0, 0], [0, 0], [0, 0], [1, 2], [1, 2], [1, 3]]), (4, 4))
    resolved = RawCodes(padded([[0, 0], [0, 1], [0, 0], [1, 2], [1, 0], [1, 3]]), (4, 4))
    return identifier_statistics(Identifiers(append_level(resolved, ITEMS, "letter"), quantised, resolved))


def alone(size: int = 1200) -> dict[str, Any]:
    """Statistics of one token per item."""
    codes = np.arange(-1, size, dtype=np.int32)[:, None]
    return identifier_statistics(Identifiers(ItemCodes("atomic", codes, (size,))))


def vectors(**more: Any) -> dict[str, Any]:
    return {"encoder": "item-text", "known": 450, "n_items": 600, "width": 64, "tells": {"rec": TOLD}, **more}


@pytest.fixture
def table(profile: Profile) -> Table:
    """Two schemes and two encoders on one recipe, one scheme on the other."""
    schemes = {
        "simulated-amazon": {"atomic": alone(), "letter": appended()},
        "simulated-qilin": {"atomic": alone(7)},
    }
    both = vectors(tells_src={"ndcg@10": 0.2, "chance": 0.1, "n": 4})
    return identifiers_table(profile, schemes, {"simulated-amazon": {"item-text": vectors(), "bi-encoder": both}})


def printed(table: Table) -> dict[tuple[str, str], list[str]]:
    return {(block.label, row.name): [cell.text for cell in row.cells] for block, row in table.rows()}


NO_VECTORS = [""] * 5
NO_CODES = [""] * 7


def test_every_number_stands_under_its_heading(table: Table) -> None:
    columns = [f"{group.short} {name}".strip() for group in table.groups for name in group.columns]
    lines = printed(table)
    shown = dict(zip(columns, lines[("Amazon (simulated-amazon)", "letter")], strict=True))
    assert {name: text for name, text in shown.items() if text} == {
        "Codes": "2 x 4 + 2",
        "Distinct": "50.0%",
        "After policy": "83.3%",
        "Largest group": "2",
        "Numbered": "2",
        "Usage": "75.0%",  # 2 of 4, 4 of 4
        "Perplexity": "68.3%",  # 2 of 4, exp(1.2425) of 4
    }
    assert lines[("Amazon (simulated-amazon)", "vectors: item-text")] == [
        *NO_CODES, "75.0%", "0.3142", "0.0454", "", ""
    ]  # fmt: skip
    assert lines[("Amazon (simulated-amazon)", "vectors: bi-encoder")][-2:] == ["0.2000", "0.1000"]


def test_a_scheme_without_a_further_level(table: Table) -> None:
    atomic = printed(table)[("Amazon (simulated-amazon)", "atomic")]
    assert atomic == ["1 x 1,200", "100.0%", "", "1", "0", "100.0%", "100.0%", *NO_VECTORS]


def test_one_block_per_recipe_in_the_order_of_the_other_tables(table: Table, profile: Profile) -> None:
    assert [block.label for block in table.blocks] == ["Qilin (simulated-qilin)", "Amazon (simulated-amazon)"]
    assert [row.name for row in table.blocks[1].rows] == [
        "atomic",
        "letter",
        "vectors: item-text",
        "vectors: bi-encoder",
    ]
    assert {len(row.cells) for _, row in table.rows()} == {table.width}
    other = identifiers_table(profile, {"own": {"atomic": alone(3)}}, {})
    assert [block.label for block in other.blocks] == ["own"]


def test_nearly_all_is_not_printed_as_all(profile: Profile) -> None:
    codes = padded([[number % 9997] for number in range(10_000)])
    raw = RawCodes(codes, (9997,))
    items = pl.DataFrame({"item_id": range(1, 10_001), "raw_id": [f"B{number}" for number in range(10_000)]})
    stats = identifier_statistics(Identifiers(append_level(raw, items, "sem"), raw))
    line = printed(identifiers_table(profile, {"own": {"sem": stats}}, {}))[("own", "sem")]
    assert line[:5] == ["1 x 9,997 + 2", "<100%", "", "2", "6"]


def test_levels_of_unequal_size_are_spelled_out(profile: Profile) -> None:
    stats = identifier_statistics(Identifiers(ItemCodes("imported", padded([[0, 1], [1, 0]]), (2, 1500))))
    line = printed(identifiers_table(profile, {"own": {"imported": stats}}, {}))[("own", "imported")]
    assert line[0] == "2, 1,500"


def test_the_json_holds_what_stands_behind_a_number(table: Table) -> None:
    rows = {(row["block"], row["name"]): row["cells"] for row in json.loads(table_json.render(table))["rows"]}
    letter = rows[("Amazon (simulated-amazon)", "letter")]
    assert letter[0]["sizes"] == [4, 4, 2]
    assert letter[1]["value"] == 0.5
    assert letter[1]["largest_group"] == 3
    told = rows[("Amazon (simulated-amazon)", "vectors: item-text")][8]
    assert (told["value"], told["n"]) == (TOLD["ndcg@10"], TOLD["n"])


def test_the_caption_says_whose_numbers_these_are(table: Table, profile: Profile) -> None:
    assert "profile tiny" in table.caption
    assert "all numbers are of this profile's data" in table.caption
    assert "not comparable with the paper's" in table.caption
    comparable = identifiers_table(dataclasses.replace(profile, comparable_with_paper=True), {}, {})
    assert "not comparable" not in comparable.caption
    assert "  " not in table.caption


def test_every_writer_takes_the_table(table: Table) -> None:
    for render in (latex.render, markdown.render, html.render, table_json.render):
        assert "2 x 4 + 2" in render(table)
    assert "Search Chance" in markdown.render(table).partition("|:")[0]


@pytest.mark.parametrize("missing", ["sizes", "levels", "collisions", "appended", "n_items"])
def test_statistics_without_a_value_are_named(profile: Profile, missing: str) -> None:
    stats = {key: value for key, value in appended().items() if key != missing}
    with pytest.raises(InputError, match=f"recipe 'own', stats.json of 'letter': .*{missing}"):
        identifiers_table(profile, {"own": {"letter": stats}}, {})


def test_vectors_without_a_value_are_named(profile: Profile) -> None:
    with pytest.raises(InputError, match=r"recipe 'own', stats.json of 'item-text': .*known"):
        identifiers_table(profile, {}, {"own": {"item-text": {"n_items": 5, "width": 2}}})
    with pytest.raises(InputError, match=r"recipe 'own', stats.json of 'item-text': .*chance"):
        identifiers_table(profile, {}, {"own": {"item-text": vectors(tells={"rec": {"ndcg@10": 0.5}})}})
    for nothing in ({}, {"rec": None}, None):
        line = printed(identifiers_table(profile, {}, {"own": {"sasrec": vectors(tells=nothing)}}))
        assert line[("own", "vectors: sasrec")] == [*NO_CODES, "75.0%", "", "", "", ""]

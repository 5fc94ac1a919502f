"""The sections of `data stats` from figures that can be checked by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench import files
from gemsbench.data.amazon import SIMULATED
from gemsbench.data.recipe import CaseRules, Recipe
from gemsbench.data.schema import SPLIT, TASK
from gemsbench.errors import InputError
from gemsbench.report.dataset_sections import Column, Section, as_json, as_markdown, as_text
from gemsbench.report.dataset_sizes import QUANTITIES, counted_in_cases
from gemsbench.report.dataset_statistics import (
    cases,
    chance,
    dataset_statistics,
    funnel,
    items,
    read_statistics,
    sizes,
    unknown_shares,
)
from gemsbench.report.dataset_tokens import FILE, Vocabulary

RECIPE = dataclasses.replace(SIMULATED, name="electronics-2014", paper_row="Amazon")
RELEASED = dataclasses.replace(RECIPE, released=True)
WORDS = json.dumps(  # a tokenizer that knows one word
    {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"red": 0, "<unk>": 1}, "unk_token": "<unk>"},
    }
)
SPLITS = {"train": 4, "valid": 2, "test": 2}
STATS: Mapping[str, Any] = {
    "users": 192_403,
    "items": 63_001,
    "inter_src": 1_000_000,
    "inter_rec": 1_689_188,
    "density_src": 0.00825,
    "density_rec": 0.01394,
    "in_cases": {"users": 158_296, "items": 62_909, "inter_src": 194_671, "inter_rec": 902_602},
    "cases": {"rec": SPLITS, "src": SPLITS},
    "mean_history": {task: dict.fromkeys(SPLITS, 3.5) for task in ("rec", "src")},
    "empty_history": {task: dict.fromkeys(SPLITS, 1) for task in ("rec", "src")},
    "leak_rate": {"rec": dict.fromkeys(SPLITS, 0.0), "src": {"train": 0.1, "valid": 0.32, "test": 0.25}},
    "upstream_leak_rate": {"all": 0.34, "last 5": 0.3},
    "item_share": {"title": 0.9, "text": 1.0},
    "funnel": {
        "items": 62_000,
        "items_in_reviews": 63_001,
        "made up": 7,
        "repeated_reviews": 2,
        "review_lines": 1_689_190,
    },
    "stages": ["review_lines", "items_in_reviews", "repeated_reviews", "items", "made up"],
    "skipped": {"lines": 12, "first": []},
    "seed": 1,
}


def rows_of(section: Section) -> dict[Any, dict[str, Any]]:
    """First value of a line -> column -> value."""
    names = [column.name for column in section.columns]
    return {row[0]: dict(zip(names, row, strict=True)) for row in section.rows}


def prepared(folder: Path, lists: Mapping[str, list[tuple[int, int]]]) -> Path:
    """Test cases of each task with (number of candidates, of positives); one validation case that must not count."""
    asked = [(task, "test", size) for task, sizes in lists.items() for size in sizes] + [("rec", "valid", (3, 1))]
    table = pl.DataFrame(
        {"case_id": range(len(asked)), "task": [task for task, *_ in asked], "split": [row[1] for row in asked]},
        schema={"case_id": pl.Int64, "task": TASK, "split": SPLIT},
    )
    files.write_table(folder / "cases.parquet", table)
    shown = {
        "case_id": range(len(asked)),
        "items": [list(range(1, size + 1)) for *_, (size, _) in asked],
        "positives": [list(range(1, positives + 1)) for *_, (_, positives) in asked],
    }
    schema = {"case_id": pl.Int64, "items": pl.List(pl.Int32), "positives": pl.List(pl.Int32)}
    files.write_table(folder / "candidates.parquet", pl.DataFrame(shown, schema=schema))
    return folder


def test_sizes_stand_beside_the_paper_both_ways() -> None:
    rows = rows_of(sizes(RECIPE, STATS))
    assert tuple(rows) == QUANTITIES
    users, found = rows["users"], rows["items"]
    assert (users["paper"], users["exchanged"]) == (62_909, 158_296)
    assert users["measured_to_paper"] == pytest.approx(192_403 / 62_909)
    assert users["in_cases_to_exchanged"] == 1.0
    assert (found["in_cases_to_paper"], found["in_cases_to_exchanged"]) == (62_909 / 158_296, 1.0)
    assert rows["inter_src"]["in_cases_to_paper"] == 0.5
    assert rows["inter_rec"]["in_cases_to_paper"] == rows["inter_rec"]["in_cases_to_exchanged"] == 2.0
    # Densities do not change when users and items are exchanged, which is why they cannot show it.
    density = rows["density_rec"]
    assert density["paper"] == density["exchanged"] == 0.00453
    assert density["in_cases"] == pytest.approx(100 * 902_602 / (158_296 * 62_909))


def test_a_recipe_without_a_row_in_the_paper_is_held_against_nothing() -> None:
    section = sizes(dataclasses.replace(RECIPE, paper_row=""), STATS)
    assert [column.name for column in section.columns] == ["quantity", "measured", "in_cases"]


def test_a_released_recipe_brings_its_own_counts() -> None:
    told = {"users": 3_816, "items": 275_515, "inter_src": 16_626, "inter_rec": 101_085}
    stats = {**STATS, "funnel": {f"Table 4: {name}": value for name, value in told.items()}}
    counted = counted_in_cases(stats)
    assert {name: counted[name] for name in told} == told
    section = rows_of(sizes(dataclasses.replace(RELEASED, paper_row="Qilin"), stats))
    assert {row["in_cases_to_paper"] for name, row in section.items() if name in told} == {1.0}
    partly = {**STATS, "funnel": {"Table 4: users": 3_816}}
    assert counted_in_cases(partly)["users"] == 158_296


def test_the_funnel_keeps_its_order_and_says_what_was_removed() -> None:
    section = funnel(RECIPE, STATS)
    names = [column.name for column in section.columns]
    rows = {row[1]: dict(zip(names, row, strict=True)) for row in section.rows}
    assert list(rows) == STATS["stages"]
    assert [row["number"] for row in rows.values()] == [1, 2, 3, 4, 5]
    left, lost, free = rows["items"], rows["repeated_reviews"], rows["made up"]
    assert (left["of"], left["removed"], left["share"]) == (2, 1_001, 62_000 / 63_001)
    assert (lost["of"], lost["removed"], lost["share"]) == (1, 2, 2 / 1_689_190)
    assert (free["count"], free["of"], free["share"], free["removed"]) == (7, None, None, None)
    assert (rows["review_lines"]["published"], rows["items_in_reviews"]["ratio"]) == (1_689_188, 1.0)
    assert rows["review_lines"]["ratio"] == 1_689_190 / 1_689_188  # another number is shown, not refused
    assert rows["items"]["published"] is None
    assert any("arXiv 2504.05730" in note and "line 1, 2:" in note for note in section.notes)
    assert any("12" in note for note in section.notes)


def test_the_lines_of_a_source_are_named_in_order() -> None:
    stats = {**STATS, "stages": ["items_in_reviews", "made up", "review_lines", "items", "repeated_reviews"]}
    assert any("line 1, 3:" in note for note in funnel(RECIPE, stats).notes)


def test_a_stage_of_nothing_has_no_share() -> None:
    stats = {**STATS, "funnel": {"items_in_reviews": 0, "items": 0}, "stages": ["items_in_reviews", "items"]}
    assert funnel(RECIPE, stats).rows[1][3:6] == (1, None, 0)


def test_leaks_are_told_per_task_and_split() -> None:
    section = cases(RECIPE, STATS)
    shown = {(row[0], row[1]): row[-1] for row in section.rows}
    assert shown["src", "valid"] == 0.32 and shown["src", "test"] == 0.25 and shown["rec", "train"] == 0.0
    assert "34.00% (all), 30.00% (last 5)" in section.notes[0]
    released = cases(RECIPE, {name: value for name, value in STATS.items() if name != "upstream_leak_rate"})
    assert released.notes == ()


@pytest.mark.parametrize("other", [RELEASED, dataclasses.replace(RECIPE, cases=CaseRules(min_history=5))])
def test_empty_histories_are_counted_where_they_are_the_one_reason(other: Recipe) -> None:
    assert rows_of(cases(RECIPE, STATS))["rec"]["empty_history"] == 1
    section = cases(other, STATS)
    assert [column.name for column in section.columns][2:] == ["cases", "mean_history", "leak_rate"]
    assert section.rows[-1] == ("src", "test", 2, 3.5, 0.25)


def test_a_split_that_nobody_is_asked_in_has_no_line() -> None:
    stats = {**STATS, "cases": {"rec": {"test": 3}, "src": {}}}
    assert [row[:3] for row in cases(RECIPE, stats).rows] == [("rec", "test", 3)]


def test_chance_of_one_positive_among_a_hundred(tmp_path: Path) -> None:
    rows = chance(RECIPE, prepared(tmp_path, {"rec": [(100, 1)] * 3, "src": [(100, 1), (50, 1)]})).rows
    gains = sum(1 / math.log2(rank + 1) for rank in range(1, 11))
    assert rows[0][:3] == ("rec", "one-positive", 3)
    assert rows[0][3:] == pytest.approx((0.05, rows[0][4], 0.1, gains / 100))
    assert round(float(rows[0][6] or 0), 4) == 0.0454
    assert rows[1][3] == pytest.approx((0.05 + 0.1) / 2)  # of the lists as they are, not of a nominal length


def test_chance_of_a_released_recipe_depends_on_its_average(tmp_path: Path) -> None:
    section = chance(RELEASED, prepared(tmp_path, {"rec": [(101, 2), (99, 0)], "src": [(99, 0)]}))
    assert [row[:3] for row in section.rows] == [("rec", "rows", 1), ("rec", "rows_empty", 2), ("rec", "targets", 2)]
    hits = {row[1]: row[3] for row in section.rows}
    any_of_two = 1 - (96 / 101) * (95 / 100)
    assert hits["rows"] == pytest.approx(any_of_two)
    assert hits["rows_empty"] == pytest.approx(any_of_two / 2)
    assert hits["targets"] == pytest.approx(5 / 101 / 2)
    assert section.notes[0] == "rec: 1.000 targets per test row; 50.00% of the rows have none."


def test_without_tokenizers_the_missing_ones_are_named_and_no_table_is_read(tmp_path: Path) -> None:
    section = unknown_shares(tmp_path, [], ["t5-mini: no such file"], 1)
    assert section.rows == () and section.notes == ("t5-mini: no such file",)
    assert "names no backbone" in unknown_shares(tmp_path, [], [], 1).notes[0]


def test_without_the_tokenizers_library_the_rest_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemsbench.report.dataset_statistics.find_spec", lambda name: None)
    section = unknown_shares(tmp_path, [Vocabulary("t5-mini", tmp_path)], [], 1)
    assert section.rows == () and "pip install 'gemsbench[methods]'" in section.notes[0]


def test_a_tokenizer_that_cannot_be_read_is_a_remark_and_the_others_are_tried(tmp_path: Path) -> None:
    for name in ("items", "queries"):
        files.write_table(
            tmp_path / f"{name}.parquet", pl.DataFrame({"raw_id": ["a", "b"], "text": ["red", "blue red"]})
        )
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for folder, content in ((broken, "<html>"), (whole, WORDS)):
        folder.mkdir()
        (folder / FILE).write_text(content, encoding="utf-8")
    section = unknown_shares(tmp_path, [Vocabulary("one", broken), Vocabulary("two", whole)], [], 1)
    assert {row[0] for row in section.rows} == {"two"} and section.rows[0][4] == pytest.approx(1 / 3)
    (remark,) = (note for note in section.notes if note.startswith("one:"))
    assert str(broken) in remark and "cannot be read" in remark


@pytest.mark.parametrize("key", ["in_cases", "leak_rate", "stages", "users"])
def test_missing_statistics_are_an_error_with_the_command(tmp_path: Path, key: str) -> None:
    files.write_json(tmp_path / "stats.json", {name: value for name, value in STATS.items() if name != key})
    with pytest.raises(InputError, match=f"no {key} in it.*Make it again: prepare it"):
        read_statistics(tmp_path, "prepare it")


def test_no_statistics_at_all_are_an_error_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file\. Make it: prepare it"):
        read_statistics(tmp_path / "nowhere", "prepare it")


@pytest.mark.parametrize("recipe", [RECIPE, RELEASED], ids=["ours", "released"])
def test_json_has_what_the_text_has(recipe: Recipe, tmp_path: Path) -> None:
    folder = prepared(tmp_path, {"rec": [(100, 1)], "src": [(100, 1)]})
    sections = dataset_statistics(recipe, STATS, folder)
    told = json.loads(as_json(sections, recipe=recipe.name))
    assert told["recipe"] == "electronics-2014"
    assert told["sizes"]["rows"][0]["in_cases_to_exchanged"] == 1.0
    assert {section.name for section in sections} == set(told) - {"recipe"}
    text = as_text(sections)
    for piece in ("1,689,188", "192,403", "3.058", "0.01394%", "25.00%", "0.0454", *(s.title for s in sections)):
        assert piece in text


def test_text_markdown_and_empty_sections() -> None:
    columns = (Column("name", "text"), Column("n", "count", "number\nof them"), Column("share", "share"))
    section = Section("s", "Title", columns, (("a|b_c", 1_234, None), ("d", 5, 0.5)), ("A note.",))
    assert as_text([section]).splitlines()[:1] == ["Title"]
    assert "1,234" in as_text([section]) and "50.00%" in as_text([section]) and "  A note." in as_text([section])
    markdown = as_markdown(section, level=3)
    assert markdown.startswith("### Title\n\n| name")
    assert r"| a\|b\_c |" in markdown and "number of them" in markdown
    assert as_text([Section("s", "Title", columns, (), ("Nothing.",))]) == "Title\n  Nothing.\n"


def test_items_are_listed_with_their_shares() -> None:
    assert items(STATS).rows == (("title", 0.9), ("text", 1.0))

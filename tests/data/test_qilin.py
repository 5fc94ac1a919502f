"""The loader of Qilin parquet: which clicks become events, which users stay, and faults in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench.data import qilin
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.data.qilin import QilinSettings, load
from gemsbench.data.recipe import RawLog
from gemsbench.errors import InputError

ONE = QilinSettings()
Row = dict[str, Any]
NOTES = [{"note_idx": n, "note_title": f"title {n}", "note_content": f"content {n}"} for n in range(40)]


@pytest.fixture(autouse=True)
def _one_request_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most logs here are of one request."""
    assert qilin.MIN_REQUESTS == 3
    monkeypatch.setattr(qilin, "MIN_REQUESTS", 1)


def results(time: float | None, *notes: tuple[int, int], kind: str) -> list[Row]:
    """Shown notes as (note_idx, click)."""
    return [
        {"note_idx": note, "position": place, "click": click, "page_time": float("nan"), f"{kind}_timestamp": time}
        for place, (note, click) in enumerate(notes)
    ]


def search(user: int, query: str | None, time: float | None, *notes: tuple[int, int], idx: int = 0) -> Row:
    details = results(time, *notes, kind="search")
    return {"search_idx": idx, "user_idx": user, "query": query, "search_result_details_with_idx": details}


def recommendation(user: int, time: float | None, *notes: tuple[int, int], idx: int = 0) -> Row:
    details = results(time, *notes, kind="request")
    return {"request_idx": idx, "user_idx": user, "query": "ignored", "rec_result_details_with_idx": details}


def write(folder: Path, searches: list[Row], recommendations: list[Row]) -> Path:
    """Every second request goes to the test table; one request of user 99 keeps each table's columns."""
    searches = [*searches, *[search(99, "filler", 1, (39, 0), idx=98 + k) for k in range(2)]]
    recommendations = [*recommendations, *[recommendation(99, 1, (39, 0), idx=98 + k) for k in range(2)]]
    for name, rows in (("search", searches), ("recommendation", recommendations)):
        pl.DataFrame(rows[::2]).write_parquet(folder / f"{name}_train.parquet")
        pl.DataFrame(rows[1::2]).write_parquet(folder / f"{name}_test.parquet")
    pl.DataFrame(NOTES).write_parquet(folder / "notes.parquet")
    return folder


def events(log: RawLog, task: str) -> list[tuple[Any, ...]]:
    rows = log.events.filter(pl.col("task") == task).sort("timestamp", "position")
    return rows.select("user", "query", "item", "timestamp", "position").rows()


def test_one_click_is_one_event(tmp_path: Path) -> None:
    searches = [search(1, " lip \n \u9762\u819c ", 100, (5, 1), (6, 0), (7, 1)), search(1, "b", 300, (5, 1), idx=1)]
    recommendations = [recommendation(1, 200, (8, 0), (5, 1)), recommendation(1, 210, (8, 0), idx=1)]
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert events(log, "src") == [
        ("1", "lip \u9762\u819c", "5", 100, 0),
        ("1", "lip \u9762\u819c", "7", 100, 2),
        ("1", "b", "5", 300, 0),
    ]
    assert events(log, "rec") == [("1", "", "5", 200, 1)]
    assert log.events["pair"].n_unique() == 4
    assert log.events["group"].to_list().count("search_train/0") == 2
    assert log.events.group_by("task").agg(pl.col("query_source").unique()).sort("task").rows() == [
        ("rec", [""]),
        ("src", ["logged"]),
    ]
    assert log.items["raw_id"].to_list() == ["5", "7"]
    assert log.counts["search_requests"] == 4
    assert log.counts["recommendation_clicks"] == 1


def test_a_note_twice_in_a_request_and_again_later_counts_once(tmp_path: Path) -> None:
    searches = [
        search(1, "q", 100, (5, 1), (5, 1)),
        search(1, "q", 50, (5, 1), idx=1),
        search(1, "r", 120, (5, 1), idx=2),
    ]
    log = load(write(tmp_path, searches, [recommendation(1, 10, (8, 1))]), ONE)
    assert events(log, "src") == [("1", "q", "5", 50, 0), ("1", "r", "5", 120, 0)]
    assert log.counts["repeated_clicks"] == 1


def test_unknown_time_and_empty_query_are_dropped(tmp_path: Path) -> None:
    searches = [search(1, "q", float(time), (place, 1), idx=place) for place, time in enumerate([-1, 0, "nan", 7.9])]
    searches += [search(1, None, 20, (9, 1), idx=8), search(1, " ", 20, (9, 1), idx=9)]
    log = load(write(tmp_path, searches, [recommendation(1, 10, (8, 1))]), ONE)
    assert events(log, "src") == [("1", "q", "3", 7, 0)]
    assert log.counts["clicks_without_time_or_query"] == 5


def test_users_need_enough_requests_with_a_click_in_both_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qilin, "MIN_REQUESTS", 2)
    searches, recommendations = [], []
    for user, (asked, shown) in {1: (2, 2), 2: (2, 1), 3: (1, 3)}.items():
        searches += [search(user, f"q{k}", 10 + k, (k, 1), (k + 9, 1), idx=10 * user + k) for k in range(asked)]
        recommendations += [recommendation(user, 20 + k, (k + 3, 1), idx=10 * user + k) for k in range(shown)]
    searches.append(search(3, "no click", 90, (1, 0), idx=77))
    log = load(write(tmp_path, searches, recommendations), QilinSettings())
    assert log.events["user"].unique().to_list() == ["1"]
    assert log.counts["users_with_2_requests_in_both"] == 3  # users 1, 3 and the filler, clicked or not
    assert log.counts["users"] == 1


def test_texts_and_missing_notes(tmp_path: Path) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1), (1, 1), (2, 1))], [recommendation(1, 6, (100, 1))])
    notes = [
        {"note_idx": 0, "note_title": "a &amp; b", "note_content": "x\n<br>y"},
        {"note_idx": 1, "note_title": None, "note_content": "\u65e5\u5e38"},
    ]
    pl.DataFrame(notes).write_parquet(folder / "notes.parquet")
    log = load(folder, ONE)
    assert dict(log.items.select("raw_id", "text").rows()) == {
        "0": "a & b x y",
        "1": "\u65e5\u5e38",
        "2": UNKNOWN_ITEM,
        "100": UNKNOWN_ITEM,
    }
    assert log.counts["items_with_note"] == 2


def test_shards_are_read_as_one_table(tmp_path: Path) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1), (30, 1))], [recommendation(1, 6, (1, 1))])
    whole = load(folder, ONE)
    notes = pl.read_parquet(folder / "notes.parquet")
    (folder / "notes.parquet").unlink()
    notes[:20].write_parquet(folder / "notes-00000-of-00002.parquet")
    notes[20:].write_parquet(folder / "notes-00001-of-00002.parquet")
    assert load(folder, ONE).items.equals(whole.items)


def test_of_a_note_listed_twice_the_text_does_not_depend_on_the_order(tmp_path: Path) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    twice = [{**NOTES[0], "note_title": title, "note_content": c} for title, c in ((None, "x"), ("b", "x"), ("a", "y"))]
    for rows in (twice, twice[::-1]):
        pl.DataFrame([*rows, *NOTES[1:]]).write_parquet(folder / "notes.parquet")
        assert load(folder, ONE).items["title"].to_list() == ["a", "title 1"]


@pytest.mark.parametrize("name", ["search_train", "recommendation_test", "notes"])
def test_damaged_pages_are_named(tmp_path: Path, name: str) -> None:
    """The footer is whole, so the file looks sound until its pages are read."""
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    path = folder / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:footer] = bytes(byte ^ 0xFF for byte in content[4:footer])
    path.write_bytes(content)
    pl.read_parquet_schema(path)
    with pytest.raises(InputError, match=rf"{name}.parquet: not a readable parquet file"):
        load(folder, ONE)


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("search_train", "user_idx"),
        ("search_test", "query"),
        ("search_test", "search_idx"),
        ("recommendation_train", "rec_result_details_with_idx"),
        ("recommendation_test", "request_idx"),
        ("notes", "note_title"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, file: str, column: str) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    path = folder / f"{file}.parquet"
    pl.read_parquet(path).drop(column).write_parquet(path)
    with pytest.raises(InputError, match=rf"{file}.parquet: missing column {column}"):
        load(folder, ONE)


@pytest.mark.parametrize("name", ["click", "note_idx", "position", "search_timestamp"])
def test_a_missing_field_of_the_results_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    path = folder / "search_train.parquet"
    table = pl.read_parquet(path)
    details = pl.col("search_result_details_with_idx")
    fields = [field for field in ("note_idx", "position", "click", "search_timestamp") if field != name]
    kept = pl.struct(*(pl.element().struct.field(field) for field in fields))
    table.with_columns(details.list.eval(kept)).write_parquet(path)
    with pytest.raises(InputError, match=rf"elements of search_result_details_with_idx: missing column {name}"):
        load(folder, ONE)


def test_results_of_another_type(tmp_path: Path) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    path = folder / "search_train.parquet"
    pl.read_parquet(path).with_columns(search_result_details_with_idx=pl.lit("text")).write_parquet(path)
    with pytest.raises(InputError, match="must be a list of structs, is String"):
        load(folder, ONE)


def test_a_missing_file_and_a_web_page(tmp_path: Path) -> None:
    folder = write(tmp_path, [search(1, "q", 5, (0, 1))], [recommendation(1, 6, (1, 1))])
    (folder / "search_test.parquet").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    with pytest.raises(InputError, match=r"search_test.parquet: not a readable parquet file"):
        load(folder, ONE)
    (folder / "search_test.parquet").unlink()
    with pytest.raises(InputError, match=r"no search_test.parquet"):
        load(folder, ONE)

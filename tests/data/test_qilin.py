"""The loader of Qilin under our rules: which clicks become events, which users and notes stay."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.data import qilin, qilin_population, qilin_recipe
from gemsbench.data.canonical import canonical_tables
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.data.qilin import QilinSettings, load
from gemsbench.data.qilin_population import Population
from gemsbench.data.qilin_tables import read_requests
from gemsbench.data.recipe import RawLog

ONE = QilinSettings()
Row = dict[str, Any]
NOTES = [{"note_idx": n, "note_title": f"title {n}", "note_content": f"content {n}"} for n in range(40)]
FILLER, UNSEEN = 99, 39


@pytest.fixture
def _once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """For logs of one request per user."""
    assert qilin_population.MIN_REQUESTS == 3
    monkeypatch.setattr(qilin_population, "MIN_REQUESTS", 1)


once_is_enough = pytest.mark.usefixtures("_once_is_enough")


def results(time: float | None, *notes: tuple[int, int], kind: str) -> list[Row]:
    """Shown notes as (note_idx, click)."""
    return [
        {"note_idx": note, "position": place, "click": click, "page_time": float("nan"), f"{kind}_timestamp": time}
        for place, (note, click) in enumerate(notes)
    ]


def search(
    user: int, query: str | None, time: float | None, *notes: tuple[int, int], idx: int = 0, recent: Sequence[int] = ()
) -> Row:
    details = results(time, *notes, kind="search")
    row = {"search_idx": idx, "user_idx": user, "query": query, "recent_clicked_note_idxs": list(recent)}
    return row | {"search_result_details_with_idx": details}


def recommendation(
    user: int, time: float | None, *notes: tuple[int, int], idx: int = 0, recent: Sequence[int] = ()
) -> Row:
    details = results(time, *notes, kind="request")
    row = {"request_idx": idx, "user_idx": user, "query": "ignored", "recent_clicked_note_idxs": list(recent)}
    return row | {"rec_result_details_with_idx": details}


def write(folder: Path, searches: list[Row], recommendations: list[Row]) -> Path:
    """Every second request goes to the test table; one request of user 99 keeps each table's columns."""
    searches = [*searches, *[search(FILLER, "filler", 1, (UNSEEN, 0), idx=98 + k, recent=[UNSEEN]) for k in range(2)]]
    recommendations = [
        *recommendations,
        *[recommendation(FILLER, 1, (UNSEEN, 0), idx=98 + k, recent=[UNSEEN]) for k in range(2)],
    ]
    for name, rows in (("search", searches), ("recommendation", recommendations)):
        pl.DataFrame(rows[::2]).write_parquet(folder / f"{name}_train.parquet")
        pl.DataFrame(rows[1::2]).write_parquet(folder / f"{name}_test.parquet")
    pl.DataFrame(NOTES).write_parquet(folder / "notes.parquet")
    return folder


def events(log: RawLog, task: str) -> list[tuple[Any, ...]]:
    rows = log.events.filter(pl.col("task") == task).sort("timestamp", "position")
    return rows.select("user", "query", "item", "timestamp", "position").rows()


@once_is_enough
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
    assert log.items["raw_id"].to_list() == ["5", "6", "7", "8", "39"]  # clicked or not
    assert log.counts["search requests in the 1-core"] == 4
    assert log.counts["search clicks"] == 3
    assert log.counts["recommendation clicks"] == 1


@once_is_enough
def test_a_note_twice_in_a_request_and_again_later_counts_once(tmp_path: Path) -> None:
    searches = [
        search(1, "q", 100, (5, 1), (5, 1)),
        search(1, "q", 50, (5, 1), idx=1),
        search(1, "r", 120, (5, 1), idx=2),
    ]
    log = load(write(tmp_path, searches, [recommendation(1, 10, (8, 1))]), ONE)
    assert events(log, "src") == [("1", "q", "5", 50, 0), ("1", "r", "5", 120, 0)]
    assert log.counts["repeated clicks (dropped)"] == 1


@once_is_enough
def test_of_a_note_clicked_twice_in_a_request_the_upper_place_counts(tmp_path: Path) -> None:
    """Whatever the order of the list: the position is a field of its own."""
    row = search(1, "q", 100, (5, 1), (6, 1), (5, 1))
    details = row["search_result_details_with_idx"]
    for result, position in zip(details, (4, 3, 2), strict=True):
        result["position"] = position
    log = load(write(tmp_path, [row], [recommendation(1, 10, (8, 1))]), ONE)
    assert events(log, "src") == [("1", "q", "5", 100, 2), ("1", "q", "6", 100, 3)]


@once_is_enough
def test_unknown_time_and_empty_query_are_dropped(tmp_path: Path) -> None:
    searches = [search(1, "q", float(time), (place, 1), idx=place) for place, time in enumerate([-1, 0, "nan", 7.9])]
    searches += [search(1, None, 20, (9, 1), idx=8), search(1, " ", 20, (9, 1), idx=9)]
    log = load(write(tmp_path, searches, [recommendation(1, 10, (8, 1))]), ONE)
    assert events(log, "src") == [("1", "q", "3", 7, 0)]
    assert log.counts["clicks without time or query (dropped)"] == 5


def three_of_each(user: int, *, searches: int = 3, recommendations: int = 3) -> tuple[list[Row], list[Row]]:
    """Requests in which notes 1, 2 and 3 are shown, and nothing is clicked."""
    notes = ((1, 0), (2, 0), (3, 0))
    return (
        [search(user, "q", 10 + k, *notes, idx=10 * user + k) for k in range(searches)],
        [recommendation(user, 10 + k, *notes, idx=10 * user + k) for k in range(recommendations)],
    )


def test_users_need_three_requests_in_both_tasks_clicked_or_not(tmp_path: Path) -> None:
    searches, recommendations = [], []
    for user, (s, r) in {1: (3, 3), 2: (3, 2), 3: (2, 9), 4: (4, 0)}.items():
        more = three_of_each(user, searches=s, recommendations=r)
        searches, recommendations = searches + more[0], recommendations + more[1]
    searches.append(search(1, "clicked", 90, (1, 1), idx=500))
    recommendations.append(recommendation(1, 91, (2, 1), idx=500))
    searches.append(search(2, "clicked", 90, (1, 1), idx=501))
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert log.events["user"].unique().to_list() == ["1"]
    assert log.counts["users in requests"] == 5
    assert log.counts["users with 3 requests in both tasks"] == 1
    assert log.counts["search requests of these users"] == 4


def test_a_request_without_results_counts_for_its_user_and_then_goes(tmp_path: Path) -> None:
    searches, recommendations = three_of_each(1, searches=2)
    searches.append(search(1, "nothing found", 80, idx=500, recent=[1, 2]))
    recommendations.append(recommendation(1, 91, (2, 1), idx=500))
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert log.counts["users with 3 requests in both tasks"] == 1
    assert log.counts["search requests of these users"] == 3
    assert log.counts["search requests in the 3-core"] == 2


def test_notes_are_counted_over_clicked_shown_and_recent_lists_together(tmp_path: Path) -> None:
    searches, recommendations = three_of_each(1)
    searches.append(search(1, "q", 50, (5, 1), (6, 1), (7, 1), idx=500, recent=[5, 6]))
    recommendations.append(recommendation(1, 60, (5, 0), (7, 0), (8, 0), idx=500, recent=[6, 8, 8]))
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert log.items["raw_id"].to_list() == ["1", "2", "3", "5", "6", "8"]  # 7 is seen twice only
    assert events(log, "src") == [("1", "q", "5", 50, 0), ("1", "q", "6", 50, 1)]
    assert log.counts["notes in the 3-core"] == 6


def test_a_user_goes_with_the_requests_of_its_rare_notes(tmp_path: Path) -> None:
    """All requests of user 2 but two show notes of its own only; what user 2 alone held in the core goes too."""
    searches, recommendations = three_of_each(1)
    searches += [search(2, "q", k, (10 + k, 1), idx=600 + k) for k in range(3)]
    recommendations += [recommendation(2, k, (30, 1), (30, 0), (1, 0), idx=600 + k) for k in range(2)]
    recommendations.append(recommendation(2, 5, (20, 1), idx=602))
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert log.counts["users with 3 requests in both tasks"] == 2
    assert log.counts["users in the 3-core"] == 1
    assert "30" not in log.items["raw_id"].to_list()


@once_is_enough
@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (1_732_667_000, 1_732_667_000),
        (1_732_667_000_123, 1_732_667_000),
        (1e300, None),
        (float("inf"), None),
        (float("nan"), None),
        (-5.0, None),
        (None, None),
    ],
)
def test_absurd_times(tmp_path: Path, time: float | None, seconds: int | None) -> None:
    log = load(write(tmp_path, [search(1, "q", time, (5, 1))], [recommendation(1, 10.0, (8, 1))]), ONE)
    assert [event[3] for event in events(log, "src")] == ([] if seconds is None else [seconds])
    assert log.counts["clicks timed in milliseconds (divided)"] == (time == 1_732_667_000_123)
    assert log.counts["clicks without time or query (dropped)"] == (seconds is None)


def test_a_user_with_ten_thousand_requests(tmp_path: Path) -> None:
    searches, recommendations = three_of_each(1)
    searches += [search(1, f"q{k}", 100 + k, (1, 1), (2, 0), idx=500 + k, recent=[1, 2, 3]) for k in range(10_000)]
    recommendations.append(recommendation(1, 91, (2, 1), idx=500))
    log = load(write(tmp_path, searches, recommendations), ONE)
    assert len(events(log, "src")) == 10_000
    assert canonical_tables(log, qilin.SIMULATED, seed=1).interactions.height == 10_001


def test_row_order_of_the_files_changes_nothing_but_ties(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    searches, recommendations = three_of_each(1)
    for k in range(60):
        notes = [(int(note), int(rng.random() < 0.4)) for note in rng.choice(12, 3, replace=False)]
        searches.append(search(1, f"q{k % 7}", 1_000 + k, *notes, idx=500 + k))
        recommendations.append(recommendation(1, 2_000 + k, *notes, idx=500 + k, recent=[notes[0][0]]))
    tables = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log = load(write(tmp_path / name, searches, recommendations), ONE)
        columns = [column for column in log.events.columns if column not in ("group", "pair")]
        tables.append((log.events.select(columns).sort(columns), log.items))
        searches, recommendations = searches[::-1], recommendations[::-1]
    assert tables[0][0].equals(tables[1][0])
    assert tables[0][1].equals(tables[1][1])


@once_is_enough
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
        "39": UNKNOWN_ITEM,
        "100": UNKNOWN_ITEM,
    }
    assert log.counts["items with a row in notes"] == 2
    assert log.counts["items with text"] == 2
    assert log.counts["raw notes"] == 2


@pytest.mark.parametrize(
    ("name", "rows", "clicks", "requests"),
    [("search", 27_597, 27_597, 6_192), ("recommendation", 44_685, 44_683, 11_115)],
)
def test_the_published_click_labels(
    mirror: Path, tmp_path: Path, name: str, rows: int, clicks: int, requests: int
) -> None:
    """Qilin's own labels, put into request tables between notes without a click, come out of the loader as a set.

    Two rows of recommendation.test are there twice. The third set of labels (dqa) belongs to no recipe.
    """
    with gzip.open(mirror / "qilin-qrels" / f"{name}.test.qrels.csv.gz") as file:
        labels = pl.read_csv(file.read())
    assert labels.height == rows
    folder = write(tmp_path, [], [])
    label = labels.select("qid", "pid", click=1)
    other = labels.select("qid", pid=2_000_000 + pl.int_range(pl.len()), click=0)
    short, long, time = ("search", "search", "search") if name == "search" else ("request", "rec", "request")
    shown = pl.concat([other, label, other]).with_columns(place=pl.int_range(pl.len()).over("qid"))
    fields = [pl.col("pid").alias("note_idx"), pl.col("place").alias("position"), "click"]
    tables = shown.group_by(pl.col("qid").alias(f"{short}_idx"), maintain_order=True).agg(
        pl.struct(*fields, pl.lit(1_732_667_000).alias(f"{time}_timestamp")).alias(f"{long}_result_details_with_idx")
    )
    user, recent = pl.col(f"{short}_idx") % 7, pl.lit([], dtype=pl.List(pl.Int64))
    tables = tables.with_columns(user_idx=user, query=pl.lit("q"), recent_clicked_note_idxs=recent)
    tables.write_parquet(folder / f"{name}_test.parquet")
    log = read_requests(folder)
    found = qilin.clicked_notes(Population(log.requests, log.shown, log.recent, {}))
    found = found.with_columns(qid=pl.col("group").str.strip_prefix(f"{name}_test/").cast(pl.Int64))
    assert found["qid"].n_unique() == requests
    assert found.height == clicks
    assert set(found.select("qid", "note").iter_rows()) == set(labels.select("qid", "pid").iter_rows())


def test_the_raw_counts_are_pinned_for_the_real_recipe_only() -> None:
    raw = {name: rows for name, rows in qilin_recipe.RECIPE.pins.items() if name.startswith("raw ")}
    assert raw == {
        "raw recommendation_train": 83_437,
        "raw recommendation_test": 11_115,
        "raw search_train": 44_024,
        "raw search_test": 6_192,
        "raw notes": 1_983_938,
    }
    assert not qilin.SIMULATED.pins

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench import files
from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.evaluation import Scores, write_scores
from gemsbench.protocol.pack import FORMAT_VERSION, Pack, load_pack
from gemsbench.report.case_view import case_view

N_ITEMS = 40
LISTS = {10: list(range(1, 21)), 20: list(range(21, 41)), 30: list(range(5, 25))}
ORDER = {"a": 1, "b": -1}  # a prefers candidates from the left, b from the right


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Test cases 10 (rec) and 20 (src), valid case 30, train case 40."""
    folder = tmp_path / "prepared"
    tables = {name: pl.DataFrame(schema=columns) for name, columns in schema.TABLES.items()}
    ids = range(1, N_ITEMS + 1)
    text = {name: [""] * N_ITEMS for name in ("description", "brand", "text")}
    items = {
        "item_id": ids,
        "raw_id": [f"raw{i}" for i in ids],
        "title": ["" if i == 3 else f"Title {i}" + " and more words" * (i == 2) * 9 for i in ids],
        **text,
        "category_paths": [[] for _ in ids],
        "query_ids": [[] for _ in ids],
        "n_train": [1] * N_ITEMS,
    }
    tables["items"] = pl.DataFrame(items, schema=schema.ITEMS, strict=False)
    queries = {"query_id": [1, 2], "text": ["red shoes", "old lamp"], "n_items": [1, 1], "source": ["logged"] * 2}
    tables["queries"] = pl.DataFrame(queries, schema=schema.QUERIES, strict=False)
    cases = {
        "case_id": [10, 20, 30, 40],
        "user_id": [5, 6, 7, 8],
        "task": ["rec", "src", "rec", "rec"],
        "query_id": [0, 2, 0, 0],
        "target_item": [4, 40, 6, 7],
        "split": ["test", "test", "valid", "train"],
        "order_key": [1, 2, 3, 4],
        "hist_items": [[2, 3, 39], [], [1], [1]],
        "hist_tasks": [[1, 2, 3], [], [1], [1]],
        "hist_queries": [[0, 1, 2], [], [0], [0]],
        "hist_event_ids": [[0, 1, 2], [], [3], [4]],
    }
    tables["cases"] = pl.DataFrame(cases, schema=schema.CASES, strict=False)
    candidates = {
        "case_id": list(LISTS),
        "items": list(LISTS.values()),
        "positives": [[4], [40], [6]],
        "sampler": ["uniform"] * 3,
        "seed": [0] * 3,
    }
    tables["candidates"] = pl.DataFrame(candidates, schema=schema.CANDIDATES, strict=False)
    for name, table in tables.items():
        files.write_table(folder / f"{name}.parquet", table)
    sums = {f"{name}.parquet": files.sha256_file(folder / f"{name}.parquet") for name in tables}
    stats = {"recipe": "small", "fingerprint": "f" * 64, "n_users": 9, "format_version": FORMAT_VERSION, "files": sums}
    files.write_json(folder / "stats.json", stats)
    return load_pack(folder)


def scores(order: int, ids: tuple[int, ...] = (10, 20)) -> Scores:
    flat = np.tile(-np.arange(20, dtype=np.float32) * order, len(ids))
    header = {"method": "m", "fingerprint": "f" * 64, "tasks": ["rec", "src"]}
    return Scores(np.array(ids), flat, np.arange(len(ids) + 1) * 20, header)


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below the line that starts with heading."""
    block = next(part for part in text.split("\n\n") if part.startswith(heading)).splitlines()
    ruler = next(line for line in block if line.startswith("--") or line.startswith(" --"))
    widths, start = [], 0
    for dashes in ruler.split("  "):
        widths.append((start, start + len(dashes)))
        start += len(dashes) + 2
    body = block[block.index(ruler) + 1 :]
    return [[line[a:b].strip() for a, b in widths] for line in body if not line.endswith("not shown.")]


def test_a_recommendation_case(pack: Pack) -> None:
    text = case_view(pack, {name: scores(order) for name, order in ORDER.items()}, 10, shown=3)
    assert text.startswith("Case 10 of small: recommendation, test, user 5\n\nHistory")
    assert "Query:" not in text
    history = rows(text, "History, oldest first")
    assert [row[1] for row in history] == ["[rec]", "[src]", "[rec+src]"]
    assert (
        history[0][2].startswith("Title 2 and more words")
        and history[0][2].endswith("...")
        and len(history[0][2]) == 60
    )
    assert history[1][2:] == ["(no title, raw3)", "red shoes"]
    assert history[2][2:] == ["Title 39", "old lamp"]
    table = rows(text, "Candidates (20;")
    assert [row[1].split(" and")[0] for row in table] == [
        "Title 1", "Title 2", "(no title, raw3)", "Title 4", "Title 18", "Title 19", "Title 20"
    ]  # fmt: skip
    assert [row[0] for row in table] == ["", "", "", "*", "", "", ""]
    assert [row[2:] for row in table] == [["1", "20"], ["2", "19"], ["3", "18"], ["4", "17"], *(
        [str(i), str(21 - i)] for i in (18, 19, 20))]  # fmt: skip
    assert "13 candidates outside everybody's first 3 are not shown." in text
    assert [row[:2] for row in rows(text, "Rank of what the user chose")] == [["a", "4"], ["b", "17"]]


def test_a_search_case_without_history_from_a_score_file(pack: Pack, tmp_path: Path) -> None:
    run = scores(1)
    write_scores(tmp_path / "s", run.case_ids, (run.flat, np.diff(run.offsets)), run.header)
    text = case_view(pack, {"a": tmp_path / "s"}, 20)
    assert text.startswith("Case 20 of small: search, test, user 6\nQuery: old lamp\n\nHistory: none\n\n")
    assert rows(text, "Candidates (20;")[-1] == ["*", "Title 40", "20"]
    assert [row[:2] for row in rows(text, "Rank of what the user chose")] == [["a", "20"]]


def test_ties_count_against_the_chosen_item(pack: Pack) -> None:
    text = case_view(pack, {"a": scores(0)}, 10)
    assert rows(text, "Rank of what the user chose") == [["a", "20", "19 equal scores among the others"]]
    assert next(row for row in rows(text, "Candidates (20;") if row[0] == "*")[2] == "20"


def test_methods_without_this_case_are_named(pack: Pack) -> None:
    text = case_view(pack, {"a": scores(1), "c": scores(1, ids=(20,))}, 10)
    assert text.endswith("No scores for this case: c.")
    assert [row[0] for row in rows(text, "Rank of what the user chose")] == ["a"]


def test_no_runs_shows_the_first_candidates(pack: Pack) -> None:
    text = case_view(pack, {}, 30)
    assert len(rows(text, "Candidates (20;")) == 10
    assert "Rank of" not in text


def test_a_training_case_has_no_candidates(pack: Pack) -> None:
    text = case_view(pack, {"a": scores(1)}, 40)
    assert text.endswith("Chosen: Title 7\nA training case has no candidates.")


def test_unknown_case_names_the_nearest_one(pack: Pack) -> None:
    with pytest.raises(
        InputError,
        match=r"no case 17. small has 4 cases with ids from 10 to 40; the nearest test case is 20 \(search, user 6\)",
    ):
        case_view(pack, {}, 17)


def test_scores_of_other_candidates_are_refused(pack: Pack) -> None:
    other = dataclasses.replace(scores(1), header={"fingerprint": "0" * 64})
    with pytest.raises(InputError, match="scores of other candidates"):
        case_view(pack, {"a": other}, 10)

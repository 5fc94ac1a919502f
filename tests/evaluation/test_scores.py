from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.evaluation import Scores, read_scores, write_scores
from gemsbench.evaluation.scores import align

HEADER = {"method": "m", "recipe": "r", "fingerprint": "f" * 64, "tasks": ["rec"]}
LISTS = [np.array([0.5, -np.inf, 2.0], dtype=np.float32), np.array([1.0, 1.0], dtype=np.float32)]
CANDIDATES = pl.DataFrame({"case_id": [7, 3], "items": [[1, 2, 3], [4, 5]]})


def test_lists_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, [7, 3], LISTS, HEADER)
    scores = read_scores(path)
    assert scores.case_ids.tolist() == [7, 3]
    assert scores.case_ids.dtype == np.int64
    assert scores.flat.dtype == np.float32
    assert scores.flat.tolist() == [0.5, -np.inf, 2.0, 1.0, 1.0]
    assert scores.offsets.tolist() == [0, 3, 5]
    assert scores.header == HEADER
    assert pl.read_parquet_schema(path) == {"case_id": pl.Int64, "scores": pl.List(pl.Float32)}


@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 0, 5], [0, 0, 2], [0, 0, 0]])
def test_flat_scores_with_lengths(tmp_path: Path, lengths: list[int]) -> None:
    flat = np.arange(sum(lengths), dtype=np.float32)
    write_scores(tmp_path / "s", np.arange(3), (flat, np.array(lengths)), HEADER)
    scores = read_scores(tmp_path / "s")
    assert scores.flat.tolist() == flat.tolist()
    assert np.diff(scores.offsets).tolist() == lengths


def test_a_generator_of_arrays_is_accepted(tmp_path: Path) -> None:
    write_scores(tmp_path / "s", [7, 3], (row for row in LISTS), HEADER)
    assert read_scores(tmp_path / "s").flat.tolist() == np.concatenate(LISTS).tolist()


def test_reading_some_cases_only(tmp_path: Path) -> None:
    write_scores(tmp_path / "s", [7, 3], LISTS, HEADER)
    some = read_scores(tmp_path / "s", [3])
    assert (some.case_ids.tolist(), some.flat.tolist(), some.header) == ([3], [1.0, 1.0], HEADER)
    assert read_scores(tmp_path / "s", [5]).case_ids.tolist() == []


@pytest.mark.parametrize(
    ("ids", "lists", "message"),
    [
        ([7, 3], [row.astype(np.float64) for row in LISTS], "must be float32, these are float64"),
        ([7, 7], LISTS, "1 cases occur more than once, first: 7"),
        ([7], LISTS, "1 cases, 2 score lists"),
        (
            [7, 3],
            [LISTS[0], np.array([0.0, np.nan], dtype=np.float32)],
            "1 scores are NaN, first in case 3, candidate 1",
        ),
    ],
)
def test_bad_scores_are_not_written(tmp_path: Path, ids: list[int], lists: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_scores(tmp_path / "s", ids, lists, HEADER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame({"case_id": [1], "scores": [[1.0]]}), r"must be list<float32>, they are List\(Float64\)"),
        (pl.DataFrame({"case_id": [1], "score": [[1.0]]}), "has no column scores"),
        (
            pl.DataFrame({"case_id": ["a"], "scores": [[1.0]]}, schema_overrides={"scores": pl.List(pl.Float32)}),
            "int64",
        ),
        (
            pl.DataFrame({"case_id": [1], "scores": [None]}, schema_overrides={"scores": pl.List(pl.Float32)}),
            "null rows",
        ),
    ],
)
def test_files_of_another_shape(tmp_path: Path, table: pl.DataFrame, message: str) -> None:
    files.write_table(tmp_path / "s", table)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "s")


def test_truncated_and_absent_files(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(InputError, match="no such file"):
        read_scores(path)
    write_scores(path, [7, 3], LISTS, HEADER)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable parquet file"):
        read_scores(path)


def scores(ids: list[int], lists: list[list[float]]) -> Scores:
    flat = np.concatenate([np.array(row, dtype=np.float32) for row in lists])
    return Scores(np.array(ids), flat, np.cumsum([0, *map(len, lists)]), HEADER)


def test_align_pairs_by_case_id() -> None:
    aligned = align(scores([3, 7], [[1, 2], [3, 4, 5]]), CANDIDATES, "f" * 64)
    assert aligned.case_ids.tolist() == [7, 3]
    assert aligned.flat.tolist() == [3, 4, 5, 1, 2]
    assert aligned.offsets.tolist() == [0, 3, 5]
    same = scores([7, 3], [[3, 4, 5], [1, 2]])
    assert align(same, CANDIDATES) is same


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (scores([7], [[1, 2, 3]]), r"1 cases have no scores \(first: 3\)"),
        (scores([7, 3, 9], [[1, 2, 3], [1, 2], [1]]), r"1 scored cases are not asked for \(first: 9\)"),
        (
            scores([7, 3], [[1, 2], [1, 2]]),
            r"1 cases have a wrong number of scores, first: 7 \(2 scores, 3 candidates\)",
        ),
        (scores([3, 7], [[1, 2, 3], [1, 2]]), "2 cases have a wrong number of scores"),
        (scores([7, 7, 3], [[1, 2, 3], [1, 2, 3], [1, 2]]), "1 cases occur more than once, first: 7"),
        (scores([3, 7], [[1, np.nan], [1, 2, np.nan]]), "2 scores are NaN, first in case 3, candidate 1"),
    ],
)
def test_scores_of_other_candidates(wrong: Scores, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(wrong, CANDIDATES)


def test_align_checks_type_and_fingerprint() -> None:
    good = scores([7, 3], [[1, 2, 3], [1, 2]])
    with pytest.raises(InputError, match="scores of m / r: scores of other candidates"):
        align(good, CANDIDATES, "0" * 64)
    with pytest.raises(InputError, match="names no fingerprint"):
        align(dataclasses.replace(good, header={}), CANDIDATES, "0" * 64)
    with pytest.raises(InputError, match="must be float32, these are float64"):
        align(dataclasses.replace(good, flat=good.flat.astype(np.float64)), CANDIDATES)

"""The files of Ai et al.: real counts, bad files, and the one query that is drawn where there are several."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from gemsbench.data.gensar_events import searches_of
from gemsbench.data.product_search import read_queries, read_triples
from gemsbench.errors import InputError

LINES = [f"U{n}_{n % 3} 0 I{n % 7} 1 " for n in range(2_000)]  # the real lines end in a space


def write_gzip(path: Path, lines: Sequence[str]) -> None:
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three queries and 2,000 triples."""
    write_gzip(tmp_path / "query_text.txt.gz", ["red cable", "blue case", "green lamp"])
    write_gzip(tmp_path / "train.qrels.gz", LINES)
    return tmp_path


def test_lines_become_triples(folder: Path) -> None:
    assert read_queries(folder).to_list() == ["red cable", "blue case", "green lamp"]
    table, check = read_triples(folder, "train", 3)
    assert table.rows() == [(f"U{n}", f"I{n % 7}", n % 3) for n in range(2_000)]
    assert (check.lines, check.malformed) == (2_000, 0)


def test_carriage_returns_and_a_missing_last_line_end_do_not_matter(folder: Path) -> None:
    before, _ = read_triples(folder, "train", 3)
    (folder / "train.qrels.gz").write_bytes(gzip.compress("\r\n".join(LINES).encode()))
    after, check = read_triples(folder, "train", 3)
    assert after.equals(before)
    assert (check.lines, check.malformed) == (2_000, 0)


# Counts of the files as published, and of the notebooks that read them.
@pytest.mark.parametrize(
    ("category", "splits", "queries", "triples", "users", "items", "asked", "pairs"),
    [
        ("Electronics", ("test",), 989, 5_541, 4_830, 272, 85, None),
        ("Cell_Phones_and_Accessories", ("train", "test"), 165, 174_754, 27_879, 10_428, 164, 150_663),
    ],
)
def test_the_real_files_give_the_published_counts(
    mirror: Path,
    category: str,
    splits: tuple[str, ...],
    queries: int,
    triples: int,
    users: int,
    items: int,
    asked: int,
    pairs: int | None,
) -> None:
    folder = mirror / "amazon-product-search-queries" / f"reviews_{category}_5"
    texts = read_queries(folder)
    read = [read_triples(folder, split, texts.len()) for split in splits]
    table = pl.concat([part for part, _ in read])
    assert texts.len() == texts.n_unique() == queries
    assert table.height == triples
    assert sum(check.malformed for _, check in read) == 0
    assert (table["user"].n_unique(), table["item"].n_unique(), table["query"].n_unique()) == (users, items, asked)
    if pairs:
        assert table.select("user", "item").n_unique() == pairs


def spoil(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "a web page":
        path.write_bytes(b"<!DOCTYPE html><title>404</title>")
    elif kind == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(gzip.compress(b""))
    elif kind == "many bad lines":
        write_gzip(path, [*LINES, *["U_1 0 item"] * 3])
    elif kind == "unknown query":
        write_gzip(path, [*LINES, "U_3 0 item 1 "])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("a web page", "a web page"),
        ("cut short", "cut short"),
        ("empty", "no lines"),
        ("many bad lines", "not a line 'reviewer_query 0 asin label'"),
        ("unknown query", "name a query that query_text.txt.gz does not have"),
    ],
)
def test_bad_files_are_refused_by_name(folder: Path, kind: str, message: str) -> None:
    spoil(folder / "train.qrels.gz", kind)
    with pytest.raises(InputError, match=message) as caught:
        read_triples(folder, "train", 3)
    assert "train.qrels.gz" in str(caught.value)


@pytest.mark.parametrize(
    "line", ["import os_x 0 a 1", "U_1 1 a 1", "U_1 0 a", "U1 0 a 1", "U_-1 0 a 1", "", "U_1 0 \xe9 1"]
)
def test_a_bad_line_among_many_is_listed_and_left_out(folder: Path, line: str) -> None:
    before, _ = read_triples(folder, "train", 3)
    content = "\n".join([LINES[0], line, *LINES[1:]]) + "\n"
    (folder / "train.qrels.gz").write_bytes(gzip.compress(content.encode("latin-1")))
    after, check = read_triples(folder, "train", 3)
    assert after.equals(before)
    assert check.malformed == 1
    assert check.listed[0].startswith("train.qrels.gz:2: ")


def test_of_several_queries_each_is_drawn_about_as_often() -> None:
    users = [f"U{n}" for n in range(3_000)]
    triples = pl.DataFrame(
        [(user, "X", query) for user in users for query in (4, 7, 9)] + [("U0", "Y", 2)],
        schema={"user": pl.String, "item": pl.String, "query": pl.Int64},
        orient="row",
    )
    reviews = pl.DataFrame({"user": [*users, "U0", "U1"], "item": ["X"] * 3_000 + ["Y"] * 2, "timestamp": 0})
    found = searches_of(triples, reviews, 1)
    assert found.height == 3_001  # U1 bought Y and never searched for it
    share = found.filter(item="X")["query"].value_counts(normalize=True)
    assert sorted(share["query"]) == [4, 7, 9]
    assert share["proportion"].to_numpy() == pytest.approx(1 / 3, abs=0.04)
    assert found.filter(item="Y")["query"].to_list() == [2]

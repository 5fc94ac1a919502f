"""movielens-small: hand-written files, and the pinned counts of the real ones."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from gemsbench.data.canonical import canonical_tables
from gemsbench.data.delimited import read_delimited
from gemsbench.data.fetch import fetch
from gemsbench.data.movielens import K_CORE, RECIPE, MovieLensSettings, load
from gemsbench.errors import InputError

MOVIES = [
    (1, "Heat (1995)", "Action|Crime|Thriller"),
    (2, '"American President, The (1995)"', "Comedy|Drama|Romance"),
    (3, '"He said ""no"" (1999)"', "Comedy"),
    (4, "Nameless &amp; <i>odd</i>", "(no genres listed)"),
    (5, "Balto (1995)", "Adventure|Animation"),
    (6, "Seldom seen", "Drama|War"),
]


def write(folder: Path, movies: str | None = None, ratings: str | None = None) -> Path:
    rows = [f"{u},{m},3.5,{1000 + 10 * u + m}" for u in range(1, K_CORE + 1) for m in range(1, K_CORE + 1)] + [
        "1,6,4.0,7"
    ]
    texts = {
        "movies.csv": movies or "movieId,title,genres\r\n" + "".join(f"{m},{t},{g}\r\n" for m, t, g in MOVIES),
        "ratings.csv": ratings or "userId,movieId,rating,timestamp\r\n" + "".join(f"{row}\r\n" for row in rows),
        "tags.csv": "userId,movieId,tag,timestamp\r\n"
        '1,1,crime,5\r\n1,1,"pacino, al",6\r\n2,6,war,7\r\n9,1,nobody,8\r\n',
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    return folder


def test_hand_written_files(tmp_path: Path) -> None:
    log = load(write(tmp_path), MovieLensSettings())
    items = {row["raw_id"]: row for row in log.items.iter_rows(named=True)}
    assert sorted(items) == ["1", "2", "3", "4", "5"]
    assert items["2"]["title"] == items["2"]["text"] == "American President, The (1995)"
    assert items["3"]["title"] == 'He said "no" (1999)'
    assert items["4"]["title"] == "Nameless & odd"
    assert items["1"]["category_paths"] == [["Action", "Crime", "Thriller"]] and items["4"]["category_paths"] == []
    assert {key: row["queries"] for key, row in items.items()} == {
        "1": ["action crime thriller"],
        "2": ["comedy drama romance"],
        "3": [],  # a path of one level makes no query
        "4": [],
        "5": ["adventure animation"],
    }
    assert log.counts["5-core ratings"] == 25 and log.counts["raw ratings"] == 26
    assert log.counts["tags on rated films"] == 2 and log.counts["tags on other films (dropped)"] == 2
    searches = log.events.filter(pl.col("task") == "src")
    assert sorted(searches.select("query", "timestamp", "rating", "pair").rows()) == [
        ("crime", 1011, 3.5, "1 1"),
        ("pacino, al", 1011, 3.5, "1 1"),
    ]


def test_malformed_lines_are_listed_or_stop(tmp_path: Path) -> None:
    rows = [f"{n},{n},1.0,5" for n in range(3000)]
    (tmp_path / "r.csv").write_text("\n".join(["a,b,c,d", *rows[:5], "1,2,x", *rows[5:]]))
    columns = {"a": "[0-9]+", "b": "[0-9]+"}
    parsed = read_delimited(tmp_path / "r.csv", ",", columns, quoted=True)
    assert parsed.table.height == 3000 and parsed.skipped == ("r.csv:7: not 4 valid values",)
    (tmp_path / "r.csv").write_text("\n".join(["a,b,c,d", *rows[:5], "1,2,x", "x,2,3,4", *rows[5:1000]]))
    message = r"r\.csv: 2 of 1,002 lines .* more than 0\.1%: r\.csv:7: not 4 valid values; r\.csv:8:"
    with pytest.raises(InputError, match=message):
        read_delimited(tmp_path / "r.csv", ",", columns, quoted=True)


def test_a_line_that_is_not_utf8_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "t.dat").write_bytes(b"id\tname\n" + b"1\tok \xef\xbf\xbd\n" * 2000 + b"2\t\xe9t\xe9\n")
    parsed = read_delimited(tmp_path / "t.dat", "\t", {"id": "[0-9]+", "name": ""})
    assert parsed.table.height == 2000 and parsed.skipped == ("t.dat:2002: not 2 valid values",)


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, ratings="userId,movieId,stars\n1,1,5\n")
    with pytest.raises(InputError, match=r"ratings\.csv: missing columns rating, timestamp\."):
        load(tmp_path, MovieLensSettings())
    (tmp_path / "ratings.csv").unlink()
    with pytest.raises(InputError, match=r"ratings\.csv: no such file"):
        load(tmp_path, MovieLensSettings())


def test_real_files_give_the_pinned_counts(mirror: Path, tmp_path: Path) -> None:
    folder = fetch(RECIPE, MovieLensSettings(), 1, tmp_path, quiet=True)
    tables = canonical_tables(load(folder, MovieLensSettings()), RECIPE, 2026)
    assert (tables.users.height, tables.items.height) == (610, 3650)
    rec = tables.interactions.filter(pl.col("task") == "rec")
    assert rec.height == 90_274
    tied = rec.select(pl.struct("user_id", "timestamp").is_duplicated().mean()).item()
    assert round(tied, 2) == 0.24
    assert not tables.items["title"].is_duplicated().any()
    assert tables.skipped == ()

"""The user's own tables: they behave like any recipe, and a mistake names file, column and rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from gemsbench.data.canonical import canonical_tables
from gemsbench.data.fetch import fetch
from gemsbench.data.own import RECIPE, OwnSettings, load
from gemsbench.errors import InputError

Table = pl.DataFrame


def interactions() -> Table:
    return pl.DataFrame(
        {
            "user": [1, 1, 1, 2],
            "item": ["x", "x", "y", "y"],
            "task": ["rec", "src", "src", "rec"],
            "query": [None, "red shoe", "tent", None],
            "timestamp": [10, 10, 20, 20],
            "note": ["not", "read", "by", "us"],
        }
    )


def items() -> Table:
    paths = pl.Series([[["Shop", "Shoes"]], None], dtype=pl.List(pl.List(pl.String)))
    table = pl.DataFrame({"raw_id": ["x", "y"], "title": ["Shoe &amp; lace", None], "brand": ["Acme", None]})
    return table.with_columns(category_paths=paths)


def write(folder: Path, **tables: Table) -> Path:
    for name, table in ({"interactions": interactions(), "items": items()} | tables).items():
        table.write_parquet(folder / f"{name}.parquet")
    return folder


def test_minimal_tables(tmp_path: Path) -> None:
    log = load(write(tmp_path), OwnSettings())
    tables = canonical_tables(log, RECIPE, 1)
    assert tables.items.select("raw_id", "title", "brand", "text").rows() == [
        ("x", "Shoe & lace", "Acme", "Shoe & lace Acme"),
        ("y", "", "", "unknown product"),
    ]
    assert tables.queries.select("text", "source").rows() == [
        ("red shoe", "logged"),
        ("shop shoes", "synthetic"),
        ("tent", "logged"),
    ]
    mine = tables.interactions.filter(pl.col("user_id") == 0)
    assert mine.select("task", "item_id", "query_id", "order_key").rows() == [
        ("rec", 1, 0, 10),
        ("src", 1, 1, 10),
        ("src", 2, 3, 20),
    ]
    # A purchase and a search of the same item and time are twins; no search is invented for user 2.
    assert mine["pair_id"].to_list() == [0, 0, 2]
    assert tables.interactions.height == 4


def test_null_paths_and_levels_count_as_missing(tmp_path: Path) -> None:
    paths = [[["Shop", None, "Shoes"], None, [None]], [None]]
    tables = {"items": items().with_columns(pl.Series("category_paths", paths, dtype=pl.List(pl.List(pl.String))))}
    log = load(write(tmp_path, **tables), OwnSettings())
    assert log.items["queries"].to_list() == [["shop shoes"], []]
    assert log.items["category_paths"].to_list() == [[["Shop", "Shoes"], []], []]
    assert canonical_tables(log, RECIPE, 1).items.height == 2


def test_optional_columns_dates_and_query_table(tmp_path: Path) -> None:
    events = interactions().with_columns(
        timestamp=pl.Series([datetime(1970, 1, 1, 0, 0, s) for s in (10, 10, 20, 20)]),
        group=pl.Series([7, 7, None, 8]),
        rating=pl.Series([5, None, None, 3]),
        query=pl.Series([None, 100, 200, None]),
    )
    queries = pl.DataFrame({"raw_id": [100, 200], "text": ["red shoe", "tent"]})
    log = load(write(tmp_path, interactions=events, queries=queries), OwnSettings())
    assert log.events["query"].to_list() == ["", "red shoe", "tent", ""]
    assert log.events["timestamp"].to_list() == [10, 10, 20, 20]
    assert log.events["group"].to_list() == ["7", "7", "", "8"]
    assert log.events["rating"].to_list() == [5.0, None, None, 3.0]


def test_unknown_times_are_allowed(tmp_path: Path) -> None:
    log = load(write(tmp_path, interactions=interactions().with_columns(timestamp=None)), OwnSettings())
    events = canonical_tables(log, RECIPE, 1).interactions
    assert set(events["time_kind"]) == {"none"} and events["order_key"].min() == 1


def test_fetch_names_the_folder(tmp_path: Path) -> None:
    assert fetch(RECIPE, OwnSettings(folder="mine"), 1, tmp_path) == tmp_path / "mine"
    assert fetch(RECIPE, OwnSettings(folder="/elsewhere"), 1, tmp_path) == Path("/elsewhere")


def row_of(table: Callable[[], Table], column: str, values: list[object]) -> Table:
    return table().with_columns(pl.Series(column, values))


MISTAKES: list[tuple[dict[str, Table], str]] = [
    (
        {"interactions": interactions().drop("query")},
        r"interactions\.parquet: missing columns query \(it has user, item",
    ),
    ({"items": items().drop("title")}, r"items\.parquet: missing columns title"),
    (
        {"interactions": row_of(interactions, "task", ["rec", "buy", "src", "rec"])},
        r"task is neither .*rows 1, .*'buy'",
    ),
    (
        {"interactions": row_of(interactions, "query", [None, "", "tent", None])},
        r"query is empty in a search .*rows 1,",
    ),
    (
        {"interactions": row_of(interactions, "query", ["shoe", "s", "tent", None])},
        r"query is set in a recomm.*rows 0,",
    ),
    (
        {"interactions": row_of(interactions, "item", ["x", "x", "zz", "zz"])},
        r"item is not a raw_id.* in 2 rows \(rows 2, 3",
    ),
    ({"interactions": row_of(interactions, "user", [1, None, 1, 2])}, r"column user is empty in 1 rows \(rows 1,"),
    (
        {"interactions": row_of(interactions, "user", [1.5, 1.0, 1.0, 2.0])},
        r"column user must hold text or whole .*Float64",
    ),
    ({"interactions": row_of(interactions, "timestamp", [1.5e12] * 4)}, r"timestamp must hold whole seconds"),
    ({"interactions": row_of(interactions, "timestamp", [1_500_000_000_000] * 4)}, r"not in seconds \(milliseconds\?"),
    (
        {"interactions": interactions().with_columns(rating=pl.lit("good"))},
        r"column rating must hold numbers, it is String",
    ),
    ({"interactions": interactions().clear()}, r"interactions\.parquet: there is no interaction"),
    (
        {"interactions": row_of(interactions, "user", ["a", "", "a", ""])},
        r"column user is empty in 2 rows \(rows 1, 3,",
    ),
    ({"items": row_of(items, "raw_id", ["x", "x"])}, r"items\.parquet: column raw_id occurs more than once in 2 rows"),
    ({"items": row_of(items, "category_paths", ["a", "b"])}, r"category_paths must hold lists of lists of text"),
    (
        {"queries": pl.DataFrame({"raw_id": ["red shoe"], "text": ["t"]})},
        r"query is not a raw_id of queries\.parquet.*'tent'",
    ),
]


@pytest.mark.parametrize(("tables", "words"), MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_mistakes_are_explained(tables: dict[str, Table], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load(write(tmp_path, **tables), OwnSettings())


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"interactions\.parquet: no such file\. Put your data there or set `folder`"):
        load(tmp_path, OwnSettings())
    write(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"items\.parquet: not a readable parquet file"):
        load(tmp_path, OwnSettings())

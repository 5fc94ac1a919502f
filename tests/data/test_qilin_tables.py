"""Files of Qilin as they may lie there: shards, missing parts, damage, other types."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from gemsbench.data import qilin, qilin_population
from gemsbench.data.qilin_tables import read_requests
from gemsbench.data.recipe import RawLog
from gemsbench.errors import InputError

NOTES = [{"note_idx": n, "note_title": f"title {n}", "note_content": f"content {n}"} for n in range(40)]


@pytest.fixture(autouse=True)
def _once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logs here have one request per user and task."""
    monkeypatch.setattr(qilin_population, "MIN_REQUESTS", 1)


def load(folder: Path) -> RawLog:
    return qilin.load(folder, qilin.QilinSettings())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two users with a request in every table: notes 0 and 30 clicked in searches, 1 in recommendations."""
    for short, long, name, time, clicked in (
        ("search", "search", "search", "search", (0, 30)),
        ("request", "rec", "recommendation", "request", (1,)),
    ):
        for user, part in enumerate(("train", "test")):
            details = [
                {"note_idx": note, "position": place, "click": 1, f"{time}_timestamp": 5}
                for place, note in enumerate(clicked)
            ]
            row = {
                f"{short}_idx": user,
                "user_idx": user,
                "query": "q",
                "recent_clicked_note_idxs": [4, 3],
                f"{long}_result_details_with_idx": details,
            }
            pl.DataFrame([{**row, "user_idx": k} for k in range(2)]).write_parquet(tmp_path / f"{name}_{part}.parquet")
    pl.DataFrame(NOTES).write_parquet(tmp_path / "notes.parquet")
    return tmp_path


def split_into_shards(folder: Path, config: str, parts: int) -> list[Path]:
    table = pl.read_parquet(folder / f"{config}.parquet")
    (folder / f"{config}.parquet").unlink()
    shards = [folder / f"{config}-{k:05d}-of-{parts:05d}.parquet" for k in range(parts)]
    ends = [table.height * k // parts for k in range(parts + 1)]
    for k, shard in enumerate(shards):
        table[ends[k] : ends[k + 1]].write_parquet(shard)
    return shards


@pytest.mark.parametrize("config", ["notes", "search_train", "recommendation_test"])
def test_shards_are_read_as_one_table(folder: Path, config: str) -> None:
    whole = load(folder)
    split_into_shards(folder, config, 2)
    parts = load(folder)
    assert parts.items.equals(whole.items)
    assert parts.events.equals(whole.events)
    assert parts.counts == whole.counts
    assert parts.counts["raw notes"] == 40
    assert parts.counts["raw search_train"] == 2


def test_a_missing_shard_is_named(folder: Path) -> None:
    split_into_shards(folder, "notes", 3)[1].unlink()
    with pytest.raises(InputError, match=r"notes-00001-of-00003.parquet is missing"):
        load(folder)


def test_shards_of_two_sets_a_second_copy_and_a_strange_name(folder: Path) -> None:
    table = pl.read_parquet(folder / "notes.parquet")
    first, second = split_into_shards(folder, "notes", 2)
    table.write_parquet(folder / "notes.parquet")
    with pytest.raises(InputError, match=r"both notes.parquet and notes-00000-of-00002.parquet"):
        load(folder)
    (folder / "notes.parquet").unlink()
    second.rename(folder / "notes-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"notes-00001-of-00002.parquet is missing"):
        load(folder)
    first.rename(folder / "notes-first.parquet")
    with pytest.raises(InputError, match=r"notes-first.parquet is not named notes-00000-of-00005.parquet"):
        load(folder)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["search_test", "notes"])
def test_a_file_that_was_cut_off(folder: Path, name: str, kept: float) -> None:
    path = folder / f"{name}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=rf"{name}.parquet: not a readable parquet file.*Download it again"):
        load(folder)


def test_a_request_without_lists_or_user(folder: Path) -> None:
    path = folder / "search_train.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table[:1].clear(1)]).write_parquet(path)
    log = read_requests(folder)
    assert log.requests.height == 9
    assert log.requests["time"].null_count() == 1
    assert load(folder).counts["requests without a user (dropped)"] == 1


def retyped(folder: Path, file: str, column: str, change: pl.Expr) -> None:
    path = folder / f"{file}.parquet"
    pl.read_parquet(path).with_columns(change.alias(column)).write_parquet(path)


@pytest.mark.parametrize(
    ("file", "column", "change"),
    [
        ("search_train", "user_idx", pl.lit("u")),
        ("search_train", "query", pl.lit(3)),
        ("notes", "note_idx", pl.lit("3")),
        ("notes", "note_content", pl.lit(3)),
        ("search_test", "recent_clicked_note_idxs", pl.lit("[1 2]")),
        ("search_test", "recent_clicked_note_idxs", pl.concat_list(pl.lit("1"), pl.lit("2"))),
    ],
)
def test_a_column_of_another_type(folder: Path, file: str, column: str, change: pl.Expr) -> None:
    retyped(folder, file, column, change)
    with pytest.raises(InputError, match=rf"{file}.parquet, column {column}: must (hold|be)"):
        load(folder)


@pytest.mark.parametrize("name", ["note_idx", "click", "position", "search_timestamp"])
def test_a_field_of_the_results_of_another_type(folder: Path, name: str) -> None:
    details = pl.col("search_result_details_with_idx")
    text = pl.element().struct.with_fields(pl.field(name).cast(pl.String))
    retyped(folder, "search_test", "search_result_details_with_idx", details.list.eval(text))
    with pytest.raises(InputError, match=rf"{name} in search_result_details_with_idx: must hold"):
        load(folder)


ODD = {
    "not a number": float("nan"),
    "infinite": float("inf"),
    "beyond all ids": 1e30,
    "a fraction": 2.5,
    "negative": -3.0,
    "negative whole": -3,
    "beyond a whole number": 2**53 + 2,
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("column", ["user_idx", "recent_clicked_note_idxs"])
def test_an_odd_id_is_named_with_its_column(folder: Path, column: str, value: float) -> None:
    odd = pl.lit(value) if column == "user_idx" else pl.concat_list(pl.lit(value), pl.lit(value))
    retyped(folder, "search_test", column, odd)
    of = "2 of 2" if column == "user_idx" else "4 of 4"
    with pytest.raises(
        InputError, match=rf"search_test.parquet, column {column}: {of} values are no whole numbers from"
    ):
        load(folder)


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_an_odd_note_is_named_with_its_column(folder: Path, value: float) -> None:
    retyped(folder, "notes", "note_idx", pl.when(pl.col("note_idx") == 7).then(pl.lit(value)).otherwise("note_idx"))
    with pytest.raises(InputError, match=r"notes.parquet, column note_idx: 1 of 40 values are no whole numbers from 0"):
        load(folder)


@pytest.mark.parametrize("field", ["note_idx", "position"])
@pytest.mark.parametrize("value", [float("inf"), 1e30, 2.5, -3, 2**53 + 2])
def test_an_odd_number_among_the_results_is_named(folder: Path, field: str, value: float) -> None:
    details = "search_result_details_with_idx"
    odd = pl.element().struct.with_fields(pl.lit(value).alias(field))
    retyped(folder, "search_test", details, pl.col(details).list.eval(odd))
    with pytest.raises(InputError, match=rf"search_test.parquet, {field} in {details}: 4 of 4 values are no whole"):
        load(folder)


def test_a_request_without_a_number_is_named(folder: Path) -> None:
    whole = pl.col("search_idx")
    retyped(folder, "search_test", "search_idx", pl.when(pl.col("user_idx") == 0).then(None).otherwise(whole))
    with pytest.raises(InputError, match=r"search_test.parquet, column search_idx: 1 of 2 rows have none"):
        load(folder)


@pytest.mark.parametrize("name", ["qilin", "simulated-qilin"])
def test_a_missing_file_is_fetched_by_the_name_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"no recommendation_train.parquet .* Run `gemsbench data fetch {name}`\."):
        load(tmp_path / name)


def test_numbers_stored_in_another_way_are_the_same_log(folder: Path) -> None:
    """Floats where a column once had gaps, true and false for clicks, narrow integers."""
    plain = load(folder)
    details = pl.col("search_result_details_with_idx")
    other = pl.element().struct.with_fields(
        pl.field("note_idx").cast(pl.Float64), pl.field("click").cast(pl.Boolean), pl.field("position").cast(pl.Int8)
    )
    retyped(folder, "search_train", "search_result_details_with_idx", details.list.eval(other))
    retyped(folder, "search_train", "user_idx", pl.col("user_idx").cast(pl.Float64))
    retyped(folder, "notes", "note_idx", pl.col("note_idx").cast(pl.UInt32))
    other_log = load(folder)
    assert other_log.events.equals(plain.events)
    assert other_log.items.equals(plain.items)


def test_of_a_note_listed_twice_the_text_does_not_depend_on_the_order(folder: Path) -> None:
    twice = [{**NOTES[0], "note_title": title, "note_content": c} for title, c in ((None, "x"), ("b", "x"), ("a", "y"))]
    for rows in (twice, twice[::-1]):
        pl.DataFrame([*rows, *NOTES[1:]]).write_parquet(folder / "notes.parquet")
        assert load(folder).items["title"].to_list()[:2] == ["a", "title 1"]


@pytest.mark.parametrize("name", ["search_train", "recommendation_test", "notes"])
def test_damaged_pages_are_named(folder: Path, name: str) -> None:
    """The footer is whole, so the file looks sound until its pages are read."""
    path = folder / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:footer] = bytes(byte ^ 0xFF for byte in content[4:footer])
    path.write_bytes(content)
    pl.read_parquet_schema(path)
    with pytest.raises(InputError, match=rf"{name}.parquet: not a readable parquet file"):
        load(folder)


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
def test_a_missing_column_is_named(folder: Path, file: str, column: str) -> None:
    path = folder / f"{file}.parquet"
    pl.read_parquet(path).drop(column).write_parquet(path)
    with pytest.raises(InputError, match=rf"{file}.parquet: missing column {column}"):
        load(folder)


@pytest.mark.parametrize("name", ["click", "note_idx", "position", "search_timestamp"])
def test_a_missing_field_of_the_results_is_named(folder: Path, name: str) -> None:
    path = folder / "search_train.parquet"
    table = pl.read_parquet(path)
    details = pl.col("search_result_details_with_idx")
    fields = [field for field in ("note_idx", "position", "click", "search_timestamp") if field != name]
    kept = pl.struct(*(pl.element().struct.field(field) for field in fields))
    table.with_columns(details.list.eval(kept)).write_parquet(path)
    with pytest.raises(InputError, match=rf"elements of search_result_details_with_idx: missing column {name}"):
        load(folder)


def test_results_of_another_type(folder: Path) -> None:
    path = folder / "search_train.parquet"
    pl.read_parquet(path).with_columns(search_result_details_with_idx=pl.lit("text")).write_parquet(path)
    with pytest.raises(InputError, match="must be a list of structs, is String"):
        load(folder)


def test_a_missing_file_and_a_web_page(folder: Path) -> None:
    (folder / "search_test.parquet").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    with pytest.raises(InputError, match=r"search_test.parquet: not a readable parquet file"):
        load(folder)
    (folder / "search_test.parquet").unlink()
    with pytest.raises(InputError, match=r"no search_test.parquet"):
        load(folder)

"""The raw tables of Qilin (arXiv 2503.00501) as flat columns of numbers: requests, shown notes, recent clicks, notes.

Nested parquet, one file or a complete set of shards per hub config. Nothing is filtered here: what a recipe keeps is
its own business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.item_text import clean_text, compose
from gemsbench.errors import InputError


@dataclass(frozen=True)
class RequestTable:
    """Names of the columns of one request table."""

    config: str
    task: str
    request: str
    results: str  # list of structs: note_idx, position, click, the timestamp below, and more
    timestamp: str
    query: str | None  # the query column of recommendation tables is undocumented and not read


TABLES = (
    *(
        RequestTable(config, "rec", "request_idx", "rec_result_details_with_idx", "request_timestamp", None)
        for config in ("recommendation_train", "recommendation_test")
    ),
    *(
        RequestTable(config, "src", "search_idx", "search_result_details_with_idx", "search_timestamp", "query")
        for config in ("search_train", "search_test")
    ),
)
_USER, _RECENT = "user_idx", "recent_clicked_note_idxs"
_NOTE_COLUMNS = ("note_idx", "note_title", "note_content")
_SPACE = r"[\p{Cc}\s]+"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet")
_LARGEST = {"id": 2**53, "position": 2**31 - 1}  # floats tell whole numbers apart up to the first
ITEM_COLUMNS = ("raw_id", "title", "description", "brand", "text", "category_paths", "queries")


@dataclass(frozen=True)
class QilinRequests:
    """The four request tables as one log, in the order of TABLES; a request is a row, numbered from 0.

    requests: row (UInt32), task ("rec" | "src"), user (Int64, null where the file has none), query (str, white space
        folded, "" for rec and where there is none), group (str, "<config>/<request>"), time (Float64, that of the last
        result; null without results or time).
    shown: row, place (UInt32, in the list), note (Int64), click (bool), position (Int32), time (Float64, as in the
        file); results without a note are left out.
    recent: row, place, note; the clicks before the request that the log repeats, newest first.
    raw: config -> rows.
    """

    requests: pl.DataFrame
    shown: pl.DataFrame
    recent: pl.DataFrame
    raw: Mapping[str, int]


def read_requests(folder: Path) -> QilinRequests:
    """Read the four request tables of folder; raises InputError naming a missing file or column, or odd values."""
    parts: list[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]] = []
    raw: dict[str, int] = {}
    start = 0
    for table in TABLES:
        before = start
        for file in _files(folder, table.config):
            parts.append(_read_file(file, table, start))
            start += parts[-1][0].height
        raw[table.config] = start - before
    requests, shown, recent = (pl.concat(frames) for frames in zip(*parts, strict=True))
    return QilinRequests(requests, shown, recent, raw)


def _read_file(file: Path, table: RequestTable, start: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """requests, shown and recent of one file; its first row gets the number start."""
    columns = [_USER, table.request, _RECENT, table.results, *([table.query] if table.query else [])]
    with _readable(file):
        schema = pl.read_parquet_schema(file)
    _require(columns, schema, str(file))
    _check_types(file, table, schema)
    lazy = pl.scan_parquet(file).select(columns).with_row_index("row", start)
    query = pl.col(table.query).cast(pl.String) if table.query else pl.lit("")
    last = pl.col(table.results).list.drop_nulls().list.last().struct.field(table.timestamp)
    requests = lazy.select(
        "row",
        pl.lit(table.task).alias("task"),
        pl.col(_USER).alias("user"),
        query.fill_null("").str.replace_all(_SPACE, " ").str.strip_chars(" ").alias("query"),
        pl.format("{}/{}", pl.lit(table.config), pl.col(table.request)).alias("group"),
        last.cast(pl.Float64).fill_nan(None).alias("time"),
    )
    one = pl.col(table.results).struct
    shown = (
        _exploded(lazy.select("row", table.results), table.results)
        .select(
            "row",
            "place",
            one.field("note_idx").alias("note"),
            (one.field("click").cast(pl.Float64) == 1).fill_null(False).alias("click"),
            one.field("position").cast(pl.Float64).fill_nan(0).fill_null(0).alias("position"),
            one.field(table.timestamp).cast(pl.Float64).alias("time"),
        )
        .drop_nulls("note")
    )
    recent = _exploded(lazy.select("row", _RECENT), _RECENT).select("row", "place", pl.col(_RECENT).alias("note"))
    whole = _whole_table(file, _collected(file, requests), f"column {_USER}", "user")
    _require_numbered(file, table, whole)
    results = _whole_table(file, _collected(file, shown), f"note_idx in {table.results}", "note")
    results = _whole_table(file, results, f"position in {table.results}", "position")
    clicked = _whole_table(file, _collected(file, recent.drop_nulls("note")), f"column {_RECENT}", "note")
    return whole, results, clicked


def _whole_table(file: Path, table: pl.DataFrame, where: str, name: str) -> pl.DataFrame:
    """The table with its column as whole numbers (Int32 for position, else Int64); raises InputError for others."""
    largest = _LARGEST["position" if name == "position" else "id"]
    values = table[name]
    number = values.cast(pl.Float64)
    odd = values.filter(~(number.is_between(0, largest) & (number == number.floor())))
    if len(odd):
        raise InputError(
            f"{file}, {where}: {len(odd):,} of {len(values):,} values are no whole numbers from 0 to {largest:,}, e.g. "
            f"{odd[0]}. Is this the file of another dataset?"
        )
    return table.with_columns(values.cast(pl.Int32 if name == "position" else pl.Int64))


def _require_numbered(file: Path, table: RequestTable, requests: pl.DataFrame) -> None:
    """Raise InputError where a user's request has no number: its clicks could not be told from another's."""
    missing = requests.filter(pl.col("user").is_not_null() & pl.col("group").is_null()).height
    if missing:
        raise InputError(
            f"{file}, column {table.request}: {missing:,} of {requests.height:,} rows have none, and every request "
            "needs one. Is this the file of another release?"
        )


def _exploded(lists: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """One row per element, with its place in the list."""
    place = pl.int_ranges(pl.col(column).list.len(), dtype=pl.UInt32).alias("place")
    filled = lists.filter(pl.col(column).list.len() > 0)
    return filled.with_columns(place).explode(column, "place", empty_as_null=False, keep_nulls=True)


def read_notes(folder: Path, wanted: pl.Series) -> tuple[pl.DataFrame, dict[str, int]]:
    """Items (columns of RawLog.items) of the wanted notes (Int64, distinct), in order, and how many have what.

    A note without a row or without text keeps its place with UNKNOWN_ITEM as text. The counts: "raw notes", "items",
    "items with a row in notes", "items with text". Raises InputError like read_requests.
    """
    ids, raw, read = wanted.alias("note_idx").to_frame().lazy(), 0, []
    for file in _files(folder, "notes"):
        with _readable(file):
            schema = pl.read_parquet_schema(file)
        _require(_NOTE_COLUMNS, schema, str(file))
        _check(file, "column note_idx", schema["note_idx"], _whole, "whole numbers")
        for name in _NOTE_COLUMNS[1:]:
            _check(file, f"column {name}", schema[name], _text, "text")
        lazy = pl.scan_parquet(file).select(_NOTE_COLUMNS)
        raw += _whole_table(file, _collected(file, lazy.select("note_idx")), "column note_idx", "note_idx").height
        known = lazy.with_columns(pl.col("note_idx").cast(pl.Int64))
        read.append(_collected(file, known.join(ids, on="note_idx", how="semi")))
    # Of a note listed twice always the same text, whatever order the reader had.
    notes = pl.concat(read, how="vertical_relaxed").sort(_NOTE_COLUMNS, nulls_last=True)
    notes = notes.unique("note_idx", keep="first", maintain_order=True).with_columns(listed=pl.lit(True))
    items = ids.collect().join(notes, on="note_idx", how="left", maintain_order="left")
    items = items.select(
        pl.col("note_idx").cast(pl.String).alias("raw_id"),
        clean_text(items["note_title"]).alias("title"),
        clean_text(items["note_content"]).alias("description"),
        pl.lit("").alias("brand"),
        pl.lit([], dtype=pl.List(pl.List(pl.String))).alias("category_paths"),
        pl.lit([], dtype=pl.List(pl.String)).alias("queries"),
        "listed",
    ).with_columns(compose("title", "description"))
    counts = {
        "raw notes": raw,
        "items": items.height,
        "items with a row in notes": items["listed"].count(),
        "items with text": items.filter((pl.col("title") != "") | (pl.col("description") != "")).height,
    }
    return items.select(ITEM_COLUMNS), counts


def _files(folder: Path, config: str) -> list[Path]:
    """The parquet file of a config, or all its shards in order."""
    whole, shards = folder / f"{config}.parquet", sorted(folder.glob(f"{config}-*.parquet"))
    if whole.is_file() and shards:
        raise InputError(f"{folder}: both {whole.name} and {shards[0].name}. Keep one of the two copies.")
    if whole.is_file():
        return [whole]
    if not shards:
        raise InputError(f"{folder}: no {config}.parquet (or its shards {config}-*.parquet). {_again(folder)}")
    named = [_SHARD.fullmatch(file.name.removeprefix(config)) for file in shards]
    odd = [file.name for file, match in zip(shards, named, strict=True) if match is None]
    if odd:
        raise InputError(f"{folder}: {odd[0]} is not named {config}-00000-of-00005.parquet. Delete or rename it.")
    found = {match.group(0) for match in named if match}
    of = {match.group(2) for match in named if match}
    total = max(of)
    missing = [part for k in range(int(total)) if (part := f"-{k:05d}-of-{total}.parquet") not in found]
    if missing or len(of) > 1:
        short = f"{config}{missing[0]} is missing" if missing else f"shards of {len(of)} different sets"
        raise InputError(f"{folder}: {short}; there are {', '.join(file.name for file in shards)}. {_again(folder)}")
    return shards


def _again(folder: Path) -> str:
    # The folder of raw files is named as the source or the recipe that it is of.
    return f"Run `gemsbench data fetch {folder.name}`."


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what polars raises for a damaged file, a panic in its decoder included, into an InputError naming it."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(f"{file}: not a readable parquet file ({error}). Download it again.") from error


def _collected(file: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a query over one file; the streaming engine keeps what is filtered out from memory."""
    with _readable(file):
        return frame.collect(engine="streaming")


def _require(names: Sequence[str], known: Collection[str], where: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{where}: missing column {', '.join(missing)}. It has: {', '.join(known)}.")


def _whole(kind: pl.DataType) -> bool:
    # Whole numbers with gaps are often stored as floats; a column without any value has no type.
    return kind.is_integer() or kind.is_float() or kind == pl.Null


def _number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind in (pl.Boolean, pl.Null)


def _text(kind: pl.DataType) -> bool:
    return kind in (pl.String, pl.Null)


def _check(file: Path, where: str, kind: pl.DataType, holds: Callable[[pl.DataType], bool], what: str) -> None:
    if not holds(kind):
        raise InputError(f"{file}, {where}: must hold {what}, is {kind}. Is this the file of another dataset?")


def _check_types(file: Path, table: RequestTable, schema: Mapping[str, pl.DataType]) -> None:
    _check(file, f"column {_USER}", schema[_USER], _whole, "whole numbers")
    if table.query:
        _check(file, f"column {table.query}", schema[table.query], _text, "text")
    lists = schema[_RECENT]
    notes = lists.inner if isinstance(lists, pl.List) else None
    if not isinstance(notes, pl.DataType) or not _whole(notes):
        raise InputError(f"{file}, column {_RECENT}: must be a list of whole numbers, is {lists}.")
    element = schema[table.results]
    fields = element.inner if isinstance(element, pl.List) else None
    where = f"{file}, elements of {table.results}"
    if not isinstance(fields, pl.Struct):
        raise InputError(f"{where}: must be a list of structs, is {element}.")
    kinds = pl.Schema(fields.to_schema())
    _require(["note_idx", "position", "click", table.timestamp], kinds, where)
    _check(file, f"note_idx in {table.results}", kinds["note_idx"], _whole, "whole numbers")
    for name in ("position", "click", table.timestamp):
        _check(file, f"{name} in {table.results}", kinds[name], _number, "numbers")

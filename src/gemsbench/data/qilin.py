"""Searches and recommendations of Qilin (arXiv 2503.00501): nested parquet, one file (or its shards) per hub config.

One click is one event. The official partition into train and test is by request and not used: the four tables of
requests are read as one log. A user needs three requests with a click in both tasks. The catalogue is the clicked
notes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from gemsbench.data.item_text import clean_text, compose
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.simulation.qilin_files import write_qilin
from gemsbench.data.simulation.request_world import RequestWorldSettings
from gemsbench.errors import InputError


@dataclass(frozen=True)
class _RequestTable:
    """Names of the columns of one request table."""

    config: str
    task: str
    request: str
    results: str  # list of structs: note_idx, position, click, the timestamp below, and more
    timestamp: str
    query: str | None  # the query column of recommendation tables is undocumented and not read


_TABLES = (
    *(
        _RequestTable(config, "src", "search_idx", "search_result_details_with_idx", "search_timestamp", "query")
        for config in ("search_train", "search_test")
    ),
    *(
        _RequestTable(config, "rec", "request_idx", "rec_result_details_with_idx", "request_timestamp", None)
        for config in ("recommendation_train", "recommendation_test")
    ),
)
_NOTE_COLUMNS = ("note_idx", "note_title", "note_content")
# With a click, per user and task: train, validation, test. The released code of arXiv 2601.09496 has 3, clicked or not.
MIN_REQUESTS = 3
_SPACE = r"[\p{Cc}\s]+"


@dataclass(frozen=True)
class QilinSettings:
    """No switch: which users stay is what the recipe is."""


@dataclass(frozen=True)
class SimulatedQilinSettings(QilinSettings):
    """QilinSettings, and the size of the simulated world."""

    world: RequestWorldSettings = field(default_factory=RequestWorldSettings)


def load(folder: Path, settings: QilinSettings) -> RawLog:
    """Read the four request tables and the notes of folder; raises InputError naming a missing file or column."""
    shown = pl.concat([_users_of_requests(folder, table) for table in _TABLES])
    clicks = pl.concat([_clicks(folder, table) for table in _TABLES])
    counts = {
        "search_requests": shown.filter(pl.col("task") == "src").height,
        "recommendation_requests": shown.filter(pl.col("task") == "rec").height,
        "users_in_requests": shown["user"].n_unique(),
        f"users_with_{MIN_REQUESTS}_requests_in_both": _busy(shown, pl.len(), MIN_REQUESTS).len(),
        "search_clicks": clicks.filter(pl.col("task") == "src").height,
        "recommendation_clicks": clicks.filter(pl.col("task") == "rec").height,
    }
    timed = clicks.filter(pl.col("timestamp").is_not_null() & ((pl.col("task") == "rec") | (pl.col("query") != "")))
    distinct = timed.sort("user", "task", "timestamp", "group", "position", "item").unique(
        ["user", "task", "item", "query"], keep="first", maintain_order=True
    )
    users = _busy(distinct, pl.col("group").n_unique(), MIN_REQUESTS)
    kept = distinct.filter(pl.col("user").is_in(users.implode()))
    counts |= {
        "clicks_without_time_or_query": clicks.height - timed.height,
        "repeated_clicks": timed.height - distinct.height,
        "users": users.len(),
        "search_events": kept.filter(pl.col("task") == "src").height,
        "recommendation_events": kept.filter(pl.col("task") == "rec").height,
        "queries": kept.filter(pl.col("task") == "src")["query"].n_unique(),
    }
    items = _read_notes(folder, kept["item"].unique().sort(), counts)
    return RawLog(_events(kept), items, counts)


def _files(folder: Path, config: str, columns: Sequence[str]) -> list[Path]:
    """The parquet files of a config, in order, after a look at their columns."""
    files = sorted([*folder.glob(f"{config}.parquet"), *folder.glob(f"{config}-*.parquet")])
    if not files:
        raise InputError(f"{folder}: no {config}.parquet (or its shards {config}-*.parquet). Download that config.")
    for file in files:
        with _readable(file):
            known = pl.read_parquet_schema(file)
        _require(columns, known, str(file))
    return files


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


def _users_of_requests(folder: Path, table: _RequestTable) -> pl.DataFrame:
    user = pl.col("user_idx").cast(pl.String).alias("user")
    files = _files(folder, table.config, ["user_idx"])
    frames = [_collected(file, pl.scan_parquet(file).select(user)) for file in files]
    return pl.concat(frames).with_columns(pl.lit(table.task).alias("task"))


def _busy(requests: pl.DataFrame, count: pl.Expr, at_least: int) -> pl.Series:
    """Users for whom count is at least `at_least` in both tasks."""
    enough = requests.group_by("user", "task").agg(count.alias("n")).filter(pl.col("n") >= at_least)
    return enough.group_by("user").len().filter(pl.col("len") == 2)["user"].sort()


def _clicks(folder: Path, table: _RequestTable) -> pl.DataFrame:
    """One row per clicked note of a request; a note shown twice in it counts once."""
    columns = ["user_idx", table.request, table.results, *([table.query] if table.query else [])]
    return pl.concat([_clicks_of(file, table, columns) for file in _files(folder, table.config, columns)])


def _clicks_of(file: Path, table: _RequestTable, columns: Sequence[str]) -> pl.DataFrame:
    requests = pl.scan_parquet(file).select(columns)
    element = requests.collect_schema()[table.results]
    fields = element.inner if isinstance(element, pl.List) else None
    where = f"{file}, elements of {table.results}"
    if not isinstance(fields, pl.Struct):
        raise InputError(f"{where}: must be a list of structs, is {element}.")
    _require(["note_idx", "position", "click", table.timestamp], fields.to_schema(), where)
    query = pl.col(table.query) if table.query else pl.lit("")
    one = pl.col(table.results).struct
    clicked = (
        requests.with_row_index("row")
        .explode(table.results, empty_as_null=False, keep_nulls=False)
        .filter(one.field("click") == 1, one.field("note_idx").is_not_null(), pl.col("user_idx").is_not_null())
        .select(
            "row",
            pl.col("user_idx").cast(pl.String).alias("user"),
            one.field("note_idx").cast(pl.Int64).cast(pl.String).alias("item"),
            pl.lit(table.task).alias("task"),
            query.fill_null("").str.replace_all(_SPACE, " ").str.strip_chars(" ").alias("query"),
            _seconds(one.field(table.timestamp)).alias("timestamp"),
            pl.format("{}/{}", pl.lit(table.config), pl.col(table.request)).alias("group"),
            one.field("position").fill_null(0).cast(pl.Int32).alias("position"),
        )
    )
    return (
        _collected(file, clicked)
        .sort("row", "position", "timestamp", "query")
        .unique(["row", "item"], keep="first", maintain_order=True)
        .drop("row")
    )


def _seconds(time: pl.Expr) -> pl.Expr:
    """Whole seconds; null for an unknown time (null, NaN, not positive)."""
    number = time.cast(pl.Float64)
    return pl.when(number.is_finite() & (number > 0)).then(number.floor()).cast(pl.Int64)


def _events(clicks: pl.DataFrame) -> pl.DataFrame:
    return clicks.select(
        "user",
        "item",
        "task",
        "query",
        pl.when(pl.col("task") == "src").then(pl.lit("logged")).otherwise(pl.lit("")).alias("query_source"),
        "timestamp",
        pl.format("{}/{}", "group", "item").alias("pair"),
        "group",
        pl.lit(None, dtype=pl.Float32).alias("rating"),
        "position",
    )


def _read_notes(folder: Path, wanted: pl.Series, counts: dict[str, int]) -> pl.DataFrame:
    """Texts of the wanted notes only; the table holds two million."""
    is_wanted = pl.col("note_idx").is_in(wanted.cast(pl.Int64).implode())
    read = [
        _collected(file, pl.scan_parquet(file).select(_NOTE_COLUMNS).filter(is_wanted))
        for file in _files(folder, "notes", _NOTE_COLUMNS)
    ]
    notes = (
        pl.concat(read)
        # Of a note listed twice always the same text, whatever order the reader had.
        .sort(_NOTE_COLUMNS, nulls_last=True)
        .unique("note_idx", keep="first", maintain_order=True)
        .select(
            pl.col("note_idx").cast(pl.Int64).cast(pl.String).alias("raw_id"),
            pl.col("note_title").alias("title"),
            pl.col("note_content").alias("description"),
        )
    )
    items = wanted.alias("raw_id").to_frame().join(notes, on="raw_id", how="left", maintain_order="left")
    items = items.with_columns(
        *(clean_text(items[name]) for name in ("title", "description")),
        pl.lit("").alias("brand"),
        pl.lit([], dtype=pl.List(pl.List(pl.String))).alias("category_paths"),
        pl.lit([], dtype=pl.List(pl.String)).alias("queries"),
    ).with_columns(compose("title", "description"))
    counts |= {
        "items": items.height,
        "items_with_note": notes.height,
        "items_with_text": items.filter((pl.col("title") != "") | (pl.col("description") != "")).height,
    }
    columns = ("raw_id", "title", "description", "brand", "text", "category_paths", "queries")
    return items.select(columns)


def simulate(folder: Path, settings: SimulatedQilinSettings, seed: int) -> None:
    """Write simulated raw files in the format that `load` reads."""
    write_qilin(folder, settings.world, seed)


SIMULATED = Recipe(
    name="simulated-qilin",
    title="simulated searches and recommendations in the Qilin format",
    settings=SimulatedQilinSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "exact", "src": "exact"},
    licence="Apache-2.0 (generated by gemsbench)",
    citation="file format: arXiv 2503.00501",
    simulate=simulate,
    simulated_files=(*(f"{table.config}.parquet" for table in _TABLES), "notes.parquet"),
)

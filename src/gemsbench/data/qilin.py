"""Searches and recommendations of Qilin (arXiv 2503.00501): nested parquet, one file (or its shards) per hub config.

One click is one event. The official partition into train and test is by request and not used: the four tables of
requests are read as one log. A user needs `min_requests` requests with a click in both tasks. The catalogue is the
clicked notes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
_SPACE = r"[\p{Cc}\s]+"


@dataclass(frozen=True)
class QilinSettings:
    """Which users are kept."""

    min_requests: int = 3  # with a click, in each task


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
        f"users_with_{settings.min_requests}_requests_in_both": _busy(shown, pl.len(), settings.min_requests).len(),
        "search_clicks": clicks.filter(pl.col("task") == "src").height,
        "recommendation_clicks": clicks.filter(pl.col("task") == "rec").height,
    }
    timed = clicks.filter(pl.col("timestamp").is_not_null() & ((pl.col("task") == "rec") | (pl.col("query") != "")))
    distinct = timed.sort("user", "task", "timestamp", "group", "position", "item").unique(
        ["user", "task", "item", "query"], keep="first", maintain_order=True
    )
    users = _busy(distinct, pl.col("group").n_unique(), settings.min_requests)
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


def _scan(folder: Path, config: str, columns: Sequence[str]) -> pl.LazyFrame:
    files = sorted([*folder.glob(f"{config}.parquet"), *folder.glob(f"{config}-*.parquet")])
    if not files:
        raise InputError(f"{folder}: no {config}.parquet (or its shards {config}-*.parquet). Download that config.")
    for file in files:
        try:
            schema = pl.read_parquet_schema(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{file}: not a readable parquet file ({error}). Download it again.") from error
        _require(columns, schema, str(file))
    return pl.scan_parquet(files).select(columns)


def _require(names: Sequence[str], known: Collection[str], where: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{where}: missing column {', '.join(missing)}. It has: {', '.join(known)}.")


def _users_of_requests(folder: Path, table: _RequestTable) -> pl.DataFrame:
    users = _scan(folder, table.config, ["user_idx"])
    return users.select(pl.col("user_idx").cast(pl.String).alias("user"), pl.lit(table.task).alias("task")).collect()


def _busy(requests: pl.DataFrame, count: pl.Expr, at_least: int) -> pl.Series:
    """Users for whom count is at least `at_least` in both tasks."""
    enough = requests.group_by("user", "task").agg(count.alias("n")).filter(pl.col("n") >= at_least)
    return enough.group_by("user").len().filter(pl.col("len") == 2)["user"].sort()


def _clicks(folder: Path, table: _RequestTable) -> pl.DataFrame:
    """One row per clicked note of a request; a note shown twice in it counts once."""
    columns = ["user_idx", table.request, table.results, *([table.query] if table.query else [])]
    requests = _scan(folder, table.config, columns)
    element = requests.collect_schema()[table.results]
    fields = element.inner if isinstance(element, pl.List) else None
    where = f"{folder / table.config}.parquet, elements of {table.results}"
    if not isinstance(fields, pl.Struct):
        raise InputError(f"{where}: must be a list of structs, is {element}.")
    _require(["note_idx", "position", "click", table.timestamp], fields.to_schema(), where)
    query = pl.col(table.query) if table.query else pl.lit("")
    one = pl.col(table.results).struct
    return (
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
        .collect()
        .sort("row", "position")
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
    notes = (
        _scan(folder, "notes", _NOTE_COLUMNS)
        .filter(pl.col("note_idx").is_in(wanted.cast(pl.Int64).implode()))
        .collect(engine="streaming")
        .unique("note_idx", keep="first")
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

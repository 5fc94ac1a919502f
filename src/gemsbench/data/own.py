"""canonical: the user's own interactions, items and queries in parquet.

A folder (setting `folder`, relative to the repository) with
    interactions.parquet  user, item, task ("rec" or "src"), query (text; empty or null for rec), timestamp (seconds UTC
                          or a date-time; null where unknown); optional: group (basket or request), rating
    items.parquet         raw_id, title; optional: description, brand (text), category_paths (list of lists of text)
    queries.parquet       optional: raw_id, text; when present, the query column of the interactions holds raw_id
Ids may be text or whole numbers. A rec and a src event of the same user, item and time are one purchase and its search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.item_text import clean_text, compose
from gemsbench.data.queries import add_queries
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.errors import InputError
from gemsbench.files import read_table

_SHOWN = 5
_MILLISECONDS = 100_000_000_000  # seconds above this are past the year 5138
_EVENTS = ("user", "item", "task", "query", "timestamp")
_PATHS = pl.List(pl.List(pl.String))


@dataclass(frozen=True)
class OwnSettings:
    """folder: where the three parquet files are."""

    folder: str = "data/own"


def load(folder: Path, settings: OwnSettings) -> RawLog:
    """Read and check the user's tables; raises InputError naming file, column and rows."""
    events = _events(folder / "interactions.parquet")
    items = _items(folder / "items.parquet")
    queries = folder / "queries.parquet"
    if queries.is_file():
        events = _with_query_texts(events, queries, folder / "interactions.parquet")
    _check_events(events, items["raw_id"], folder / "interactions.parquet")
    counts = {
        "interactions": events.height,
        "rec interactions": int((events["task"] == "rec").sum()),
        "src interactions": int((events["task"] == "src").sum()),
        "items listed": items.height,
    }
    return RawLog(_raw_log(events), items, counts)


def _events(path: Path) -> pl.DataFrame:
    table = _read(path, _EVENTS)
    columns = [_text(table, column, path) for column in ("user", "item", "task", "query")]
    group = _text(table, "group", path).fill_null("") if "group" in table.columns else pl.lit("").alias("group")
    rating = pl.col("rating") if "rating" in table.columns else pl.lit(None).alias("rating")
    seconds = _seconds(table, path)
    events = table.select(*columns, seconds, group, rating)
    try:
        events = events.with_columns(pl.col("rating").cast(pl.Float32))
    except pl.exceptions.InvalidOperationError as error:
        raise InputError(f"{path}: column rating must hold numbers, it is {table.schema['rating']}.") from error
    return events.with_columns(pl.col("query").fill_null("").str.strip_chars()).with_row_index("row")


def _items(path: Path) -> pl.DataFrame:
    table = _read(path, ("raw_id", "title"))
    texts = {c: clean_text(_series(table, c, path)) for c in ("title", "description", "brand") if c in table.columns}
    paths = pl.lit([], dtype=_PATHS).alias("category_paths")
    if "category_paths" in table.columns:
        if table.schema["category_paths"] != _PATHS:
            kind = table.schema["category_paths"]
            raise InputError(f"{path}: column category_paths must hold lists of lists of text, it is {kind}.")
        levels = pl.col("category_paths").list.eval(pl.element().list.drop_nulls()).list.drop_nulls()
        paths = levels.fill_null(pl.lit([], dtype=_PATHS))
    items = table.select(
        _text(table, "raw_id", path),
        *(texts.get(c, pl.lit("").alias(c)) for c in ("title", "description", "brand")),
        paths,
    ).with_row_index("row")
    _reject(items, pl.col("raw_id").is_null(), path, "raw_id", "is null")
    _reject(items, pl.col("raw_id").is_duplicated(), path, "raw_id", "occurs more than once")
    return add_queries(items.drop("row").with_columns(compose("title", "description", "brand")))


def _with_query_texts(events: pl.DataFrame, path: Path, interactions: Path) -> pl.DataFrame:
    table = _read(path, ("raw_id", "text"))
    texts = table.select(_text(table, "raw_id", path).alias("query"), _text(table, "text", path)).with_row_index("row")
    _reject(texts, pl.col("query").is_duplicated(), path, "raw_id", "occurs more than once")
    joined = events.join(texts.select("query", "text"), on="query", how="left", maintain_order="left")
    unknown = (pl.col("query") != "") & pl.col("text").is_null()
    _reject(joined, unknown, interactions, "query", f"is not a raw_id of {path.name}")
    return joined.with_columns(query=pl.col("text").fill_null("")).drop("text")


def _check_events(events: pl.DataFrame, items: pl.Series, path: Path) -> None:
    if events.is_empty():
        raise InputError(f"{path}: there is no interaction in it.")
    for column in ("user", "item", "task"):
        _reject(events, pl.col(column).is_null() | (pl.col(column) == ""), path, column, "is empty")
    _reject(events, ~pl.col("task").is_in(["rec", "src"]), path, "task", "is neither 'rec' nor 'src'")
    search = pl.col("task") == "src"
    _reject(events, search & (pl.col("query") == ""), path, "query", "is empty in a search (task src)")
    _reject(events, ~search & (pl.col("query") != ""), path, "query", "is set in a recommendation (task rec)")
    _reject(events, ~pl.col("item").is_in(items.implode()), path, "item", "is not a raw_id of items.parquet")
    late = pl.col("timestamp").abs() > _MILLISECONDS
    _reject(events, late, path, "timestamp", "is not in seconds (milliseconds? divide by 1000)")


def _raw_log(events: pl.DataFrame) -> pl.DataFrame:
    search = pl.col("task") == "src"
    return events.select(
        "user",
        "item",
        "task",
        "query",
        pl.when(search).then(pl.lit("logged")).otherwise(pl.lit("")).alias("query_source"),
        "timestamp",
        pl.concat_str("user", "item", pl.col("timestamp").cast(pl.String).fill_null(""), separator="\x1f").alias(
            "pair"
        ),
        "group",
        "rating",
        pl.lit(0, dtype=pl.Int32).alias("position"),
    )


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Put your data there or set `folder` of the recipe 'canonical'.")
    table = read_table(path)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path}: missing columns {', '.join(missing)} (it has {', '.join(table.columns)}).")
    return table


def _series(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    return table.select(_text(table, column, path)).to_series()


def _text(table: pl.DataFrame, column: str, path: Path) -> pl.Expr:
    kind = table.schema[column]
    if kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Null) or isinstance(kind, pl.Enum):
        return pl.col(column).cast(pl.String)
    raise InputError(f"{path}: column {column} must hold text or whole numbers, it is {kind}.")


def _seconds(table: pl.DataFrame, path: Path) -> pl.Expr:
    kind = table.schema["timestamp"]
    if isinstance(kind, pl.Datetime) or kind == pl.Date:
        return pl.col("timestamp").dt.epoch("s").cast(pl.Int64)
    if kind.is_integer() or kind == pl.Null:
        return pl.col("timestamp").cast(pl.Int64)
    raise InputError(f"{path}: column timestamp must hold whole seconds or date-times, it is {kind}.")


def _reject(table: pl.DataFrame, bad: pl.Expr, path: Path, column: str, problem: str) -> None:
    rows = table.filter(bad)
    if rows.height:
        values = rows[column].head(_SHOWN).to_list() if column in rows.columns else []
        numbers = ", ".join(str(row) for row in rows["row"].head(_SHOWN))
        more = ", ..." if rows.height > _SHOWN else ""
        raise InputError(
            f"{path}: column {column} {problem} in {rows.height} rows (rows {numbers}{more}, counted from 0; "
            f"values {values}). Correct or drop them."
        )


RECIPE = Recipe(
    name="canonical",
    title="own data",
    settings=OwnSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "exact", "src": "exact"},
    licence="the owner's",
    citation="",
    both_behaviours=False,
)

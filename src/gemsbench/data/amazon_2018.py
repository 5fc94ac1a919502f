"""Amazon purchases and products in the format of the 2018 release ("v2"; Ni, Li and McAuley, EMNLP 2019).

Reviews are those of amazon.py. Metadata lines are strict JSON with one flat category path, into which page fragments
leak, and lists of paragraphs (description) and bullet points (feature).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data.amazon import (
    ITEM_COLUMNS,
    METADATA_PATTERN,
    AmazonSettings,
    core_purchases,
    finished_items,
    only_file,
    purchase_events,
    read_reviews,
    text_field,
)
from gemsbench.data.gzip_lines import LineCheck, halves, line_chunks
from gemsbench.data.item_text import clean_name
from gemsbench.data.recipe import RawLog

REVIEWS_PATTERN = "*_5.json.gz"
LONGEST_LEVEL = 60  # characters; what is longer is a product feature, not a category
_LISTS = ("category", "description", "feature")
_COLUMNS = {name: pl.String() for name in ("asin", "title", "brand")} | {name: pl.List(pl.String) for name in _LISTS}
_BY = r"^\s*by\s+"  # the page's own word before a name: "\n by\n Zen"
# Some titles are a script of the page instead, which reads the clock.
_SCRIPT = "getTime"


def load(folder: Path, settings: AmazonSettings) -> RawLog:
    """Read *_5.json.gz (reviews) and meta_*.json.gz of folder.

    Raises InputError when a file is missing, damaged, or has more than 0.1 % malformed lines.
    """
    reviews, review_check = read_reviews(folder, REVIEWS_PATTERN)
    kept, counts = core_purchases(reviews, review_check)
    meta_check = LineCheck(only_file(folder, METADATA_PATTERN))
    wanted = kept["item"].unique().sort()
    described = pl.concat([pl.DataFrame(schema=ITEM_COLUMNS), *_described(wanted, meta_check)])
    # A product listed twice counts once, as it is listed first.
    described = described.unique("raw_id", keep="first", maintain_order=True)
    items = finished_items(wanted, described, meta_check, counts)
    malformed = review_check.malformed + meta_check.malformed
    return RawLog(purchase_events(kept), items, counts, (*review_check.listed, *meta_check.listed), malformed)


def category_path(category: pl.Expr) -> pl.Expr:
    """The levels (list[str]) before the first that is none, empty ones dropped.

    None are: what contains "<", is longer than 60 characters, or ends as a sentence does (product features).
    """
    level = pl.element()
    sentence = level.str.strip_chars().str.ends_with(".")
    broken = level.str.contains("<", literal=True) | (level.str.len_chars() > LONGEST_LEVEL) | sentence
    sound = level.filter((~broken.fill_null(False)).cum_min() & (level.str.strip_chars() != "").fill_null(False))
    return category.list.eval(sound)


def _described(wanted: pl.Series, check: LineCheck) -> Iterator[pl.DataFrame]:
    for first, chunk in line_chunks(check.path, check):
        table = _records(first, chunk, check)
        check.judged += chunk.count(b"\n") + (not chunk.endswith(b"\n"))
        yield _as_items(table.filter(pl.col("asin").is_in(wanted.implode())))


def _records(first: int, lines: bytes, check: LineCheck) -> pl.DataFrame:
    """All lines at once; where one has other types than published each half by itself, one line by the slow reader."""
    try:
        table = pl.read_ndjson(io.BytesIO(lines), schema=_COLUMNS)
    except pl.exceptions.PolarsError:
        table = None
    if table is not None and not table["asin"].null_count():
        return table
    parts = halves(first, lines)
    if parts is not None:
        return pl.concat([_records(start, part, check) for start, part in parts])
    record = _record(lines)
    if isinstance(record, dict):
        return pl.DataFrame([record], schema=_COLUMNS)
    check.skip(first, record)
    return pl.DataFrame(schema=_COLUMNS)


def _record(line: bytes) -> dict[str, Any] | str:
    """The fields that are read, of other types than published too; or the reason why the line has none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({type(error).__name__})"
    if not isinstance(record, dict) or not isinstance(record.get("asin"), str):
        return "no JSON object with an asin"
    texts = {name: text_field(record.get(name)) for name in ("asin", "title", "brand")}
    return texts | {name: _texts(record.get(name)) for name in _LISTS}


def _texts(value: object) -> list[str]:
    """A list of texts; a text counts as a list of one, anything that is no text counts as missing."""
    parts = value if isinstance(value, list) else [value]
    return [text_field(part) for part in parts if isinstance(part, str)]


def _as_items(records: pl.DataFrame) -> pl.DataFrame:
    script = pl.col("title").str.contains(_SCRIPT, literal=True)
    paragraphs = pl.concat_list(pl.col("description", "feature").fill_null(pl.lit([], dtype=pl.List(pl.String))))
    items = records.select(
        raw_id="asin",
        title=pl.when(script).then(pl.lit("")).otherwise("title"),
        description=paragraphs.list.drop_nulls().list.join(" "),
        brand=pl.col("brand").str.replace(_BY, ""),
        path=category_path(pl.col("category")),
    )
    return items.select(*(name for name in ITEM_COLUMNS if name != "category_paths"), _paths(items["path"]))


def _paths(paths: pl.Series) -> pl.Series:
    """One cleaned path per product, or none."""
    named = [[name for level in path or () if (name := clean_name(level))] for path in paths.to_list()]
    return pl.Series("category_paths", [[path] if path else [] for path in named], dtype=pl.List(pl.List(pl.String)))

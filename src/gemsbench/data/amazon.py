"""Amazon purchases and products in the format of the McAuley 2014 release (He & McAuley 2016; McAuley et al. 2015).

Reviews are JSON lines, metadata lines are Python dict literals. Every review is a purchase, whatever its rating.
Queries are made from the category paths, and for that reason the item text leaves the paths out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data.gzip_lines import LineCheck, halves, line_chunks
from gemsbench.data.item_text import UNKNOWN_ITEM, clean_name, clean_text, compose, valid_unicode
from gemsbench.data.kcore import k_core
from gemsbench.data.literals import wanted_records
from gemsbench.data.queries import add_queries
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.simulation.amazon_files import METADATA, REVIEWS, write_amazon
from gemsbench.data.simulation.world import WorldSettings
from gemsbench.errors import InputError

K_CORE = 5  # of users and items, as in the reviews_*_5 files (McAuley et al. 2015)
# Names, review texts and everything else about a person are dropped while reading.
_REVIEW_COLUMNS = {
    "reviewerID": pl.String(),
    "asin": pl.String(),
    "overall": pl.Float32(),
    "unixReviewTime": pl.Int64(),
}
METADATA_PATTERN = "meta_*.json.gz"
_LATEST = 4_102_444_800  # the year 2100 in seconds; a larger time is in milliseconds
ITEM_COLUMNS = {
    "raw_id": pl.String(),
    "title": pl.String(),
    "description": pl.String(),
    "brand": pl.String(),
    "category_paths": pl.List(pl.List(pl.String)),
}
_ID = r"^[A-Za-z0-9_#-]+$"  # "#oc-R1..." is a customer too
_VALID = (
    pl.col("reviewerID").str.contains(_ID)
    & pl.col("asin").str.contains(_ID)
    & pl.col("overall").is_between(1, 5)
    & pl.col("unixReviewTime").is_between(0, _LATEST)
)


@dataclass(frozen=True)
class AmazonSettings:
    """No switch: the 5-core is what the recipe is."""


@dataclass(frozen=True)
class SimulatedAmazonSettings(AmazonSettings):
    """AmazonSettings, and the size of the simulated world."""

    world: WorldSettings = field(default_factory=WorldSettings)


def load(folder: Path, settings: AmazonSettings) -> RawLog:
    """Read reviews_*.json.gz and meta_*.json.gz of folder.

    Raises InputError when a file is missing, damaged, or has more than 0.1 % malformed lines.
    """
    reviews, review_check = read_reviews(folder)
    kept, counts = core_purchases(reviews, review_check)
    items, meta_check, item_counts = read_items(folder, kept["item"])
    listed = (*review_check.listed, *meta_check.listed)
    malformed = review_check.malformed + meta_check.malformed
    return RawLog(purchase_events(kept), items, counts | item_counts, listed, malformed)


def read_reviews(folder: Path, pattern: str = "reviews_*.json.gz") -> tuple[pl.DataFrame, LineCheck]:
    """Every well-formed review of the folder's one file named like pattern, in the order of the file.

    Columns: user, item (str), rating (float32), timestamp (int64 s). Raises InputError as `load` does.
    """
    check = LineCheck(only_file(folder, pattern))
    return _read_reviews(check), check


def read_items(
    folder: Path, wanted: pl.Series, *, make_queries: bool = True
) -> tuple[pl.DataFrame, LineCheck, dict[str, int]]:
    """What meta_*.json.gz of folder says of the wanted products: RawLog.items sorted by raw_id, and their counts.

    wanted: product ids (str), repeated or not; one without a metadata line gets empty fields. make_queries False leaves
    queries empty, and out of the counts. Raises as `load` does.
    """
    check = LineCheck(only_file(folder, METADATA_PATTERN))
    counts: dict[str, int] = {}
    products = wanted.unique().sort()
    described = item_table(wanted_records(check.path, products, check))
    items = finished_items(products, described, check, counts, make_queries=make_queries)
    return items, check, counts


def core_purchases(reviews: pl.DataFrame, check: LineCheck) -> tuple[pl.DataFrame, dict[str, int]]:
    """The first review of each product by each user, cut to the 5-core, and the counts of both steps."""
    counts = {
        "review_lines": check.lines,
        "malformed_review_lines": check.malformed,
        "users_in_reviews": reviews["user"].n_unique(),
        "items_in_reviews": reviews["item"].n_unique(),
    }
    first = reviews.sort("user", "item", "timestamp", "rating").unique(
        ["user", "item"], keep="first", maintain_order=True
    )
    kept = k_core(first, K_CORE)
    counts |= {
        "repeated_reviews": reviews.height - first.height,
        "users": kept["user"].n_unique(),
        "items": kept["item"].n_unique(),
        "purchases": kept.height,
    }
    return kept, counts


def only_file(folder: Path, pattern: str) -> Path:
    """The one file of folder that is named like pattern; raises InputError when there is none, or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        fetch = f" Get it: gemsbench data fetch {folder.name}." if not found else ""
        raise InputError(f"{folder}: needs exactly one file named {pattern}, found: {names}.{fetch}")
    return found[0]


def _read_reviews(check: LineCheck) -> pl.DataFrame:
    chunks = line_chunks(check.path, check)
    parts = [_sound_reviews(first, chunk, check) for first, chunk in chunks]
    check.judged = check.lines
    check.finish()
    names = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "timestamp"}
    return pl.concat(parts).rename(names)


def _sound_reviews(first: int, lines: bytes, check: LineCheck) -> pl.DataFrame:
    """All lines at once; where one is malformed each half by itself, so that its neighbours do not matter."""
    try:
        table = pl.read_ndjson(io.BytesIO(lines), schema=_REVIEW_COLUMNS)
    except pl.exceptions.PolarsError:
        reason = "not a JSON object with values of the published types"
    else:
        if table.select(_VALID.fill_null(False).all()).item():
            return table
        reason = "user, product, rating or time is missing or out of range"
    parts = halves(first, lines)
    if parts is None:
        check.skip(first, reason)
        return pl.DataFrame(schema=_REVIEW_COLUMNS)
    return pl.concat([_sound_reviews(start, part, check) for start, part in parts])


def purchase_events(purchases: pl.DataFrame) -> pl.DataFrame:
    """RawLog.events of purchases (user, item, timestamp, rating): each a recommendation event and a pair of its own."""
    return purchases.select(
        "user",
        "item",
        pl.lit("rec").alias("task"),
        pl.lit("").alias("query"),
        pl.lit("").alias("query_source"),
        "timestamp",
        pl.concat_str("user", "item", separator="/").alias("pair"),
        pl.lit("").alias("group"),
        "rating",
        pl.lit(0, dtype=pl.Int32).alias("position"),
    )


def finished_items(
    wanted: pl.Series,
    described: pl.DataFrame,
    check: LineCheck,
    counts: dict[str, int],
    *,
    make_queries: bool = True,
) -> pl.DataFrame:
    """RawLog.items in the order of wanted, from what was read of them (ITEM_COLUMNS); counts is added to.

    make_queries False: queries are empty, and not counted.
    """
    check.finish()
    items = wanted.alias("raw_id").to_frame().join(described, on="raw_id", how="left", maintain_order="left")
    no_paths = pl.lit([], dtype=pl.List(pl.List(pl.String)))
    items = items.with_columns(
        *(clean_text(items[name]) for name in ("title", "description", "brand")),
        pl.col("category_paths").fill_null(no_paths),
    )
    items = items.with_columns(
        compose("title", "description", "brand"), pl.lit([], dtype=pl.List(pl.String)).alias("queries")
    )
    counts |= {
        "metadata_lines": check.lines,
        "malformed_metadata_lines": check.malformed,
        "items_with_metadata": described.height,
        "items_with_text": items.filter((pl.col("title") != "") | (pl.col("description") != "")).height,
        "items_without_any_text": items.filter(pl.col("text") == UNKNOWN_ITEM).height,
    }
    if make_queries:
        items = add_queries(items)
        counts |= query_counts(items)
    columns = ("raw_id", "title", "description", "brand", "text", "category_paths", "queries")
    return items.select(columns)


def query_counts(items: pl.DataFrame) -> dict[str, int]:
    """How many items have queries (column queries, list[str]), and how many queries they have between them."""
    return {
        "items_with_query": items.filter(pl.col("queries").list.len() > 0).height,
        "queries": items["queries"].explode(empty_as_null=False).n_unique(),
    }


def item_table(records: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """ITEM_COLUMNS of metadata records, texts as they are in the file."""
    rows = [
        (r["asin"], text_field(r.get("title")), text_field(r.get("description")), text_field(r.get("brand")), _paths(r))
        for r in records
    ]
    return pl.DataFrame(rows, schema=ITEM_COLUMNS, orient="row")


def text_field(value: object) -> str:
    """A text field; the few that are lists are joined, anything else counts as missing."""
    if isinstance(value, list | tuple):
        value = " ".join(part for part in value if isinstance(part, str))
    return valid_unicode(value) if isinstance(value, str) else ""


def _paths(record: Mapping[str, Any]) -> list[list[str]]:
    """The distinct category paths, empty levels dropped; a flat list counts as one path."""
    paths = record.get("categories")
    if not isinstance(paths, list):
        return []
    if all(isinstance(level, str) for level in paths):
        paths = [paths]
    cleaned = [_path(path) for path in paths if isinstance(path, list | tuple)]
    return [list(path) for path in dict.fromkeys(cleaned) if path]


def _path(levels: Iterable[object]) -> tuple[str, ...]:
    names = (clean_name(level) for level in levels if isinstance(level, str))
    return tuple(name for name in names if name)


def simulate(folder: Path, settings: SimulatedAmazonSettings, seed: int) -> None:
    """Write simulated raw files in the format that `load` reads."""
    write_amazon(folder, settings.world, seed, core=K_CORE)


SIMULATED = Recipe(
    name="simulated-amazon",
    title="simulated purchases in the Amazon format",
    settings=SimulatedAmazonSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "day", "src": "day"},
    licence="Apache-2.0 (generated by gemsbench)",
    citation="file format: He & McAuley, WWW 2016; McAuley et al., SIGIR 2015",
    simulate=simulate,
    simulated_files=(REVIEWS, METADATA),
    k_core=K_CORE,
)

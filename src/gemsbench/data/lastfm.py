"""lastfm-small: HetRec 2011 Last.fm 2K; listening is the purchase, a free-text tag the search, by the same users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.delimited import INTEGER, read_delimited
from gemsbench.data.item_text import clean_text
from gemsbench.data.recipe import RawLog, Recipe

FIRST_YEAR = 2005  # five assignments carry impossible earlier dates
MIN_ITEM_EVENTS = 5  # (user, artist) pairs over both tasks
MIN_USER_EVENTS = 3  # pairs per task: leave-one-out needs train, valid and test


@dataclass(frozen=True)
class LastFMSettings:
    """No switch: the counts of this recipe are pinned."""


def load(folder: Path, settings: LastFMSettings) -> RawLog:
    """Listened artists as purchases without time, tag assignments as searches of a month (its first second, UTC).

    A (user, artist) keeps all its tags here; canonical_tables draws one of them.
    """
    artists = read_delimited(folder / "artists.dat", "\t", {"id": INTEGER, "name": ""})
    tags = read_delimited(folder / "tags.dat", "\t", {"tagID": INTEGER, "tagValue": ""})
    listened = read_delimited(folder / "user_artists.dat", "\t", {"userID": INTEGER, "artistID": INTEGER})
    assigned = read_delimited(
        folder / "user_taggedartists.dat",
        "\t",
        {"userID": INTEGER, "artistID": INTEGER, "tagID": INTEGER, "month": INTEGER, "year": INTEGER},
    )
    searches = _searches(assigned.table, tags.table, artists.table)
    purchases = _events(listened.table.join(artists.table, left_on="artistID", right_on="id", how="semi"), "rec")
    events = _filtered(pl.concat([purchases, searches]))
    items = _items(artists.table.join(events.select("item"), left_on="id", right_on="item", how="semi"))
    counts = {
        "raw artists": artists.table.height,
        "raw tags": tags.table.height,
        "raw listened artists": listened.table.height,
        "raw tag assignments": assigned.table.height,
        "dated assignments of known artists": searches.height,
        "tagged (user, artist)": searches.select("user", "item").n_unique(),
        "users": events["user"].n_unique(),
        "items": events["item"].n_unique(),
        "listened (user, artist) kept": events.filter(pl.col("task") == "rec").select("user", "item").n_unique(),
        "tagged (user, artist) kept": events.filter(pl.col("task") == "src").select("user", "item").n_unique(),
    }
    return RawLog(events, items, counts, artists.skipped + tags.skipped + listened.skipped + assigned.skipped)


def _searches(assigned: pl.DataFrame, tags: pl.DataFrame, artists: pl.DataFrame) -> pl.DataFrame:
    dated = assigned.filter(pl.col("year").cast(pl.Int32) >= FIRST_YEAR)
    known = dated.join(artists, left_on="artistID", right_on="id", how="semi").join(tags, on="tagID", how="inner")
    return _events(known, "src")


def _events(rows: pl.DataFrame, task: str) -> pl.DataFrame:
    month = pl.datetime(pl.col("year").cast(pl.Int32), pl.col("month").cast(pl.Int32), 1).dt.epoch("s")
    search = task == "src"
    return rows.select(
        user="userID",
        item="artistID",
        task=pl.lit(task),
        query="tagValue" if search else pl.lit(""),
        query_source=pl.lit("logged" if search else ""),
        timestamp=month if search else pl.lit(None, dtype=pl.Int64),
        # Listening to an artist and tagging it is one piece of knowledge: held out of both tasks together.
        pair=pl.concat_str("userID", "artistID", separator=" "),
        group=pl.lit(""),
        rating=pl.lit(None, dtype=pl.Float32),
        position=pl.lit(0, dtype=pl.Int32),
    )


def _filtered(events: pl.DataFrame) -> pl.DataFrame:
    """Both minimum counts, over distinct (user, item, task), repeated until nothing changes."""
    pairs = events.select("user", "item", "task").unique()
    while True:
        kept = pairs.filter(pl.len().over("item") >= MIN_ITEM_EVENTS)
        enough = [(pl.col("task") == task).sum().over("user") >= MIN_USER_EVENTS for task in ("rec", "src")]
        kept = kept.filter(*enough)
        if kept.height == pairs.height:
            return events.join(kept, on=["user", "item", "task"], how="semi", maintain_order="left")
        pairs = kept


def _items(artists: pl.DataFrame) -> pl.DataFrame:
    return artists.with_columns(name=clean_text(artists["name"])).select(
        raw_id="id",
        title="name",
        description=pl.lit(""),
        brand=pl.lit(""),
        text="name",
        category_paths=pl.lit([], dtype=pl.List(pl.List(pl.String))),
        queries=pl.lit([], dtype=pl.List(pl.String)),
    )


RECIPE = Recipe(
    name="lastfm-small",
    title="Last.fm HetRec 2011",
    settings=LastFMSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "none", "src": "month"},
    licence="non-commercial use (HetRec 2011 readme)",
    citation="Cantador, Brusilovsky and Kuflik, HetRec workshop at RecSys 2011",
    sources=("lastfm-small",),
    pins={
        "raw artists": 17_632,
        "raw tags": 11_946,
        "raw listened artists": 92_834,
        "raw tag assignments": 186_479,
        "users": 1_375,
        "items": 5_400,
        "listened (user, artist) kept": 58_652,
        "tagged (user, artist) kept": 59_184,
    },
    min_shares={"title": 1.0},
)

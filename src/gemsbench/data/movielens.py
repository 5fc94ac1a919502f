"""movielens-small: MovieLens ml-latest-small (2018), 5-core of the ratings, queries from genres and real tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.delimited import DECIMAL, INTEGER, read_delimited
from gemsbench.data.item_text import clean_text
from gemsbench.data.kcore import k_core
from gemsbench.data.queries import add_queries
from gemsbench.data.recipe import RawLog, Recipe

K_CORE = 5
NO_GENRE = "(no genres listed)"


@dataclass(frozen=True)
class MovieLensSettings:
    """No switch: the counts of this recipe are pinned."""


def load(folder: Path, settings: MovieLensSettings) -> RawLog:
    """Ratings of the 5-core as purchases, tags on rated films as logged searches; times in seconds UTC."""
    ratings = read_delimited(
        folder / "ratings.csv",
        ",",
        {"userId": INTEGER, "movieId": INTEGER, "rating": DECIMAL, "timestamp": INTEGER},
        quoted=True,
    )
    movies = read_delimited(folder / "movies.csv", ",", {"movieId": INTEGER, "title": "", "genres": ""}, quoted=True)
    tags = read_delimited(folder / "tags.csv", ",", {"userId": INTEGER, "movieId": INTEGER, "tag": ""}, quoted=True)
    core = k_core(ratings.table, K_CORE, user="userId", item="movieId")
    purchases = _purchases(core)
    searches = _searches(tags.table, purchases)
    items = _items(movies.table, core["movieId"].unique())
    counts = {
        "raw ratings": ratings.table.height,
        "raw users": ratings.table["userId"].n_unique(),
        "raw films": movies.table.height,
        "raw tags": tags.table.height,
        "5-core users": core["userId"].n_unique(),
        "5-core items": core["movieId"].n_unique(),
        "5-core ratings": core.height,
        "tags on rated films": searches.height,
        "tags on other films (dropped)": tags.table.height - searches.height,
    }
    return RawLog(pl.concat([purchases, searches]), items, counts, ratings.skipped + movies.skipped + tags.skipped)


def _purchases(core: pl.DataFrame) -> pl.DataFrame:
    return core.select(
        user="userId",
        item="movieId",
        task=pl.lit("rec"),
        query=pl.lit(""),
        query_source=pl.lit(""),
        timestamp=pl.col("timestamp").cast(pl.Int64),
        pair=pl.concat_str("userId", "movieId", separator=" "),
        group=pl.lit(""),
        rating=pl.col("rating").cast(pl.Float32),
        position=pl.lit(0, dtype=pl.Int32),
    )


def _searches(tags: pl.DataFrame, purchases: pl.DataFrame) -> pl.DataFrame:
    tagged = tags.select(user="userId", item="movieId", tag="tag")
    return purchases.join(tagged, on=["user", "item"], how="inner").select(
        "user",
        "item",
        pl.lit("src").alias("task"),
        pl.col("tag").alias("query"),
        pl.lit("logged").alias("query_source"),
        *("timestamp", "pair", "group", "rating", "position"),
    )


def _items(movies: pl.DataFrame, kept: pl.Series) -> pl.DataFrame:
    genres = pl.col("genres").str.split("|")
    title = clean_text(movies["title"])
    items = movies.with_columns(title=title).join(kept.to_frame(), on="movieId", how="semi")
    return add_queries(
        items.select(
            raw_id="movieId",
            title="title",
            description=pl.lit(""),
            brand=pl.lit(""),
            text="title",
            category_paths=pl.when(pl.col("genres") == NO_GENRE)
            .then(pl.lit([], dtype=pl.List(pl.List(pl.String))))
            .otherwise(genres.implode().over(pl.int_range(pl.len()))),
        )
    )


RECIPE = Recipe(
    name="movielens-small",
    title="MovieLens latest-small",
    settings=MovieLensSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "exact", "src": "exact"},
    licence="GroupLens terms of use: research, acknowledgement, redistribution under the same conditions",
    citation="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
    sources=("movielens-small",),
    pins={
        "raw ratings": 100_836,
        "raw users": 610,
        "raw films": 9_742,
        "raw tags": 3_683,
        "5-core users": 610,
        "5-core items": 3_650,
        "5-core ratings": 90_274,
    },
    k_core=K_CORE,
    min_shares={"title": 1.0, "category_paths": 0.99},
)

"""Searches and recommendations of Qilin (arXiv 2503.00501) under our rules: distinct notes, one click is one event.

The population is the one of the released code of arXiv 2601.09496 (qilin_population.py), a note being one note wherever
it stands. The official partition into train and test is by request and not used: the four tables of requests are read
as one log. The catalogue is every note left in a list of results or of recent clicks, clicked or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from gemsbench.data.qilin_population import Population, population
from gemsbench.data.qilin_tables import TABLES, read_notes, read_requests
from gemsbench.data.recipe import Card, RawLog, Recipe
from gemsbench.data.simulation.qilin_files import write_qilin
from gemsbench.data.simulation.request_world import RequestWorldSettings

_MILLISECONDS = 100_000_000_000  # seconds above this are past the year 5138


@dataclass(frozen=True)
class QilinSettings:
    """No switch: which users stay is what the recipe is."""


@dataclass(frozen=True)
class SimulatedQilinSettings(QilinSettings):
    """QilinSettings, and the size of the simulated world."""

    world: RequestWorldSettings = field(default_factory=RequestWorldSettings)


def load(folder: Path, settings: QilinSettings) -> RawLog:
    """Read the four request tables and the notes of folder; raises InputError naming a missing file or column."""
    kept = population(read_requests(folder), typed=False)
    counts = dict(kept.counts)
    clicks = clicked_notes(kept)
    counts |= {
        "search clicks": clicks.filter(pl.col("task") == "src").height,
        "recommendation clicks": clicks.filter(pl.col("task") == "rec").height,
        "clicks timed in milliseconds (divided)": clicks.filter("milliseconds").height,
    }
    timed = clicks.filter(pl.col("timestamp").is_not_null() & ((pl.col("task") == "rec") | (pl.col("query") != "")))
    distinct = timed.sort("user", "task", "timestamp", "row", "position", "note").unique(
        ["user", "task", "note", "query"], keep="first", maintain_order=True
    )
    counts |= {
        "clicks without time or query (dropped)": clicks.height - timed.height,
        "repeated clicks (dropped)": timed.height - distinct.height,
        "users with an event": distinct["user"].n_unique(),
        "search events": distinct.filter(pl.col("task") == "src").height,
        "recommendation events": distinct.filter(pl.col("task") == "rec").height,
        "queries": distinct.filter(pl.col("task") == "src")["query"].n_unique(),
    }
    items, found = read_notes(folder, pl.concat([kept.shown["note"], kept.recent["note"]]).unique().sort())
    return RawLog(_events(distinct), items, counts | found)


def clicked_notes(kept: Population) -> pl.DataFrame:
    """One row per clicked note of a request, a note shown twice in it once: user, task, note, query, timestamp, ...

    timestamp: Int64 seconds; milliseconds (bool) tells where it was divided.
    """
    clicks = kept.shown.filter("click").sort("row", "position", "place")
    clicks = clicks.unique(["row", "note"], keep="first", maintain_order=True)
    time, fine = pl.col("time"), pl.col("time") > _MILLISECONDS
    seconds = pl.when(fine).then(time / 1_000).otherwise(time)
    possible = time.is_finite() & (time > 0) & (seconds <= _MILLISECONDS)
    clicks = clicks.with_columns(
        timestamp=pl.when(possible).then(seconds.floor()).cast(pl.Int64),
        milliseconds=(possible & fine).fill_null(False),
    )
    return clicks.drop("time").join(kept.requests.drop("time"), on="row", maintain_order="left")


def _events(clicks: pl.DataFrame) -> pl.DataFrame:
    return clicks.select(
        pl.col("user").cast(pl.String),
        pl.col("note").cast(pl.String).alias("item"),
        "task",
        "query",
        pl.when(pl.col("task") == "src").then(pl.lit("logged")).otherwise(pl.lit("")).alias("query_source"),
        "timestamp",
        pl.format("{}/{}", "group", "note").alias("pair"),
        "group",
        pl.lit(None, dtype=pl.Float32).alias("rating"),
        "position",
    )


def simulate(folder: Path, settings: SimulatedQilinSettings, seed: int) -> None:
    """Write simulated raw files in the format that `load` reads."""
    write_qilin(folder, settings.world, seed)


CUT = (
    "The four request tables are read as one log; the official partition into train and test is by request and not "
    "used.",
    "Users with at least three requests, clicked or not, in each of the two tasks are kept.",
    "At most ten rounds: users with fewer than three requests over both tasks, notes that occur fewer than three times "
    "in the clicked, shown and recently clicked lists together, and requests without any note left are dropped. A note "
    "is one note wherever it stands.",
    "The notes left in any of the three lists are the catalogue, whether or not anybody clicked them.",
    "One click is one event. Of equal clicks (user, task, note and query) the first is kept; clicks without a time and "
    "searches without a query are dropped.",
    "Users without an event of each task are dropped. Per user and task, the last request with a click is the test, "
    "the one before it the validation; a history holds what is strictly earlier.",
)

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
    simulated_files=(*(f"{table.config}.parquet" for table in TABLES), "notes.parquet"),
    card=Card(
        about="Invented searches and recommendations of a note-sharing service, drawn from a small world of tastes and "
        "topics and written in the file format of Qilin. No person and no note in it exists.",
        cut=CUT,
        flaws=(
            "Results on it say how methods behave in this world, not how well they do on real data.",
            "Almost all text is English of a few hundred words, where Qilin is Chinese.",
            "Shown notes that nobody clicked are drawn from the same world as clicked ones, so that counts after the "
            "filters are not those of the real log.",
        ),
    ),
)

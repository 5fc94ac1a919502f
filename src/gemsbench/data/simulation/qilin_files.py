"""The simulated requests as nested parquet with the columns of the Qilin hub configs, oddities included.

Several clicks per request, requests without one, unknown page times, notes without title or content, a few percent
Chinese. note_idx is the row number of the note.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from gemsbench.data.simulation import wording
from gemsbench.data.simulation.line_writing import join
from gemsbench.data.simulation.phrases import pick
from gemsbench.data.simulation.request_world import Requests, RequestWorldSettings, make_requests
from gemsbench.data.simulation.topic_tree import TopicTree, make_tree
from gemsbench.data.simulation.world import IntArray, ItemChooser, World, make_world
from gemsbench.files import atomic_path, write_table
from gemsbench.seeds import stream

_SHARD = 250_000  # notes made at a time; bounds memory
_RECENT = 20  # clicks before a request that the log repeats
_SESSION_GAP = 1_800  # seconds
_TEST_SHARE = 0.12
_CHINESE = 0.04
_RANKED = 10  # entries of the ranked lists of other systems


def write_qilin(folder: Path, settings: RequestWorldSettings, seed: int) -> None:
    """Write the notes and the four request tables into folder; the bytes depend on settings and seed only."""
    world = make_world(
        settings.users, settings.notes, settings.topics, settings.communities, stream(seed, "qilin world")
    )
    themes = {theme: (subjects, words) for theme, (_, subjects, words) in wording.THEMES.items()}
    tree = make_tree(themes, wording.NOTE_MODIFIERS, settings.topics, stream(seed, "theme tree"))
    drawn = make_requests(world, settings, seed)
    _write_notes(folder, world.item_topic, tree, seed)
    rows = _request_rows(drawn).with_columns(_queries(drawn.requests, tree, seed))
    rows = rows.with_columns(_test_rows(rows, stream(seed, "test partition")))
    for task, name in (("src", "search"), ("rec", "recommendation")):
        part = rows.filter(pl.col("task") == task).sort("time", "request")
        for partition in ("train", "test"):
            chosen = part.filter(pl.col("test") == (partition == "test"))
            table = _table(chosen, task, partition, world, stream(seed, "ranked lists", task, partition))
            write_table(folder / f"{name}_{partition}.parquet", table)


def _write_notes(folder: Path, note_topic: IntArray, tree: TopicTree, seed: int) -> None:
    shards = ceil(note_topic.size / _SHARD)
    with atomic_path(folder / "notes.parquet") as whole, TemporaryDirectory(dir=folder) as parts:
        for shard in range(shards):
            start = shard * _SHARD
            topic = pl.Series(note_topic[start : start + _SHARD])
            notes = _notes(start, topic, tree, stream(seed, "notes", shard))
            write_table(Path(parts) / f"{shard:05d}.parquet", notes)
        pl.scan_parquet(Path(parts) / "*.parquet").sink_parquet(whole, compression="zstd", row_group_size=_SHARD)


def _notes(start: int, topic: pl.Series, tree: TopicTree, rng: np.random.Generator) -> pl.DataFrame:
    n = topic.len()
    pieces = pl.DataFrame(
        {
            "note_idx": np.arange(start, start + n),
            "opener": pick(wording.NOTE_OPENERS, n, rng),
            "closer": pick(wording.NOTE_CLOSERS, n, rng),
            "word": tree.word(topic, rng),
            "other_word": tree.word(topic, rng),
            "chinese_title": pick(wording.CHINESE_TITLES, n, rng),
            "chinese_sentence": pick(wording.CHINESE_SENTENCES, n, rng),
            "theme": tree.column("department", topic),
            "subject": tree.column("group", topic).str.to_lowercase(),
            "leaf": tree.column("leaf", topic).str.to_lowercase(),
            "topic": topic,
            "video": rng.random(n) < 0.3,
            **{f"u{k}": pl.Series(rng.random(n)) for k in range(4)},
            **{name: pl.Series(rng.integers(0, 5_000, n)) for name in ("imp_num", "click_num", "like_num")},
            **{name: pl.Series(rng.integers(0, 500, n)) for name in ("collect_num", "comment_num", "share_num")},
        }
    )
    c = pl.col
    return pieces.select(
        "note_idx",
        pl.when(c("u0") > 0.05).then(_title()).alias("note_title"),
        pl.when(c("u1") > 0.04).then(_content()).alias("note_content"),
        pl.when("video").then(2).otherwise(1).alias("note_type"),
        c("theme").alias("taxonomy1_id"),
        c("subject").alias("taxonomy2_id"),
        c("leaf").alias("taxonomy3_id"),
        pl.when("video").then((c("u2") * 300).cast(pl.Int64)).alias("video_duration"),
        pl.when("video").then(1_920).alias("video_height"),
        pl.when("video").then(1_080).alias("video_width"),
        pl.when("video").then(1).otherwise(1 + c("imp_num") % 9).alias("image_num"),
        _content().str.len_chars().alias("content_length"),
        (c("u3") < 0.03).cast(pl.Int64).alias("commercial_flag"),
        pl.selectors.ends_with("_num"),
        pl.concat_list(join("images/", c("note_idx"), "_0.jpg")).alias("image_path"),
    )


def _title() -> pl.Expr:
    """Most titles name the subject, half of them precisely; some are Chinese."""
    c = pl.col
    named = pl.when(c("u2") < 0.5).then(c("leaf")).when(c("u2") < 0.85).then(c("subject")).otherwise(c("word"))
    english = join(c("opener"), " ", named)
    return pl.when(c("u3") < _CHINESE).then(join(c("chinese_title"), " ", c("word"))).otherwise(english)


def _content() -> pl.Expr:
    c = pl.col
    english = join("A ", c("word"), " &amp; a ", c("other_word"), ",\n", c("closer"))
    tagged = pl.when(c("u2") > 0.6).then(join(english, " #", c("subject"), "#")).otherwise(english)
    return pl.when(c("u3") < _CHINESE).then(join(c("chinese_sentence"), c("word"))).otherwise(tagged)


def _queries(requests: pl.DataFrame, tree: TopicTree, seed: int) -> pl.Series:
    """What was typed: the subject, more or less precisely, now and then in Chinese; null for recommendations."""
    rng = stream(seed, "queries")
    topic, c = requests["topic"], pl.col
    chinese = {theme: name for theme, (name, _, _) in wording.THEMES.items()}
    pieces = pl.DataFrame(
        {
            "task": requests["task"],
            "leaf": tree.column("leaf", topic).str.to_lowercase(),
            "subject": tree.column("group", topic).str.to_lowercase(),
            "word": tree.word(topic, rng),
            "chinese": tree.column("department", topic).replace_strict(chinese),
            "u": rng.random(topic.len()),
        }
    )
    typed = (
        pl.when(c("u") < _CHINESE)
        .then(join(c("chinese"), " ", c("word")))
        .when(c("u") < 0.5)
        .then(c("leaf"))
        .when(c("u") < 0.75)
        .then(c("subject"))
        .otherwise(join(c("subject"), " ", c("word")))
    )
    return pieces.select(pl.when(c("task") == "src").then(typed).alias("query")).to_series()


def _request_rows(drawn: Requests) -> pl.DataFrame:
    """One row per request with its results as a list of structs and the clicks before it, newest first."""
    c = pl.col
    requests = drawn.requests.with_columns(
        (c("time").diff().over("user").fill_null(_SESSION_GAP + 1) > _SESSION_GAP).cum_sum().alias("session_idx")
    )
    shown = drawn.shown.with_columns((c("click") * 13 + c("note") % 47).alias("mark"))
    details = shown.join(requests.select("request", "time"), on="request", maintain_order="left").group_by(
        "request", maintain_order=True
    )
    results = details.agg(pl.struct(*_result_fields()).alias("results"), c("click").sum().alias("clicks"))
    rows = requests.join(results, on="request", how="left", maintain_order="left")
    before = c("clicks").cum_sum().over("user") - c("clicks")
    rows = rows.with_columns(before.alias("before"))
    clicked = (
        drawn.shown.filter(c("click") == 1)
        .join(requests.select("request", "user"), on="request", maintain_order="left")
        .group_by("user", maintain_order=True)
        .agg(c("note").alias("all_clicks"))
    )
    kept = pl.min_horizontal("before", pl.lit(_RECENT))
    recent = c("all_clicks").list.slice(c("before") - kept, kept).list.reverse()
    rows = rows.join(clicked, on="user", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(pl.Int64))
    return rows.with_columns(recent.fill_null(empty).alias("recent_clicked_note_idxs")).drop("all_clicks", "before")


def _result_fields() -> tuple[pl.Expr, ...]:
    c = pl.col
    seconds = (c("mark") * 1.7).cast(pl.Float64)
    unknown = pl.when(c("mark") % 11 == 0).then(float("nan")).when(c("mark") % 13 == 0).then(-1.0)
    return (
        c("note").alias("note_idx"),
        c("position"),
        c("click"),
        *((c("click") * (c("mark") % k == 0)).cast(pl.Int64).alias(name) for name, k in _REACTIONS.items()),
        unknown.otherwise(seconds * c("click")).alias("page_time"),
        c("time").alias("timestamp"),
    )


_REACTIONS: Mapping[str, int] = {"like": 3, "collect": 5, "comment": 7, "share": 17}  # one click in so many


def _test_rows(rows: pl.DataFrame, rng: np.random.Generator) -> pl.Series:
    """Requests of the official test tables; each has a click."""
    return pl.Series("test", (rows["clicks"].to_numpy() > 0) & (rng.random(rows.height) < _TEST_SHARE))


def _table(rows: pl.DataFrame, task: str, partition: str, world: World, rng: np.random.Generator) -> pl.DataFrame:
    name, time, index = {
        "src": ("search_result_details_with_idx", "search_timestamp", "search_idx"),
        "rec": ("rec_result_details_with_idx", "request_timestamp", "request_idx"),
    }[task]
    fields = [field.name for field in rows.schema["results"].inner.fields[:-1]]  # type: ignore[attr-defined]
    renamed = pl.element().struct.rename_fields([*fields, time])
    lists = ["dpr_results"] if task == "src" else []
    if partition == "test":
        lists += ["bm25_results", "search_results"] if task == "src" else ["bm25_results", "dpr_results", "rec_results"]
    kinds = [pl.Series("query_from_type", rng.integers(1, 9, rows.height))] if task == "src" else []
    return rows.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(index),
        "session_idx",
        pl.col("user").alias("user_idx"),
        "query",
        *kinds,
        "recent_clicked_note_idxs",
        pl.col("results").list.eval(renamed).alias(name),
        *(_ranked(rows["topic"], world, rng).alias(column) for column in lists),
    )


def _ranked(topic: pl.Series, world: World, rng: np.random.Generator) -> pl.Series:
    """Ranked notes of another system, one list per request."""
    notes = ItemChooser(world).choose(np.repeat(topic.to_numpy(), _RANKED), rng)
    return pl.Series(notes.reshape(-1, _RANKED)).arr.to_list()

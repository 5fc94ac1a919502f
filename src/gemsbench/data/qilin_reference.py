"""qilin-reference: Qilin as the released code of arXiv 2601.09496 (Polaris-JZ/GEMS) builds it; facts, not its text.

What differs from our rules: a note among the results is a number and a note in a list of recent clicks is a text, and
the two are different items; splits are by request; a test case may have several targets or none; the history is the
list of recent clicks as the log supplies it, newest first, with whatever it shares with the targets.
Where that code sorts by time unstably, equal times keep the order of the files here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gemsbench.data.qilin_population import MIN_REQUESTS, population
from gemsbench.data.qilin_recipe import RAW_REQUESTS
from gemsbench.data.qilin_tables import read_notes, read_requests
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog

_SPLIT = pl.Enum(["train", "valid", "test"])
_TASKS = {"rec": "R", "src": "S"}
_NEGATIVES = 99
_UNKNOWN_TASK = 3


@dataclass(frozen=True)
class QilinReferenceSettings:
    """No switch: it is what that code does."""


def load(folder: Path, settings: QilinReferenceSettings) -> ReleasedLog:
    """Read the raw tables of folder; raises InputError naming a missing file or column."""
    return released(folder, typed=True)


def released(folder: Path, *, typed: bool) -> ReleasedLog:
    """The examples, their histories and the corpus; typed=False counts a note as one item wherever it stands."""
    kept = population(read_requests(folder), typed=typed)
    rows = _split(kept.requests)
    shown = _named(kept.shown, quoted=False).join(rows.select("row", "split"), on="row", maintain_order="left")
    recent = _named(kept.recent, quoted=typed).join(rows.select("row", "split"), on="row", maintain_order="left")
    examples = _examples(rows, shown, recent)
    seen = pl.concat([part.select("entry", "raw_id", "note", "split") for part in (shown, recent)])
    corpus = seen.group_by("entry", "raw_id", "note").agg(pl.col("split").min()).sort("split", "note", "entry")
    items, found = read_notes(folder, corpus["note"].unique().sort())
    counts = {**kept.counts, **_funnel(rows, examples, corpus), **_table4(examples, corpus), **found}
    return ReleasedLog(examples, corpus.select("entry", "raw_id", pl.col("split").cast(pl.String)), items, counts)


def _split(requests: pl.DataFrame) -> pl.DataFrame:
    """Per user and task the last request is test, the last but one valid; fewer than three are in no split.

    Returns them in the order of that code's files: split, task, user, time.
    """
    ordered = requests.sort("time", nulls_last=True, maintain_order=True)
    place, size = pl.int_range(pl.len()).over("user", "task"), pl.len().over("user", "task")
    from_end = size - 1 - place
    split = (
        pl.when(from_end == 0).then(pl.lit("test")).when(from_end == 1).then(pl.lit("valid")).otherwise(pl.lit("train"))
    )
    rows = ordered.with_columns(split=split.cast(_SPLIT), number=place).filter(size >= MIN_REQUESTS)
    # A request of unknown time was sorted behind all others: it gets the last time there is.
    time = pl.col("time").fill_null(pl.col("time").max()).fill_null(0)
    rows = rows.with_columns(timestamp=time.floor().cast(pl.Int64))
    return rows.sort("split", "task", "user", "number").with_row_index("order")


def _named(entries: pl.DataFrame, *, quoted: bool) -> pl.DataFrame:
    """Name the entries as candidates and targets do: 123 is the number, "123" with its quotes the text."""
    name = pl.format('"{}"', "note") if quoted else pl.col("note").cast(pl.String)
    return entries.with_columns(entry=name, raw_id=pl.col("note").cast(pl.String)).sort("row", "place")


def _examples(rows: pl.DataFrame, shown: pl.DataFrame, recent: pl.DataFrame) -> pl.DataFrame:
    clicks = shown.filter("click").select("row", "place", target="entry")
    one = rows.filter(pl.col("split") != "test").join(clicks, on="row")
    one = one.with_columns(targets=pl.concat_list("target"))
    all_of = clicks.group_by("row", maintain_order=True).agg(targets="target")
    test = rows.filter(pl.col("split") == "test").join(all_of, on="row", how="left", maintain_order="left")
    both = pl.concat([one.drop("target"), test.with_columns(place=pl.lit(0, dtype=pl.UInt32))], how="diagonal")
    histories = recent.group_by("row", maintain_order=True).agg(history="entry")
    both = both.join(histories, on="row", how="left", maintain_order="left").sort("order", "place")
    nothing = pl.lit([], dtype=pl.List(pl.String))
    return both.select(
        "task",
        pl.col("split").cast(pl.String),
        pl.col("user").cast(pl.String),
        "query",
        "timestamp",
        pl.col("targets").fill_null(nothing),
        pl.col("history").fill_null(nothing),
    ).with_columns(history_tasks=pl.lit(_UNKNOWN_TASK, dtype=pl.Int8).repeat_by(pl.col("history").list.len()))


def _funnel(rows: pl.DataFrame, examples: pl.DataFrame, corpus: pl.DataFrame) -> dict[str, int]:
    """Rows and examples of each split and task, and the size of the corpus after each split."""
    counts: dict[str, int] = {}
    for split in _SPLIT.categories:
        for task, letter in _TASKS.items():
            of = (pl.col("split") == split) & (pl.col("task") == task)
            counts[f"{split}: {letter} rows"] = rows.filter(of).height
            counts[f"{split}: {letter} examples"] = examples.filter(of).height
    counts["test: rows without a target"] = examples.filter(pl.col("targets").list.len() == 0).height
    for split in _SPLIT.categories:
        counts[f"corpus up to {split}"] = corpus.filter(pl.col("split") <= split).height
    counts["users in examples"] = examples["user"].n_unique()
    return counts


def _table4(examples: pl.DataFrame, corpus: pl.DataFrame) -> dict[str, int]:
    """How the paper's table counts: entries of the examples with their negatives; test counts requests."""
    by_task = dict(examples.group_by("task").len().iter_rows())
    return {
        "Table 4: users": examples["user"].n_unique(),
        "Table 4: items": corpus.height - round(_never_drawn(examples, corpus)),
        "Table 4: inter_src": by_task.get("src", 0),
        "Table 4: inter_rec": by_task.get("rec", 0),
    }


def _never_drawn(examples: pl.DataFrame, corpus: pl.DataFrame) -> float:
    """Expected number of entries that are in no example: neither history nor target, and never a negative.

    The table counts the negatives that were drawn, so its number of items is a random one; only the corpus is fixed.
    """
    named = pl.concat([examples.select(entry=pl.col(c).explode(empty_as_null=False)) for c in ("history", "targets")])
    left = corpus.join(named.unique(), on="entry", how="anti")
    missed, expected = 1.0, 0.0
    for split in reversed(_SPLIT.categories):
        size = corpus.filter(pl.col("split") <= split).height
        drawn = examples.filter(pl.col("split") == split).height
        missed *= float(np.power(1 - min(_NEGATIVES / max(size, 1), 1.0), drawn))
        expected += missed * left.filter(pl.col("split") == split).height
    return expected


FUNNEL = {
    "users with 3 requests in both tasks": 3_842,
    "recommendation requests of these users": 57_983,
    "search requests of these users": 36_227,
    "train: R rows": 46_870,
    "train: R examples": 88_887,
    "train: S rows": 13_185,
    "train: S examples": 12_566,
    "valid: R rows": 3_790,
    "valid: R examples": 8_408,
    "valid: S rows": 2_409,
    "valid: S examples": 1_651,
    "test: R rows": 3_790,
    "test: R examples": 3_790,
    "test: S rows": 2_409,
    "test: S examples": 2_409,
    "corpus up to train": 266_988,
    "corpus up to valid": 274_734,
    "corpus up to test": 275_526,
    "users in examples": 3_816,
    "Table 4: users": 3_816,
    "Table 4: inter_src": 16_626,
    "Table 4: inter_rec": 101_085,
}

RECIPE = Recipe(
    name="qilin-reference",
    title="Qilin, released-code settings",
    settings=QilinReferenceSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "exact", "src": "exact"},
    licence="Apache-2.0 (card of the hub's dataset; the GitHub README says MIT)",
    citation="Chen et al., Qilin, SIGIR 2025, arXiv 2503.00501; rules: code of arXiv 2601.09496",
    sources=("qilin",),
    pins={**RAW_REQUESTS, "raw notes": 1_983_938, **FUNNEL},
    both_behaviours=False,
    released=True,
    paper_row="Qilin",
)

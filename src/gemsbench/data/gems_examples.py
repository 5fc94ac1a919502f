"""Examples that the released code of arXiv 2601.09496 (Polaris-JZ/GEMS) makes of GenSAR's purchases and searches.

Per user: train events, then the one or two validation events, then the test events, each part in order of time. An
event's history is all before it in that sequence; only the very last one is left out, and only where it has the
event's own product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data import schema
from gemsbench.data.flat_lists import IntArray, gathered, list_columns
from gemsbench.seeds import hash64_many, mix64, stream_seed

MIN_HISTORY = 5
MAX_HISTORY = 20  # events; a purchase and its search count as two
TRAIN_SHARE = 0.3


@dataclass(frozen=True)
class Examples:
    """table: user, task, split, timestamp, query, targets, history, history_tasks (columns of ReleasedLog.examples).

    universe: item (str), split (the first in which it occurs), of all targets and of all histories before purchases
    are separated from searches. unsampled: number of training examples per task before three in ten are kept.
    """

    table: pl.DataFrame
    universe: pl.DataFrame
    unsampled: dict[str, int]


def build_examples(events: pl.DataFrame, seed: int) -> Examples:
    """Examples of split events (user, item, task, query (str), timestamp, split; in order of time within a user).

    Recommendation histories keep the purchases among the last 20 events, search histories all 20.
    """
    sequence = events.sort("user", pl.col("split").to_physical(), maintain_order=True)
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    twin = pl.col("item") == pl.col("item").shift(1).over("user").fill_null("")
    sequence = sequence.with_columns(row=place, place=place.over("user")).with_columns(
        length=pl.col("place") - twin.cast(pl.Int64)
    )
    asked = sequence.filter(pl.col("length") >= MIN_HISTORY)
    train = asked.filter(pl.col("split") == "train")
    kept = pl.concat([_subsample(train, seed), asked.filter(pl.col("split") != "train")])
    kept = kept.sort(pl.col("split").to_physical(), pl.col("task").to_physical(), "row")
    table, universe = _with_histories(kept, sequence)
    unsampled = {task: train.filter(pl.col("task") == task).height for task in schema.TASKS}
    return Examples(table, universe, unsampled)


def _subsample(train: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Of each user the example with the longest history (of two, the earlier) and 30 % of the others."""
    best = train.sort("user", "length", "place", descending=[False, True, False]).unique("user", keep="first")
    others = train.join(best.select("row"), on="row", how="anti").sort("row")
    people = others["user"].unique().sort()
    hashes = pl.DataFrame({"user": people, "hash": pl.Series(hash64_many(people), dtype=pl.UInt64)})
    others = others.join(hashes, on="user", how="left", maintain_order="left")
    draw = mix64(
        stream_seed(seed, "train examples"), others["hash"].to_numpy(), others["place"].to_numpy().astype(np.uint64)
    )
    others = others.with_columns(draw=pl.Series(draw, dtype=pl.UInt64), n=pl.len().over("user"))
    # Half to even, as Python's round does; the share of each user's number of examples.
    wanted = pl.Series("wanted", np.rint(TRAIN_SHARE * others["n"].to_numpy()).astype(np.int64))
    number = pl.col("draw").rank("ordinal").over("user")
    chosen = others.with_columns(wanted).filter(number <= pl.col("wanted"))
    return pl.concat([best.select(train.columns), chosen.select(train.columns)])


def _with_histories(kept: pl.DataFrame, sequence: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    shown = np.minimum(kept["length"].to_numpy(), MAX_HISTORY)
    first = (kept["row"] - kept["place"] + kept["length"]).to_numpy() - shown
    at = gathered(first, shown)
    owner = np.repeat(np.arange(kept.height), shown)
    universe = _universe(kept, sequence, at, owner)
    is_rec = (sequence["task"] == "rec").to_numpy()
    visible = (kept["task"] == "src").to_numpy()[owner] | is_rec[at]
    at, owner = at[visible], owner[visible]
    lists = list_columns(
        {
            "history": sequence["item"].gather(at),
            "history_tasks": pl.Series(np.where(is_rec[at], 1, 2), dtype=pl.Int8),
        },
        np.bincount(owner, minlength=kept.height),
    )
    columns = kept.select("user", "task", "split", "timestamp", "query", targets=pl.concat_list("item"))
    return pl.concat([columns, lists], how="horizontal"), universe


def _universe(kept: pl.DataFrame, sequence: pl.DataFrame, at: IntArray, owner: npt.NDArray[np.int64]) -> pl.DataFrame:
    names = sequence["item"].unique().sort()
    item = sequence["item"].cast(pl.Enum(names)).to_physical().to_numpy()
    split = kept["split"].to_physical().to_numpy()
    never = len(schema.SPLITS)
    first = np.full(names.len(), never, dtype=np.int64)
    np.minimum.at(first, item[at], split[owner])
    np.minimum.at(first, item[kept["row"].to_numpy()], split)
    found = np.flatnonzero(first < never)
    splits = pl.Series(list(schema.SPLITS), dtype=schema.SPLIT)
    return pl.DataFrame({"item": names.gather(found), "split": splits.gather(first[found])})

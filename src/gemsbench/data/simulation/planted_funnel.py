"""Raw Qilin files whose counts after every filter of the released code of arXiv 2601.09496 are planned beforehand.

Constructed, not drawn until it fits: the plan says how many users, requests, clicks and notes are left in the end, and
what is to be filtered out is planted around them: users of one task or with two requests, requests without results,
notes seen once or twice, notes seen often enough only together with requests or users that go, and a chain of users
each of whom goes only after the one before (so that several rounds are needed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gemsbench.data.simulation.planted_notes import plant_notes
from gemsbench.data.simulation.world import IntArray
from gemsbench.errors import InputError
from gemsbench.files import write_table
from gemsbench.seeds import stream

_START = 1_732_000_000  # seconds
_CHAIN = 4
_NO_RESULTS = 0.05  # share of the requests to be dropped that have an empty list of results
_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class FunnelPlan:
    """What the released filters shall leave. R: recommendation, S: search.

    A number is one of the results, a text one of the recent clicks: two entries, though they may be one note.
    """

    users: int  # of all four tables
    both: int  # users with R and S test cases
    only_r: int
    only_s: int
    lost: int  # users with three requests in both tasks and no case in the end
    requests: Mapping[str, int]  # task -> requests of the users with three in both tasks
    raw: Mapping[str, int]  # config -> rows
    train_rows: Mapping[str, int]  # task -> rows
    train_clicks: Mapping[str, int]
    valid_clicks: Mapping[str, int]
    corpus: tuple[int, int, int]  # entries up to train, up to valid, up to test
    texts: int  # how many of these are texts
    unclicked_valid: int  # numbers that are new in valid, none of them clicked
    unclicked_test: int  # numbers that are new in test, none of them clicked
    shared: int  # notes that are both a number and a text
    straddling: int  # notes seen twice as a number and twice as a text, over which typed and distinct counting differ
    notes: int  # rows of the notes table


def write_planted(folder: Path, plan: FunnelPlan, seed: int) -> None:
    """Write the four request tables and the notes; raises InputError for a plan that cannot be laid out."""
    rng = stream(seed, "planted requests")
    requests = _requests(plan, rng)
    results, recent = plant_notes(requests, plan, stream(seed, "planted notes"))
    rows = requests.join(_result_lists(results, requests, rng), on="request", how="left", maintain_order="left").join(
        recent.group_by("request", maintain_order=True).agg(recent_clicked_note_idxs="note"),
        on="request",
        how="left",
        maintain_order="left",
    )
    rows = rows.with_columns(pl.col("recent_clicked_note_idxs").fill_null(pl.lit([], dtype=pl.List(pl.Int64))))
    for task, name in (("rec", "recommendation"), ("src", "search")):
        part = rows.filter(pl.col("task") == task)
        part = part[rng.permutation(part.height)]  # the order of the files says nothing about the time
        first = plan.raw[f"{name}_train"]
        for config, table in ((f"{name}_train", part[:first]), (f"{name}_test", part[first:])):
            write_table(folder / f"{config}.parquet", _hub_columns(table, task))
    number = pl.int_range(plan.notes, dtype=pl.Int64, eager=True)
    title = pl.when(pl.col("note_idx") % 50 > 0).then(pl.format("note {}", "note_idx"))
    content = pl.when(pl.col("note_idx") % 20 > 0).then(pl.lit("planted"))
    notes = number.alias("note_idx").to_frame().with_columns(note_title=title, note_content=content)
    write_table(folder / "notes.parquet", notes)


def _requests(plan: FunnelPlan, rng: np.random.Generator) -> pl.DataFrame:
    """request, user, task, fate (what becomes of it), chain (the link of a chain user, else 0), time; any order.

    Fates: train, valid, test; short (outlives the rounds, its user has too few of the task); link (of a chain user,
    outlives the first round); empty and noise (go in the first round); other (of users without three in both tasks).
    """
    groups = np.cumsum([0, plan.both, plan.only_r, plan.only_s, plan.lost])
    name = rng.permutation(plan.users)
    mine, others = name[: groups[4]], name[groups[4] :]
    both, only_r, only_s, lost = (mine[groups[k] : groups[k + 1]] for k in range(4))
    chain, brief = lost[:_CHAIN], lost[_CHAIN:]
    parts = []
    for task, asked, few in (("rec", [both, only_r], only_s), ("src", [both, only_s], only_r)):
        users = np.concatenate(asked)
        rows = {"train": np.repeat(users, 1 + _thrown(plan.train_rows[task] - users.size, users.size, rng))}
        rows |= {"valid": users, "test": users}
        rows["short"] = np.concatenate([np.repeat(few, rng.integers(0, 3, few.size)), np.repeat(brief, 2)])
        rows["link"] = np.repeat(chain, 2) if task == "rec" else chain[1:]
        left = plan.requests[task] - sum(part.size for part in rows.values())
        rows["noise"] = _topped_up(mine, np.concatenate([*rows.values()]), left, rng)
        parts += [_rows(task, fate, user) for fate, user in rows.items()]
    parts += _of_others(others, plan, rng)
    requests = pl.concat(parts)
    empty = (requests["fate"] == "noise").to_numpy() & (rng.random(requests.height) < _NO_RESULTS)
    link = pl.DataFrame({"user": chain, "chain": np.arange(1, chain.size + 1)})
    requests = requests.with_columns(
        fate=pl.when(pl.Series(empty)).then(pl.lit("empty")).otherwise("fate"),
        time=pl.Series(_START + 17 * rng.permutation(requests.height)),
    )
    requests = requests.join(link, on="user", how="left", maintain_order="left").fill_null(0)
    return _in_order(requests).with_row_index("request")


def _rows(task: str, fate: str, user: IntArray) -> pl.DataFrame:
    frame = pl.DataFrame({"user": pl.Series(user, dtype=pl.Int64)})
    return frame.with_columns(task=pl.lit(task), fate=pl.lit(fate))


def _thrown(total: int, places: int, rng: np.random.Generator) -> IntArray:
    """Throw total balls into places, evenly; raises InputError for a negative total."""
    if total < 0 or (total and not places):
        raise InputError(
            f"planted funnel: {total} requests left for {places} users. Plan more requests or fewer users."
        )
    thrown: IntArray = (
        np.bincount(rng.integers(0, places, total), minlength=places) if places else np.zeros(0, np.int64)
    )
    return thrown


def _topped_up(users: IntArray, have: IntArray, total: int, rng: np.random.Generator) -> IntArray:
    """Users of further requests: as many as give each three, then any, total in all."""
    size = int(users.max(initial=0)) + 1
    least = np.maximum(3 - np.bincount(have, minlength=size)[users], 0)
    return np.repeat(users, least + _thrown(total - int(least.sum()), users.size, rng))


def _of_others(others: IntArray, plan: FunnelPlan, rng: np.random.Generator) -> list[pl.DataFrame]:
    """Requests of users with fewer than three in a task: two and many, many and two, two and two, one task only."""
    ends = (np.array([0.26, 0.35, 0.40, 0.83]) * others.size).astype(np.int64)
    two_s, two_two, two_r, all_r, all_s = np.split(others, ends)
    wanted = {
        "rec": plan.raw["recommendation_train"] + plan.raw["recommendation_test"] - plan.requests["rec"],
        "src": plan.raw["search_train"] + plan.raw["search_test"] - plan.requests["src"],
    }
    parts = []
    for task, two, many, alone in (("rec", two_r, two_s, all_r), ("src", two_s, two_r, all_s)):
        fixed = np.concatenate([np.repeat(np.concatenate([two, two_two]), 2), np.repeat(many, 3), alone])
        free = np.concatenate([many, alone])
        further = np.repeat(free, _thrown(wanted[task] - fixed.size, free.size, rng))
        parts.append(_rows(task, "other", np.concatenate([fixed, further])))
    return parts


def _in_order(requests: pl.DataFrame) -> pl.DataFrame:
    """Give each user's requests of a task that end in a split the times of train, valid, test in that order."""
    kept = requests.filter(pl.col("fate").is_in(_SPLITS)).with_columns(pl.col("fate").cast(pl.Enum(_SPLITS)))
    by_fate = kept.sort("user", "task", "fate").with_columns(pl.col("fate").cast(pl.String))
    times = kept.sort("user", "task", "time")["time"]
    return pl.concat([by_fate.with_columns(time=times), requests.filter(~pl.col("fate").is_in(_SPLITS))])


def _result_lists(results: pl.DataFrame, requests: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """request, results: the notes of each request in random order, as structs with the fields of the hub."""
    mixed = results[rng.permutation(results.height)].sort("request", maintain_order=True)
    timed = mixed.join(requests.select("request", "time"), on="request", maintain_order="left")
    place = pl.int_range(pl.len(), dtype=pl.Int64).over("request")
    reactions = [(pl.col("note") % k == 0).cast(pl.Int64).alias(name) for name, k in (("like", 7), ("collect", 11))]
    nothing = [pl.lit(0, dtype=pl.Int64).alias(name) for name in ("comment", "share")]
    page_time = pl.when(pl.col("note") % 13 == 0).then(float("nan")).otherwise(pl.col("note") % 60 * 1.5)
    fields = [
        pl.col("note").alias("note_idx"),
        place.alias("position"),
        pl.col("click").cast(pl.Int64),
        *reactions,
        *nothing,
        page_time.alias("page_time"),
        pl.col("time").alias("timestamp"),
    ]
    structs = timed.select("request", pl.struct(fields).alias("results"))
    return structs.group_by("request", maintain_order=True).agg("results")


def _hub_columns(table: pl.DataFrame, task: str) -> pl.DataFrame:
    """The columns of the hub's config that describe the request; ranked lists of other systems are left out."""
    index, details, time = {
        "src": ("search_idx", "search_result_details_with_idx", "search_timestamp"),
        "rec": ("request_idx", "rec_result_details_with_idx", "request_timestamp"),
    }[task]
    names = ["note_idx", "position", "click", "like", "collect", "comment", "share", "page_time", time]
    query = pl.format("query {}", pl.col("user") % 997) if task == "src" else pl.lit(None, dtype=pl.String)
    return table.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(index),
        pl.col("user").alias("session_idx"),
        pl.col("user").alias("user_idx"),
        query.alias("query"),
        "recent_clicked_note_idxs",
        pl.col("results").list.eval(pl.element().struct.rename_fields(names)).alias(details),
    )

"""Who and what of Qilin stays: the filters of the released code of arXiv 2601.09496, in their order.

Requests count, clicked or not; clicked, shown and recently clicked notes count alike. Both recipes of Qilin use it:
they differ in whether a note in a list of recent clicks is the same as that note among the results.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data.qilin_tables import QilinRequests

MIN_REQUESTS = 3  # per user and task; per user in the core; occurrences of a note in the core
MAX_ROUNDS = 10


@dataclass(frozen=True)
class Population:
    """What is left of the request tables, rows and places as in QilinRequests; counts: stage -> how many.

    shown and recent have a further column entry (Int64): what the core counted as one item.
    """

    requests: pl.DataFrame
    shown: pl.DataFrame
    recent: pl.DataFrame
    counts: dict[str, int]


def population(log: QilinRequests, *, typed: bool) -> Population:
    """Keep users with MIN_REQUESTS requests in both tasks, then the core of requests and notes.

    typed: a note in a list of recent clicks (text there, in the released code) and the same note among the results (a
    number) are two entries; else they are one.
    """
    requests = log.requests.drop_nulls("user")
    counts = {f"raw {config}": rows for config, rows in log.raw.items()}
    counts["requests without a user (dropped)"] = log.requests.height - requests.height
    counts["users in requests"] = requests["user"].n_unique()
    often = requests.group_by("user", "task").len("n").filter(pl.col("n") >= MIN_REQUESTS)
    both = often.group_by("user").len("tasks").filter(pl.col("tasks") == 2)
    requests = requests.join(both, on="user", how="semi", maintain_order="left")
    counts[f"users with {MIN_REQUESTS} requests in both tasks"] = both.height
    counts |= _requests_by_task(requests, "of these users")
    shown = log.shown.join(requests, on="row", how="semi", maintain_order="left")
    recent = log.recent.join(requests, on="row", how="semi", maintain_order="left")
    counts["clicked notes of these users"] = shown.filter("click")["note"].n_unique()
    entry = pl.col("note") * 2 if typed else pl.col("note")
    shown, recent = shown.with_columns(entry=entry), recent.with_columns(entry=entry + 1 if typed else entry)
    kept = _core(requests, shown, recent)
    requests, shown, recent = requests.filter(kept.requests), shown.filter(kept.shown), recent.filter(kept.recent)
    name = f"in the {MIN_REQUESTS}-core"
    counts |= {
        f"rounds of the {MIN_REQUESTS}-core": kept.rounds,
        f"users {name}": requests["user"].n_unique(),
        **_requests_by_task(requests, name),
        f"entries {name}": pl.concat([shown["entry"], recent["entry"]]).n_unique(),
        f"notes {name}": pl.concat([shown["note"], recent["note"]]).n_unique(),
    }
    return Population(requests, shown, recent, counts)


def _requests_by_task(requests: pl.DataFrame, which: str) -> dict[str, int]:
    searches = int((requests["task"] == "src").sum())
    return {f"recommendation requests {which}": requests.height - searches, f"search requests {which}": searches}


@dataclass(frozen=True)
class _Kept:
    requests: pl.Series
    shown: pl.Series
    recent: pl.Series
    rounds: int


def _core(requests: pl.DataFrame, shown: pl.DataFrame, recent: pl.DataFrame) -> _Kept:
    """Rounds of: users with too few rows, entries with too few occurrences, rows without results.

    It ends when a round finds as many users and entries as the one before, at the latest after MAX_ROUNDS: the order of
    the three steps and this rule are the released code's, so this is not always the maximal core. A row whose clicks
    are gone stays as long as a note is shown in it.
    """
    user = _codes(requests["user"])
    row = _codes(requests["row"], pl.concat([shown["row"], recent["row"]]))
    entry = _codes(pl.concat([shown["entry"], recent["entry"]]))
    result = np.arange(row.size) < shown.height
    row_on, entry_on = np.ones(user.size, dtype=np.bool_), np.ones(row.size, dtype=np.bool_)
    size, rounds = (-1, -1), 0
    while rounds < MAX_ROUNDS:
        rounds += 1
        rows_of = np.bincount(user[row_on], minlength=user.size + 1)
        row_on &= rows_of[user] >= MIN_REQUESTS
        entry_on &= row_on[row]
        occurrences = np.bincount(entry[entry_on], minlength=entry.size + 1)
        entry_on &= occurrences[entry] >= MIN_REQUESTS
        with_results = np.zeros_like(row_on)
        with_results[row[entry_on & result]] = True
        row_on &= with_results
        before, size = size, (int((rows_of >= MIN_REQUESTS).sum()), int((occurrences >= MIN_REQUESTS).sum()))
        if size == before:
            break
    entry_on &= row_on[row]
    entries = pl.Series(entry_on)
    return _Kept(pl.Series(row_on), entries[: shown.height], entries[shown.height :], rounds)


def _codes(known: pl.Series, asked: pl.Series | None = None) -> npt.NDArray[np.int64]:
    """0, 1, ... for the distinct values of known, in order; those of asked where given, all of which must be known."""
    values = known.unique().sort().to_numpy()
    codes: npt.NDArray[np.int64] = np.searchsorted(values, (known if asked is None else asked).to_numpy())
    return codes

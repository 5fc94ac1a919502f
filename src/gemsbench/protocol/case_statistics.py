"""What stats.json says of cases: how many, how long their histories, and what a careless split would have leaked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from gemsbench.data import schema
from gemsbench.protocol.splits import is_target

UPSTREAM_HISTORY = 5  # recommendation events of a history in GenSAR (arXiv 2504.05730, its released run script)


def case_statistics(tables: Mapping[str, pl.DataFrame], *, complete: bool = True) -> dict[str, Any]:
    """Cases, targets with an empty history, mean history length per task and split; users never tested.

    tables: users, interactions (with split), cases, candidates. complete: every target with something before it is a
    case; targets with an empty history are counted only then, nobody else can tell why a target has no case. in_cases:
    sizes as Table 4 of arXiv 2601.09496 seems to count them (users with a case, items in histories or targets, cases
    per task).
    leak_rate: of the cases that have a target, the share with one of their targets (candidates.positives of a valid or
    test case) in their own history.
    """
    cases, events = tables["cases"], tables["interactions"]
    targets = events.filter(is_target()).group_by("task", "split").agg(targets=pl.len())
    length = pl.col("hist_items").list.len()
    made = cases.group_by("task", "split").agg(cases=pl.len(), nonempty=(length > 0).sum(), mean_history=length.mean())
    rows = made.join(targets, on=["task", "split"], how="full", coalesce=True).fill_null(0)
    per: dict[str, Any] = {
        name: {task: {} for task in schema.TASKS} for name in ("cases", "empty_history", "mean_history")
    }
    for row in rows.sort("task", "split").iter_rows(named=True):
        per["cases"][row["task"]][row["split"]] = row["cases"]
        if complete:
            per["empty_history"][row["task"]][row["split"]] = row["targets"] - row["nonempty"]
        per["mean_history"][row["task"]][row["split"]] = row["mean_history"]
    asked = cases.filter(pl.col("split") == "test")["user_id"].n_unique()
    users = tables["users"].height
    return {
        **per,
        "in_cases": _in_cases(cases),
        "leak_rate": _leak_rate(cases, tables["candidates"]),
        "users_without_test_case": users - asked,
        "share_users_without_test_case": (users - asked) / users if users else 0.0,
    }


def _in_cases(cases: pl.DataFrame) -> dict[str, int]:
    shown = cases["hist_items"].list.explode(empty_as_null=False).unique()
    items = pl.concat([shown, cases["target_item"].filter(cases["target_item"] > 0)])
    return {
        "users": cases["user_id"].n_unique(),
        "items": items.n_unique(),
        **{f"inter_{task}": int((cases["task"] == task).sum()) for task in schema.TASKS},
    }


def _leak_rate(cases: pl.DataFrame, candidates: pl.DataFrame) -> dict[str, dict[str, float]]:
    asked = cases.filter(pl.col("target_item") > 0).select("case_id", "task", "split", "target_item", "hist_items")
    asked = asked.join(candidates.select("case_id", "positives"), on="case_id", how="left")
    shown, targets = pl.col("hist_items").list, pl.col("positives")
    # A case without a list of candidates is one to learn from, with one target.
    leaked = pl.coalesce(shown.set_intersection(targets).list.len() > 0, shown.contains(pl.col("target_item")))
    rates = asked.group_by("task", "split").agg(leaked.mean()).sort("task", "split")
    per: dict[str, dict[str, float]] = {task: {} for task in schema.TASKS}
    for task, split, rate in rates.iter_rows():
        per[task][split] = rate
    return per


def upstream_leak_rate(events: pl.DataFrame) -> dict[str, float]:
    """Share of search events whose item is in the recommendation history that GenSAR's public script would give them.

    That script (arXiv 2504.05730) orders a user's events by time, puts all purchases of a time before its searches,
    takes the purchases before the search as its history and leaves out the last of them if it is the searched item.
    all: the whole history; last 5: the part that its model reads.
    """
    searches = events.filter(pl.col("task") == "src").select("event_id", "user_id", "item_id", "order_key")
    if not searches.height:
        return {"all": 0.0, f"last {UPSTREAM_HISTORY}": 0.0}
    purchases = events.filter(pl.col("task") == "rec").sort("user_id", "order_key", "seq")
    purchases = purchases.select("user_id", "item_id", "order_key", place=pl.int_range(pl.len()).over("user_id"))
    prefix = searches.sort("order_key").join_asof(
        purchases.select("user_id", "order_key", last="place").sort("order_key", "last"),
        on="order_key",
        by="user_id",
        strategy="backward",
        check_sortedness=False,
    )
    found = (
        prefix.drop("order_key")
        .join(purchases.select("user_id", "item_id", "place"), on=["user_id", "item_id"])
        # The guard removes the item only where it is the last purchase of the prefix.
        .filter(pl.col("place") < pl.col("last"))
    )
    # Leaving out the guard's case, the last purchase itself is one of the five that are read.
    read = found.filter(pl.col("place") > pl.col("last") - UPSTREAM_HISTORY)
    return {
        "all": found["event_id"].n_unique() / searches.height,
        f"last {UPSTREAM_HISTORY}": read["event_id"].n_unique() / searches.height,
    }

"""Which cases of a recipe are asked and learned from: enough before them, and a share of those to learn from.

The released code of arXiv 2601.09496 (Polaris-JZ/GEMS, data/amazon) drops examples with fewer than five earlier events
and keeps 30 % of a user's training examples beside the longest. The same population under our own histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from gemsbench.data.recipe import CaseRules
from gemsbench.errors import InputError
from gemsbench.protocol.histories import TASK_BIT
from gemsbench.seeds import hash64_many, mix64, stream_seed

# Stages of the funnel.
MADE = "cases: made"
SHORT = "cases: too few events before them (dropped)"
UNDRAWN = "cases: training cases that were not drawn (dropped)"
_BOTH = sum(TASK_BIT.values())


@dataclass(frozen=True)
class RuledCases:
    """The cases that stay (schema.CASES, numbered anew in their order), and what the rules did, stage -> count."""

    cases: pl.DataFrame
    counts: Mapping[str, int]


def apply_case_rules(
    cases: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, rules: CaseRules, *, seed: int, recipe: str
) -> RuledCases:
    """Drop cases with fewer than min_history events before them, then training cases down to train_share per user.

    users, items: canonical tables (raw_id). A purchase and the search made from it are one history entry and two
    events. Of a user's training cases, both tasks together, the last is kept (of a purchase and its search the
    recommendation), and of the others train_share, rounded half to even, in the order of a keyed hash of user, item
    and task.
    """
    if rules == CaseRules():
        return RuledCases(cases, {})
    long = _with_history(cases, rules.min_history)
    kept = _with_train_share(long, users, items, rules.train_share, stream_seed(seed, recipe, "train share"))
    counts = {MADE: cases.height, SHORT: cases.height - long.height, UNDRAWN: long.height - kept.height}
    return RuledCases(kept.with_columns(case_id=pl.int_range(pl.len(), dtype=pl.Int64)), counts)


def check_length(rules: CaseRules, history_length: int, recipe: str) -> None:
    """Raise InputError when histories of history_length entries could hide that there were min_history events."""
    if history_length < rules.min_history:
        raise InputError(
            f"{recipe}: asks for {rules.min_history} events before a case, and history_length is {history_length}. "
            f"Set history_length to at least {rules.min_history}."
        )


def _with_history(cases: pl.DataFrame, least: int) -> pl.DataFrame:
    tasks = pl.col("hist_tasks").list
    return cases.filter(tasks.len() + tasks.count_matches(pl.lit(_BOTH, pl.Int8)) >= least)


def _with_train_share(
    cases: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, share: float, seed: int
) -> pl.DataFrame:
    train = cases.filter(pl.col("split") == "train").select("case_id", "user_id", "task", "target_item", "order_key")
    by_user, by_item = hash64_many(users["raw_id"]), hash64_many(items["raw_id"])
    user, item = by_user[train["user_id"].to_numpy()], by_item[train["target_item"].to_numpy() - 1]
    pair = mix64(seed, user, item)
    train = train.with_columns(
        pair=pl.Series(pair, dtype=pl.UInt64),
        draw=pl.Series(mix64(pair, train["task"].to_physical().to_numpy().astype("uint64")), dtype=pl.UInt64),
    )
    last = train.sort("user_id", -pl.col("order_key"), "pair", "task").unique("user_id", keep="first")
    others = train.join(last.select("case_id"), on="case_id", how="anti").sort("user_id", "draw")
    wanted = (pl.len().over("user_id") * share).round(0, mode="half_to_even")
    chosen = others.filter(pl.int_range(pl.len()).over("user_id") < wanted)
    dropped = others.join(chosen.select("case_id"), on="case_id", how="anti").select("case_id")
    return cases.join(dropped, on="case_id", how="anti", maintain_order="left")

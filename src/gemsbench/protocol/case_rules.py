"""Which cases of a recipe are asked and learned from: enough before them, and a share of those to learn from.

The released code of arXiv 2601.09496 (Polaris-JZ/GEMS, data/amazon) drops examples with fewer than five earlier events
and keeps 30 % of a user's training examples beside the longest. The same population under our own histories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from gemsbench.data.invariants import SHOWN, Violation
from gemsbench.data.recipe import CaseRules
from gemsbench.errors import InputError
from gemsbench.protocol.histories import TASK_BIT
from gemsbench.seeds import UInt64Array, hash64, hash64_many, mix64, stream_seed

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
    cases: pl.DataFrame, known: Mapping[str, pl.DataFrame], rules: CaseRules, *, seed: int, recipe: str
) -> RuledCases:
    """Drop cases with fewer than min_history events before them, then training cases down to train_share per user.

    known: canonical tables users and items (raw_id) and queries (text). A purchase and the search made from it are one
    history entry and two events. Of a user's training cases, both tasks together, the last is kept (of a purchase and
    its search the recommendation), and of the others train_share, rounded half to even, in the order of a keyed hash
    of user, item, task, order_key and query.
    """
    if rules == CaseRules():
        return RuledCases(cases, {})
    long = _with_history(cases, rules.min_history)
    kept = _with_train_share(long, known, rules.train_share, stream_seed(seed, recipe, "train share"))
    counts = {MADE: cases.height, SHORT: cases.height - long.height, UNDRAWN: long.height - kept.height}
    return RuledCases(kept.with_columns(case_id=pl.int_range(pl.len(), dtype=pl.Int64)), counts)


def check_length(rules: CaseRules, history_length: int, recipe: str) -> None:
    """Raise InputError when histories of history_length entries could hide that there were min_history events."""
    if history_length < rules.min_history:
        raise InputError(
            f"{recipe}: asks for {rules.min_history} events before a case, and history_length is {history_length}. "
            f"Set history_length to at least {rules.min_history}."
        )


def rule_violations(cases: pl.DataFrame, events: pl.DataFrame, rules: CaseRules) -> Iterator[Violation]:
    """R-h: a case with fewer than min_history events before it. R-s: more training cases of a user than train_share.

    events: interactions (user_id, order_key, split). R-s takes every training event that has min_history earlier
    training events of its user for a case to draw from. Some of these are none, for what their history leaves out, so
    a few cases too many of a user may stay unseen; train_share 1 is not checked.
    """
    before = cases.select(
        *("case_id", "user_id", "task", "split", "target_item"),
        events=pl.col("hist_tasks").list.eval(1 + (pl.element() == _BOTH).cast(pl.Int32)).list.sum(),
    ).filter(pl.col("events") < rules.min_history)
    if before.height:
        message = f"cases: fewer than {rules.min_history} events before them ({before.height} rows)."
        yield Violation("R-h", message, before.head(SHOWN))
    if rules.train_share >= 1:
        return
    train = events.filter(pl.col("split") == "train").select("user_id", "order_key")
    earlier = pl.col("order_key").rank("min").over("user_id") - 1
    to_draw = train.filter(earlier >= rules.min_history).group_by("user_id").agg(to_draw=pl.len().cast(pl.Int64))
    made = cases.filter(pl.col("split") == "train").group_by("user_id").agg(cases=pl.len().cast(pl.Int64))
    both = made.join(to_draw, on="user_id", how="left").with_columns(pl.col("to_draw").fill_null(0)).sort("user_id")
    most = 1 + ((pl.col("to_draw") - 1) * rules.train_share).round(0, mode="half_to_even")
    many = both.filter((pl.col("to_draw") == 0) | (pl.col("cases") > most))
    if many.height:
        message = f"cases: users with more than a share of {rules.train_share} of their training cases"
        yield Violation("R-s", f"{message} ({many.height} rows).", many.head(SHOWN))


def _with_history(cases: pl.DataFrame, least: int) -> pl.DataFrame:
    tasks = pl.col("hist_tasks").list
    return cases.filter(tasks.len() + tasks.count_matches(pl.lit(_BOTH, pl.Int8)) >= least)


def _with_train_share(cases: pl.DataFrame, known: Mapping[str, pl.DataFrame], share: float, seed: int) -> pl.DataFrame:
    train = cases.filter(pl.col("split") == "train").drop(pl.selectors.list())
    pair, draw = _draws(train, known, seed)
    train = train.with_columns(pair=pl.Series(pair, dtype=pl.UInt64), draw=pl.Series(draw, dtype=pl.UInt64))
    last = train.sort("user_id", -pl.col("order_key"), "pair", "task", "draw").unique("user_id", keep="first")
    others = train.join(last.select("case_id"), on="case_id", how="anti").sort("user_id", "draw")
    wanted = (pl.len().over("user_id") * share).round(0, mode="half_to_even")
    chosen = others.filter(pl.int_range(pl.len()).over("user_id") < wanted)
    dropped = others.join(chosen.select("case_id"), on="case_id", how="anti").select("case_id")
    return cases.join(dropped, on="case_id", how="anti", maintain_order="left")


def _draws(train: pl.DataFrame, known: Mapping[str, pl.DataFrame], seed: int) -> tuple[UInt64Array, UInt64Array]:
    """A number per (user, item), and one per case: a user may have an item and a task several times."""
    by_user, by_item = (hash64_many(known[name]["raw_id"]) for name in ("users", "items"))
    by_query = np.concatenate([np.array([hash64("")], dtype=np.uint64), hash64_many(known["queries"]["text"])])
    pair = mix64(seed, by_user[train["user_id"].to_numpy()], by_item[train["target_item"].to_numpy() - 1])
    task = train["task"].to_physical().to_numpy().astype(np.uint64)
    key = train["order_key"].to_numpy().view(np.uint64)
    return pair, mix64(pair, task, key, by_query[train["query_id"].to_numpy()])

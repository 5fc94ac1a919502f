"""Each fault of a released recipe's tables is found under the name of the invariant that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.protocol.released import released_tables
from gemsbench.protocol.released_invariants import released_violations

NEGATIVES = 20
Tables = dict[str, pl.DataFrame]
MakeLog = Callable[..., ReleasedLog]


def tables_of(log: ReleasedLog, recipe: Recipe) -> Tables:
    return released_tables(log, recipe, 5, NEGATIVES)[0]


def changed(name: str, **columns: Any) -> Callable[[Tables], Tables]:
    return lambda tables: {**tables, name: tables[name].with_columns(**columns)}


NO_ITEM = pl.lit(0, dtype=pl.Int32)
FAULTS: dict[str, tuple[str, Callable[[Tables], Tables]]] = {
    "a column is missing": ("S1", lambda t: {**t, "items": t["items"].drop("text")}),
    "a table is missing": ("S1", lambda t: {name: table for name, table in t.items() if name != "users"}),
    "users are not dense": ("S2", lambda t: {**t, "users": t["users"][1:]}),
    "unknown items": ("S2", changed("cases", hist_items=pl.col("hist_items").list.eval(pl.element() + 1000))),
    "a recommendation with a query": ("S3", changed("cases", query_id=pl.lit(1, dtype=pl.Int32))),
    "another kind of time": ("S3", changed("interactions", time_kind=pl.lit("day", dtype=schema.TIME_KIND))),
    "events out of order": ("S3", changed("interactions", order_key=-pl.col("order_key"))),
    "a history without tasks": ("R1", changed("cases", hist_tasks=pl.col("hist_tasks").list.head(1))),
    "a train case without a target": ("R1", changed("cases", target_item=NO_ITEM)),
    "events of another item": ("R2", changed("interactions", item_id=pl.col("item_id") % 7 + 1)),
    "a lost list": ("C1", lambda t: {**t, "candidates": t["candidates"][1:]}),
    "a repeated candidate": ("C1", changed("candidates", items=pl.concat_list("items", pl.col("items").list.head(1)))),
    "a lost positive": ("C1", changed("candidates", items=pl.col("items").list.set_difference("positives"))),
    "the target is no positive": ("C2", changed("candidates", positives=pl.col("positives").list.tail(0))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(released_recipe: Recipe, fault: str, make_log: MakeLog) -> None:
    invariant, spoil = FAULTS[fault]
    found = released_violations(spoil(tables_of(make_log(), released_recipe)), released_recipe, NEGATIVES)
    assert invariant in {violation.invariant for violation in found}, found


@pytest.mark.parametrize("own", ["history", "targets"])
def test_a_negative_of_the_rows_own_is_found_with_the_log(released_recipe: Recipe, own: str, make_log: MakeLog) -> None:
    """A row's own item in place of its last negative; under typed entries that may be another entry of the note."""
    log = make_log(users=30, typed=False)
    tables = tables_of(log, released_recipe)
    assert released_violations(tables, released_recipe, NEGATIVES, log=log) == []
    assert released_violations(tables_of(make_log(), released_recipe), released_recipe, NEGATIVES, log=make_log()) == []
    cases = tables["cases"].select("case_id", "hist_items", "target_item", "split")
    lists = tables["candidates"].join(cases, on="case_id", maintain_order="left")
    others = pl.col("items").list.set_difference("positives")
    if own == "history":
        extra, kept = pl.col("hist_items").list.head(1), pl.col("positives")
        spoiled = (pl.col("split") == "test") & (pl.col("hist_items").list.len() > 0)
    else:  # a second target that is no positive any more
        extra, kept = pl.col("positives").list.tail(1), pl.col("positives").list.head(1)
        spoiled = (pl.col("split") == "test") & (pl.col("positives").list.len() > 1)
    shown = pl.concat_list(kept, extra, others.list.tail(NEGATIVES - 1))
    lists = lists.with_columns(
        items=pl.when(spoiled).then(shown).otherwise("items"),
        positives=pl.when(spoiled).then(kept).otherwise("positives"),
    ).select(list(schema.CANDIDATES))
    found = released_violations({**tables, "candidates": lists}, released_recipe, NEGATIVES, log=log)
    assert "C3" in {violation.invariant for violation in found}


def fewer_negatives(tables: Tables) -> Tables:
    lists = tables["candidates"]
    cut = pl.concat_list("positives", pl.col("items").list.set_difference("positives").list.head(NEGATIVES - 1))
    return {
        **tables,
        "candidates": lists.with_columns(items=pl.when(pl.col("case_id") % 9 == 0).then(cut).otherwise("items")),
    }


def positive_first(tables: Tables) -> Tables:
    first = pl.concat_list("positives", pl.col("items").list.set_difference("positives"))
    return {**tables, "candidates": tables["candidates"].with_columns(items=first)}


def invariants(found: list[Any]) -> set[str]:
    return {violation.invariant for violation in found}


@pytest.mark.parametrize("typed", [True, False])
def test_fewer_negatives_than_collisions_explain_are_found(
    released_recipe: Recipe, typed: bool, make_log: MakeLog
) -> None:
    """With the log list by list, with the funnel of stats.json by their number."""
    log = make_log(users=30, typed=typed)
    tables, counts = released_tables(log, released_recipe, 5, NEGATIVES)
    assert released_violations(tables, released_recipe, NEGATIVES, counts=counts, log=log) == []
    assert (counts["released: candidate lists with fewer negatives"] > 0) is typed
    short = fewer_negatives(tables)
    assert released_violations(short, released_recipe, NEGATIVES) == []
    assert invariants(released_violations(short, released_recipe, NEGATIVES, counts=counts)) == {"C1"}
    cut = 5 if typed else NEGATIVES - 1  # a note with two entries explains one negative less
    lists = tables["candidates"].with_columns(
        pl.concat_list("positives", pl.col("items").list.set_difference("positives").list.head(cut)).alias("items")
    )
    assert "C1" in invariants(released_violations({**tables, "candidates": lists}, released_recipe, NEGATIVES, log=log))


def test_a_pin_and_a_positive_in_front_are_found(released_recipe: Recipe, make_log: MakeLog) -> None:
    tables, counts = released_tables(make_log(users=60, typed=False), released_recipe, 5, NEGATIVES)
    pinned = replace(released_recipe, pins={"raw lines": 3, "clicks": 5})
    found = released_violations(tables, pinned, NEGATIVES, counts={**counts, "raw lines": 3, "clicks": 4})
    assert invariants(found) == {"T2"}
    assert invariants(released_violations(tables, pinned, NEGATIVES, counts=counts)) == {"T1", "T2"}
    assert invariants(released_violations(positive_first(tables), released_recipe, NEGATIVES)) == {"C4"}

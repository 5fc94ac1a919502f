"""What must hold of cases and candidates; each fault is reported under the name of the invariant it breaks.

L-a the target is not in its history. L-b histories are strictly earlier and of an allowed split. L-c no held-out pair
or (user, item) is a training target or in a training history, none held out as test is a validation target or in any
history. L-d train <= valid <= test per user and task. L-e no event of the
target's request in its history. L-f no query of the target's own pair in a recommendation history. S2 (for cases):
they name events that exist and say what these events say. R-h, R-s: case_rules.py. C1-C6: candidate_invariants.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from gemsbench.data.invariants import SHOWN, Violation
from gemsbench.data.recipe import Recipe
from gemsbench.protocol.candidate_invariants import candidate_violations
from gemsbench.protocol.candidates import NEGATIVES
from gemsbench.protocol.case_rules import rule_violations
from gemsbench.protocol.histories import TASK_BIT

CHUNK = 100_000  # cases looked at together; bounds the memory
_LISTS = ("hist_items", "hist_tasks", "hist_queries", "hist_event_ids")
_UNSHOWN = {"event_user", "event_item", "event_query", "event_bit", "event_held_out", "event_tested"}
_TARGET = ["user_id", "task", "target_item", "query_id", "split", "order_key"]


def protocol_violations(
    tables: Mapping[str, pl.DataFrame], recipe: Recipe, seed: int, *, negatives: int = NEGATIVES
) -> list[Violation]:
    """Every broken invariant of cases and candidates, with up to 20 offending rows each.

    tables: items, users, interactions, cases, candidates, of the schemas in data/schema.py.
    C5 (the seed gives the same lists) is checked only when nothing else is wrong: any other fault would break it too.
    """
    held_out = {"held_out": pl.col("split") != "train", "tested": pl.col("split") == "test"}
    events = tables["interactions"]
    events = events.with_columns(
        _shares(events, rows, f"{key}_id").alias(f"{key}_{name}")
        for name, rows in held_out.items()
        for key in ("pair", "item")
    )
    found = [*_split_violations(events), *_order_violations(events, tables["cases"])]
    cases = tables["cases"]
    asked = cases.select(_TARGET).join(_targets(events), on=_TARGET, how="left", maintain_order="left")
    cases = cases.with_columns(asked.select("target_pair", "target_group"))
    told = _told(events)
    for chunk in cases.iter_slices(CHUNK):
        found += _history_violations(chunk, told)
    merged = [*_merged(found), *rule_violations(tables["cases"], events, recipe.cases)]
    return merged + candidate_violations(tables, recipe.name, seed, negatives, regenerate=not merged)


def _shares(events: pl.DataFrame, rows: pl.Expr, key: str) -> pl.Series:
    """Whether one of the rows has the event's user and key."""
    keys = ["user_id", key]
    some = events.filter(rows).group_by(keys).agg(shared=pl.lit(True))
    return events.select(keys).join(some, on=keys, how="left", maintain_order="left")["shared"].fill_null(False)


def _merged(found: list[Violation]) -> list[Violation]:
    """One violation per invariant and message, in the order found."""
    parts: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for violation in found:
        parts.setdefault((violation.invariant, violation.message), []).append(violation.rows)
    return [
        Violation(name, f"{message} ({sum(rows.height for rows in shown)} rows).", pl.concat(shown).head(SHOWN))
        for (name, message), shown in parts.items()
    ]


def _when(invariant: str, message: str, table: pl.DataFrame, bad: pl.Expr) -> Iterator[Violation]:
    rows = table.filter(bad).select(name for name in table.columns if name not in _UNSHOWN)
    if rows.height:
        yield Violation(invariant, message, rows)


def _split_violations(events: pl.DataFrame) -> Iterator[Violation]:
    for split, name, words in (("train", "held_out", "is held out"), ("valid", "tested", "is held out as test")):
        of_split, pair, item = pl.col("split") == split, pl.col(f"pair_{name}"), pl.col(f"item_{name}")
        yield from _when("L-c", f"interactions: a {split} event's pair {words}", events, of_split & pair)
        yield from _when(
            "L-c", f"interactions: a {split} event's (user, item) {words}", events, of_split & item & ~pair
        )


def _order_violations(events: pl.DataFrame, cases: pl.DataFrame) -> Iterator[Violation]:
    task = ["user_id", "task"]
    last_train = events.filter(pl.col("split") == "train").group_by(task).agg(train=pl.col("order_key").max())
    asked = cases.group_by(task).agg(
        valid=pl.col("order_key").filter(pl.col("split") == "valid").min(),
        test=pl.col("order_key").filter(pl.col("split") == "test").min(),
    )
    both = asked.join(last_train, on=task, how="left").sort(task)
    late = (pl.col("train") > pl.min_horizontal("valid", "test")) | (pl.col("valid") > pl.col("test"))
    yield from _when("L-d", "a user's train, valid and test events of a task are not in this order", both, late)


def _targets(events: pl.DataFrame) -> pl.DataFrame:
    """Pair and group of the event that a case asks about, by what the case says of it."""
    events = events.rename({"item_id": "target_item"})
    return events.select(*_TARGET, target_pair="pair_id", target_group="group_id").unique(_TARGET)


def _history_violations(cases: pl.DataFrame, told: pl.DataFrame) -> Iterator[Violation]:
    flat = cases.drop(_LISTS)
    yield from _when(
        "S2", "cases: the target is not an event of the case's split", flat, pl.col("target_pair").is_null()
    )
    uneven = pl.any_horizontal(pl.col(name).list.len() != pl.col(_LISTS[0]).list.len() for name in _LISTS[1:])
    yield from _when("S2", "cases: the history's lists differ in length", cases.select(*flat.columns, *_LISTS), uneven)
    entries = cases.filter(~uneven).explode(_LISTS, empty_as_null=False)
    yield from _entry_violations(entries.hstack(_told_by(entries["hist_event_ids"], told)))


def _told_by(events: pl.Series, told: pl.DataFrame) -> pl.DataFrame:
    """What told says of each event, null of one that does not exist; a join would number all of told every time."""
    known, asked = told["hist_event_ids"].to_numpy(), events.to_numpy()
    at = np.minimum(np.searchsorted(known, asked), known.size - 1)
    rows = pl.Series(np.where(known[at] == asked, at, known.size), dtype=pl.UInt32)
    facts = told.drop("hist_event_ids")
    return pl.concat([facts, facts.clear(n=1)]).select(pl.all().gather(rows))


def _told(events: pl.DataFrame) -> pl.DataFrame:
    """What an entry's event says of itself, in the order of event ids."""
    return events.sort("event_id").select(
        hist_event_ids="event_id",
        event_user="user_id",
        event_item="item_id",
        event_key="order_key",
        event_pair="pair_id",
        event_group="group_id",
        event_split="split",
        event_query="query_id",
        event_bit=pl.col("task").replace_strict(TASK_BIT, return_dtype=pl.Int8),
        event_held_out=pl.col("pair_held_out") | pl.col("item_held_out"),
        event_tested=pl.col("pair_tested") | pl.col("item_tested"),
    )


def _entry_violations(entries: pl.DataFrame) -> Iterator[Violation]:
    searched = pl.col("event_bit") == TASK_BIT["src"]
    unlike = (
        pl.col("event_user").is_null()
        | (pl.col("event_user") != pl.col("user_id"))
        | (pl.col("event_item") != pl.col("hist_items"))
        | (pl.col("event_bit") & pl.col("hist_tasks") == 0)
        | (searched & (pl.col("event_query") != pl.col("hist_queries")))
    )
    yield from _when("S2", "cases: a history entry differs from the event it names", entries, unlike)
    same_item = pl.col("hist_items") == pl.col("target_item")
    yield from _when("L-a", "cases: the target item is in its own history", entries, same_item)
    not_earlier = pl.col("event_key") >= pl.col("order_key")
    yield from _when("L-b", "cases: a history entry is not earlier than the target", entries, not_earlier)
    test = pl.col("split") == "test"
    forbidden = (pl.col("event_split") == "test") | ((pl.col("event_split") == "valid") & ~test)
    yield from _when("L-b", "cases: a history entry is of a split that the case may not see", entries, forbidden)
    train = pl.col("split") == "train"
    yield from _when(
        "L-c", "cases: a training history holds a held-out pair", entries, train & pl.col("event_held_out")
    )
    tested = ~train & pl.col("event_tested")
    yield from _when("L-c", "cases: a history holds a pair that is held out as test", entries, tested)
    same_group = (pl.col("target_group") >= 0) & (pl.col("event_group") == pl.col("target_group"))
    yield from _when("L-e", "cases: a history entry is of the target's request", entries, same_group)
    query = (pl.col("task") == "rec") & (pl.col("hist_queries") > 0) & (pl.col("event_pair") == pl.col("target_pair"))
    yield from _when("L-f", "cases: a recommendation history shows the query of the target's own pair", entries, query)

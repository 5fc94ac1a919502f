"""What must hold of the tables of a released recipe; our rules on leaks and clean negatives are not among it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from gemsbench.data import schema
from gemsbench.data.invariants import SHOWN, Violation, pin_violations
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.errors import InputError
from gemsbench.protocol.candidate_invariants import place_violations
from gemsbench.protocol.candidates import NEGATIVES
from gemsbench.protocol.released_negatives import (
    SHORTER,
    is_shorter,
    own_entry_violations,
    short_list_violations,
)

CHUNK = 40_000  # cases whose candidates are looked at together; bounds the memory, does not change the result
_HISTORY = ("hist_items", "hist_tasks", "hist_queries", "hist_event_ids")


def released_violations(
    tables: Mapping[str, pl.DataFrame],
    recipe: Recipe,
    negatives: int = NEGATIVES,
    *,
    counts: Mapping[str, int] | None = None,
    log: ReleasedLog | None = None,
) -> list[Violation]:
    """Broken invariants of the tables of a released recipe; empty when all hold.

    S1 columns, types, nulls; S2 dense keys that resolve; S3 a recommendation has no query, events have the recipe's
    kind of time and are in order of it; then, when these hold, R1 every case is what an example gives (history lists
    of one length, one target, none only in test), R2 the events are the targets of the cases, C1 every valid and test
    case has one list of distinct items with all its positives and at most `negatives` others, C2 the target is one of
    the positives; when all these hold, C4 the place of the positive is uniform over the full lists that have one
    positive. With counts (of stats.json) also T1 and T2, the pins of the recipe, and C1 as many lists as then have
    fewer negatives. With the log they were made from also C1 and C3, see released_negatives.py. C5 (the seed gives the
    same lists) is not checked: draws are over entries, which only the log knows.
    """
    broken = [*_schemas(tables)] or [*_keys(tables), *_queries(tables), *_times(tables, recipe)]
    if broken:
        return broken
    lists = _lists(tables)
    n_items = tables["items"].height
    found = [*_cases(tables["cases"]), *_events(tables, lists), *_candidates(lists, n_items, negatives)]
    if not found:
        one = (pl.col("positives").list.len() == 1) & (pl.col("items").list.len() == negatives + 1)
        found = list(place_violations(lists.filter(one)))
    if counts is not None:
        found += [*pin_violations(counts, recipe), *_counted(lists, negatives, counts)]
    if log is not None:
        found += [*short_list_violations(lists, tables["items"], log, negatives), *own_entry_violations(tables, log)]
    return found


def _counted(lists: pl.DataFrame, negatives: int, counts: Mapping[str, int]) -> Iterator[Violation]:
    shorter = lists.filter(is_shorter(negatives))
    if shorter.height != counts.get(SHORTER, shorter.height):
        message = f"{shorter.height} lists have fewer than {negatives} negatives, '{SHORTER}' is {counts[SHORTER]}."
        yield Violation("C1", message, shorter.head(SHOWN))


def _when(invariant: str, message: str, table: pl.DataFrame, bad: pl.Expr) -> Iterator[Violation]:
    rows = table.filter(bad)
    if rows.height:
        yield Violation(invariant, f"{message} ({rows.height} rows).", rows.head(SHOWN))


def _schemas(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    for name, columns in schema.TABLES.items():
        if name not in tables:
            yield Violation("S1", f"{name}: the table is missing.")
            continue
        try:
            schema.conform(tables[name], columns, name)
        except InputError as error:
            yield Violation("S1", str(error))


def _keys(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    for name, key, start in (
        ("items", "item_id", 1),
        ("queries", "query_id", 1),
        ("users", "user_id", 0),
        ("interactions", "event_id", 0),
        ("cases", "case_id", 0),
    ):
        place = pl.int_range(start, pl.len() + start, dtype=pl.Int64)
        yield from _when("S2", f"{name}: {key} is not {start}, {start + 1}, ...", tables[name], pl.col(key) != place)
    for name, key in (("items", "raw_id"), ("users", "raw_id"), ("queries", "text")):
        yield from _when("S2", f"{name}: {key} is not unique", tables[name], pl.col(key).is_duplicated())
    bounds = (
        ("user_id", 0, tables["users"].height - 1),
        ("item_id", 1, tables["items"].height),
        ("target_item", 0, tables["items"].height),
        ("query_id", 0, tables["queries"].height),
    )
    for name in ("interactions", "cases"):
        for key, low, high in bounds:
            if key in tables[name].columns:
                unknown = ~pl.col(key).is_between(low, high)
                yield from _when("S2", f"{name}: {key} is unknown", tables[name], unknown)
    n_items = tables["items"].height
    outside = (pl.col("hist_items").list.min() < 1) | (pl.col("hist_items").list.max() > n_items)
    yield from _when("S2", "cases: hist_items name unknown items", tables["cases"], outside)
    place = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    yield from _when(
        "S2", "interactions: seq is not 0, 1, ... of the user", tables["interactions"], pl.col("seq") != place
    )


def _queries(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    for name in ("interactions", "cases"):
        wrong = (pl.col("task") == "rec") & (pl.col("query_id") != 0)
        yield from _when("S3", f"{name}: a recommendation has a query", tables[name], wrong)


def _times(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> Iterator[Violation]:
    expected = pl.col("task").cast(pl.String).replace_strict(dict(recipe.time_kind), return_dtype=schema.TIME_KIND)
    events = tables["interactions"]
    yield from _when("S3", "interactions: time_kind is not the recipe's", events, pl.col("time_kind") != expected)
    later = pl.col("order_key") < pl.col("order_key").shift(1).over("user_id")
    yield from _when("S3", "interactions: a user's events are not in order of time", events, later.fill_null(False))


def _cases(cases: pl.DataFrame) -> Iterator[Violation]:
    length = pl.col(_HISTORY[0]).list.len()
    uneven = pl.any_horizontal(pl.col(name).list.len() != length for name in _HISTORY[1:])
    yield from _when("R1", "cases: the lists of a history differ in length", cases, uneven)
    tasks = (pl.col("hist_tasks").list.min() < 1) | (pl.col("hist_tasks").list.max() > 3)
    yield from _when("R1", "cases: hist_tasks are not 1, 2 or 3", cases, tasks)
    nothing = (pl.col("target_item") == 0) & (pl.col("split") != "test")
    yield from _when("R1", "cases: a train or valid case without a target", cases, nothing)


def _lists(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    asked = tables["cases"].filter(pl.col("split") != "train")
    asked = asked.select("case_id", "user_id", "task", "split", "target_item")
    return asked.join(tables["candidates"], on="case_id", how="full", coalesce=True).sort("case_id")


def _events(tables: Mapping[str, pl.DataFrame], lists: pl.DataFrame) -> Iterator[Violation]:
    """The events are one per target: (user, task, split, item) counted in both."""
    key = ["user_id", "task", "split", "item_id"]
    single = tables["cases"].filter(pl.col("split") != "test").select("user_id", "task", "split", item_id="target_item")
    tested = lists.filter(pl.col("split") == "test").select("user_id", "task", "split", item_id="positives")
    tested = tested.explode("item_id", empty_as_null=False, keep_nulls=False)
    events = tables["interactions"].select(key)
    # A test row may name one item twice, as two entries: there the pairs are compared, elsewhere their number.
    train = pl.col("split") != "test"
    wanted = pl.concat([single, tested]).group_by(key).agg(wanted=pl.when(train.first()).then(pl.len()).otherwise(1))
    found = events.group_by(key).agg(found=pl.when(train.first()).then(pl.len()).otherwise(1))
    both = wanted.join(found, on=key, how="full", coalesce=True).fill_null(0).sort(key)
    yield from _when("R2", "the events are not the targets of the cases", both, pl.col("wanted") != pl.col("found"))


def _candidates(lists: pl.DataFrame, n_items: int, negatives: int) -> Iterator[Violation]:
    alone = pl.col("items").is_null() | pl.col("target_item").is_null() | pl.col("case_id").is_duplicated()
    yield from _when("C1", "not exactly one list per valid and test case", lists, alone)
    lists = lists.filter(~alone)
    items, positives = pl.col("items"), pl.col("positives")
    parts = [
        chunk.filter(
            (items.list.n_unique() != items.list.len())
            | (positives.list.n_unique() != positives.list.len())
            | (positives.list.set_difference("items").list.len() > 0)
            | (items.list.len() > negatives + positives.list.len())
            | (items.list.len() == positives.list.len())
            | ~items.list.min().is_between(1, n_items)
            | ~items.list.max().is_between(1, n_items)
        )
        for chunk in lists.iter_slices(CHUNK)
    ]
    wrong = pl.concat(parts) if parts else lists
    message = f"the items are not the positives and up to {negatives} others, each once"
    yield from _when("C1", message, wrong, pl.lit(True))
    missing = (pl.col("target_item") > 0) & ~positives.list.contains(pl.col("target_item"))
    extra = (pl.col("target_item") == 0) & (positives.list.len() > 0)
    yield from _when("C2", "the case's target is not among its positives", lists, missing | extra)

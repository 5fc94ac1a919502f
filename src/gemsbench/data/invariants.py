"""Structural invariants of the canonical tables; each fault is reported under the name of the invariant it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import polars as pl

from gemsbench.data import schema
from gemsbench.data.queries import stop_words
from gemsbench.data.recipe import Recipe
from gemsbench.errors import InputError

SHOWN = 20
STRUCTURE = ("items", "queries", "users", "interactions")
# Not those of the cleaning step: a check that shares its code with what it checks proves nothing.
_TAG = r"<[/!]?[A-Za-z][^<>]*>"
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
_TEXTS = ("title", "description", "brand", "text")


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold: its name, what is wrong, up to 20 offending rows."""

    invariant: str
    message: str
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)


def structure_violations(
    tables: Mapping[str, pl.DataFrame], recipe: Recipe, counts: Mapping[str, int] | None = None
) -> list[Violation]:
    """Check S1-S6, X1-X3 and, when counts (of stats.json) are given, the pins T1 and T2 of the recipe.

    S5 is a promise about events before the split (core_violations); here it is checked of users, see _s5.

    tables: items, queries, users, interactions (with split) and, if present, cases. S1, then S2 are checked alone:
    nothing more can be said about tables of another shape or with broken keys.
    """
    broken = list(_s1(tables)) or list(_s2(tables))
    if broken:
        return broken
    pins = pin_violations(counts, recipe) if counts is not None else []
    events = (_s3(tables), _s4(tables, recipe), _s5(tables, recipe), _s6(tables))
    texts = (_x1(tables["items"], recipe), _x2(tables), _x3(tables["queries"]))
    return [*chain(*events, *texts), *pins]


def pin_violations(counts: Mapping[str, int], recipe: Recipe) -> list[Violation]:
    """T1: pinned counts of the raw files; T2: pinned counts of the recipe. Both exact."""
    return [
        Violation(
            "T1" if name.startswith("raw ") else "T2",
            f"'{name}' is {counts.get(name, 'missing')}, pinned is {pinned}.",
        )
        for name, pinned in recipe.pins.items()
        if counts.get(name) != pinned
    ]


def _when(invariant: str, message: str, table: pl.DataFrame, bad: pl.Expr) -> Iterator[Violation]:
    rows = table.filter(bad)
    if rows.height:
        yield Violation(invariant, f"{message} ({rows.height} rows).", rows.head(SHOWN))


def _s1(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    for name in STRUCTURE:
        if name not in tables:
            yield Violation("S1", f"{name}: the table is missing.")
            continue
        table, expected = tables[name], schema.TABLES[name]
        try:
            schema.conform(table, expected, name)
        except InputError as error:
            yield Violation("S1", str(error), table.head(SHOWN))
            continue
        if table.columns != list(expected):
            yield Violation("S1", f"{name}: columns are {', '.join(table.columns)}, not {', '.join(expected)}.")
        elif name == "interactions":
            timeless = pl.col("timestamp").is_null() != (pl.col("time_kind") == "none")
            yield from _when("S1", "interactions: timestamp is null exactly where time_kind is none", table, timeless)


def _s2(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    items, queries, users, events = (tables[name] for name in STRUCTURE)
    dense = (
        ("items", "item_id", 1),
        ("queries", "query_id", 1),
        ("users", "user_id", 0),
        ("interactions", "event_id", 0),
    )
    for name, key, start in dense:
        place = pl.int_range(start, pl.len() + start, dtype=pl.Int64)
        yield from _when(
            "S2", f"{name}: {key} is not {start}, {start + 1}, ... in order", tables[name], pl.col(key) != place
        )
    for name, key in (("items", "raw_id"), ("users", "raw_id"), ("queries", "text")):
        yield from _when("S2", f"{name}: {key} is not unique", tables[name], pl.col(key).is_duplicated())
    yield from _when("S2", "queries: empty text", queries, pl.col("text") == "")
    for key, low, high in (
        ("user_id", 0, users.height - 1),
        ("item_id", 1, items.height),
        ("query_id", 0, queries.height),
    ):
        yield from _when("S2", f"interactions: {key} is unknown", events, ~pl.col(key).is_between(low, high))
    unknown = pl.col("query_ids").list.eval(~pl.element().is_between(1, queries.height)).list.any()
    yield from _when("S2", "items: query_ids name unknown queries", items, unknown)
    place = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    yield from _when(
        "S2", "interactions: seq is not 0, 1, ... of the user in row order", events, pl.col("seq") != place
    )


def _s3(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    wrong = (pl.col("query_id") == 0) != (pl.col("task") == "rec")
    yield from _when("S3", "interactions: query_id is 0 exactly for rec", tables["interactions"], wrong)


def _s4(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> Iterator[Violation]:
    events = tables["interactions"]
    if recipe.both_behaviours:
        train = pl.col("split") == "train"
        per_user = events.group_by("user_id", maintain_order=True).agg(
            train_rec=(train & (pl.col("task") == "rec")).sum(), train_src=(train & (pl.col("task") == "src")).sum()
        )
        users = tables["users"].select("user_id").join(per_user, on="user_id", how="left").fill_null(0)
        lacking = (pl.col("train_rec") == 0) | (pl.col("train_src") == 0)
        yield from _when("S4", "users without a rec or without a src event in train", users, lacking)
    # The clicks of one request are one held-out unit.
    unit = pl.when(pl.col("group_id") >= 0).then(pl.col("group_id")).otherwise(-1 - pl.col("event_id"))
    held_out = events.filter(pl.col("split") != "train")
    per_task = held_out.group_by("user_id", "task", "split", maintain_order=True).agg(unit.n_unique().alias("units"))
    yield from _when("S4", "more than one held-out event of a user, task and split", per_task, pl.col("units") > 1)
    if "cases" in tables:
        asked = tables["cases"].filter(pl.col("split") != "train")
        twice = pl.struct("user_id", "task", "split").is_duplicated()
        yield from _when("S4", "cases: more than one of a user, task and split", asked.drop(pl.selectors.list()), twice)


def core_violations(users: pl.DataFrame, items: pl.DataFrame, events: pl.DataFrame, k: int) -> list[Violation]:
    """S5: users and items with fewer than k rec events; events are those before the split. k <= 1 is no promise."""
    if k <= 1:
        return []
    bought = events.filter(pl.col("task") == "rec")
    found: list[Violation] = []
    for key, table in (("user_id", users), ("item_id", items)):
        sizes = table.select(key).join(bought.group_by(key).len("events"), on=key, how="left").fill_null(0)
        found += _when("S5", f"{key}: fewer than {k} rec events in a {k}-core", sizes, pl.col("events") < k)
    return found


def _s5(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> Iterator[Violation]:
    # The split drops events but no (user, item); whole users may be gone, so that items have no lower bound any more.
    touched = tables["interactions"].group_by("user_id").agg(items=pl.col("item_id").n_unique())
    sizes = tables["users"].select("user_id").join(touched, on="user_id", how="left").fill_null(0)
    few = pl.col("items") < recipe.k_core
    yield from _when("S5", f"user_id: fewer than {recipe.k_core} items in a {recipe.k_core}-core", sizes, few)


def _s6(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    twice = pl.struct("user_id", "item_id", "task", "query_id").is_duplicated()
    yield from _when("S6", "interactions: repeated (user, item, task, query)", tables["interactions"], twice)


def filled(column: str) -> pl.Expr:
    """True where a column of items has a value: text not empty, list not empty."""
    return (pl.col(column).list.len() > 0) if column == "category_paths" else (pl.col(column) != "")


def _x1(items: pl.DataFrame, recipe: Recipe) -> Iterator[Violation]:
    yield from _when("X1", "items: empty text", items, ~filled("text"))
    for column, least in recipe.min_shares.items():
        share = items.select(filled(column).mean()).item()
        if items.height and share < least:
            message = f"items: {column} is filled for {share:.2%}, the recipe promises {least:.2%}."
            yield Violation("X1", message, items.filter(~filled(column)).head(SHOWN))


def _x2(tables: Mapping[str, pl.DataFrame]) -> Iterator[Violation]:
    for column in _TEXTS:
        marked = pl.col(column).str.contains(_TAG) | pl.col(column).str.contains(_CONTROL)
        yield from _when("X2", f"items: tags or control characters in {column}", tables["items"], marked)
    control = pl.col("text").str.contains(_CONTROL)
    yield from _when("X2", "queries: control characters", tables["queries"], control)


def _x3(queries: pl.DataFrame) -> Iterator[Violation]:
    # Only made queries: a real searcher may well type "the who".
    stopped = pl.col("text").str.split(" ").list.eval(pl.element().is_in(sorted(stop_words()))).list.all()
    made = pl.col("source") == "synthetic"
    yield from _when("X3", "queries: nothing but stop words", queries, made & stopped)

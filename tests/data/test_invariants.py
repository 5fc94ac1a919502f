"""Each injected fault is reported under exactly the invariant that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.canonical import canonical_tables
from gemsbench.data.invariants import SHOWN, core_violations, structure_violations
from gemsbench.data.recipe import RawLog, Recipe

Tables = dict[str, pl.DataFrame]
N = 4  # users and items: everybody buys everything, so this is a 4-core


@pytest.fixture
def recipe(build_recipe: Callable[..., Recipe]) -> Recipe:
    return build_recipe(k_core=N, min_shares={"title": 1.0, "brand": 0.5}, pins={"raw rows": 16, "users": N})


@pytest.fixture
def tables(build_log: Callable[..., RawLog], build_recipe: Callable[..., Recipe]) -> Tables:
    events = [{"user": f"u{u}", "item": f"i{i}", "timestamp": 10 * i} for u in range(N) for i in range(N)]
    items = [{"raw_id": f"i{i}", "brand": "b", "queries": [f"kind {i}", "all kinds"]} for i in range(N)]
    made = canonical_tables(build_log(events, items), build_recipe(), 1)
    order = {0: "train", 10: "train", 20: "valid", 30: "test"}
    split = pl.col("timestamp").replace_strict(order, return_dtype=schema.SPLIT)
    interactions = made.interactions.with_columns(split=split).select(list(schema.INTERACTIONS))
    return {"items": made.items, "queries": made.queries, "users": made.users, "interactions": interactions}


COUNTS = {"raw rows": 16, "users": N}


def changed(table: pl.DataFrame, row: int, **values: object) -> pl.DataFrame:
    """One row of a table with other values, types kept."""
    place = pl.int_range(pl.len()) == row
    return table.with_columns(
        pl.when(place).then(pl.lit(value, dtype=table.schema[column])).otherwise(pl.col(column)).alias(column)
        for column, value in values.items()
    )


def fault(table: str, row: int, **values: object) -> Callable[[Tables], Tables]:
    return lambda tables: tables | {table: changed(tables[table], row, **values)}


def of_events(edit: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Tables], Tables]:
    """Edit the interactions, then number them again, so that only the intended fault is left."""

    def apply(tables: Tables) -> Tables:
        events = edit(tables["interactions"]).with_columns(
            event_id=pl.int_range(pl.len(), dtype=pl.Int64), seq=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
        )
        return tables | {"interactions": events}

    return apply


def first_user(*conditions: pl.Expr) -> pl.Expr:
    return pl.all_horizontal(pl.col("user_id") == 0, *conditions)


FAULTS: list[tuple[str, str, Callable[[Tables], Tables]]] = [
    ("a table is missing", "S1", lambda t: {name: table for name, table in t.items() if name != "users"}),
    ("wrong type", "S1", lambda t: t | {"items": t["items"].with_columns(pl.col("item_id").cast(pl.Int64))}),
    ("a column too many", "S1", lambda t: t | {"users": t["users"].with_columns(name=pl.lit("Bob"))}),
    ("columns in another order", "S1", lambda t: t | {"users": t["users"].select(reversed(t["users"].columns))}),
    ("a null", "S1", fault("items", 1, title=None)),
    ("a time where there is none", "S1", fault("interactions", 3, time_kind="none")),
    ("no time where there is one", "S1", fault("interactions", 3, timestamp=None)),
    ("item ids with a hole", "S2", fault("items", N - 1, item_id=9)),
    ("event ids repeat", "S2", fault("interactions", 1, event_id=0)),
    ("raw ids repeat", "S2", fault("items", 1, raw_id="i0")),
    ("user hashes repeat", "S2", lambda t: fault("users", 1, raw_id=t["users"]["raw_id"][0])(t)),
    ("query texts repeat", "S2", fault("queries", 1, text="all kinds")),
    ("padding as item", "S2", fault("interactions", 5, item_id=0)),
    ("unknown item", "S2", fault("interactions", 5, item_id=N + 1)),
    ("unknown query of an item", "S2", fault("items", 0, query_ids=[99])),
    ("places repeat", "S2", fault("interactions", 1, seq=0)),
    ("query of a purchase", "S3", lambda t: _query_of_a_purchase(t)),
    ("search without query", "S3", lambda t: _search_without_query(t)),
    ("no search in train", "S4", of_events(lambda e: e.filter(~first_user(_src(), _in("train"))))),
    ("two test events", "S4", of_events(lambda e: e.with_columns(split=_move("train", "test")))),
    ("user below k", "S5", of_events(lambda e: e.filter(~first_user(_in("valid"))))),
    ("repeated event", "S6", of_events(lambda e: _repeated(e))),
    ("item without text", "X1", fault("items", 2, text="")),
    ("too few titles", "X1", fault("items", 2, title="")),
    ("a tag", "X2", fault("items", 0, description="see <br/> here")),
    ("a closing tag", "X2", fault("items", 0, text="</span>")),
    ("a line feed", "X2", fault("items", 0, brand="two\nlines")),
    ("a control character in a query", "X2", fault("queries", 0, text="all\x07kinds")),
    ("a query of stop words", "X3", fault("queries", 0, text="all of the")),
]


def _src() -> pl.Expr:
    return pl.col("task") == "src"


def _in(split: str) -> pl.Expr:
    return pl.col("split") == split


def _move(source: str, target: str) -> pl.Expr:
    last = pl.col("seq") == pl.col("seq").filter(first_user(_in(source), _src())).max()
    moved = first_user(_in(source), _src(), last)
    return pl.when(moved).then(pl.lit(target, dtype=schema.SPLIT)).otherwise(pl.col("split"))


def _repeated(events: pl.DataFrame) -> pl.DataFrame:
    train = events.filter(first_user(_src(), _in("train"))).head(1)
    return pl.concat([events, train]).sort("user_id", "seq")


def _query_of_a_purchase(tables: Tables) -> Tables:
    row = int(tables["interactions"].with_row_index().filter(pl.col("task") == "rec")["index"][0])
    return fault("interactions", row, query_id=1)(tables)


def _search_without_query(tables: Tables) -> Tables:
    row = int(tables["interactions"].with_row_index().filter(_src())["index"][0])
    return fault("interactions", row, query_id=0)(tables)


def test_sound_tables_have_no_violation(tables: Tables, recipe: Recipe) -> None:
    assert structure_violations(tables, recipe, COUNTS) == []


@pytest.mark.parametrize(("name", "invariant", "inject"), FAULTS, ids=[f"{i}-{name}" for name, i, _ in FAULTS])
def test_a_fault_is_named(
    name: str, invariant: str, inject: Callable[[Tables], Tables], tables: Tables, recipe: Recipe
) -> None:
    found = structure_violations(inject(tables), recipe, COUNTS)
    assert {violation.invariant for violation in found} == {invariant}, found
    assert all(violation.message and violation.rows.height <= SHOWN for violation in found)


@pytest.mark.parametrize(
    ("counts", "invariant"), [({"raw rows": 15, "users": N}, "T1"), ({"raw rows": 16, "users": 3}, "T2")]
)
def test_a_pin_is_named(counts: dict[str, int], invariant: str, tables: Tables, recipe: Recipe) -> None:
    assert [violation.invariant for violation in structure_violations(tables, recipe, counts)] == [invariant]


def test_a_core_is_checked_of_users_and_items(tables: Tables) -> None:
    events = tables["interactions"]
    parts = (tables["users"], tables["items"])
    assert core_violations(*parts, events, N) == []
    searched_only = events.filter(~first_user(pl.col("task") == "rec", _in("valid")))
    found = core_violations(*parts, searched_only, N)
    assert [(v.invariant, v.message.split(":")[0]) for v in found] == [("S5", "user_id"), ("S5", "item_id")]
    assert [v.rows.row(0) for v in found] == [(0, N - 1), (3, N - 1)]
    assert core_violations(*parts, events.clear(), 1) == []


def test_a_purchase_that_the_split_dropped_leaves_the_core(tables: Tables, recipe: Recipe) -> None:
    dropped = of_events(lambda e: e.filter(~first_user(pl.col("task") == "rec", _in("train"), pl.col("item_id") == 1)))
    assert structure_violations(dropped(tables), recipe, COUNTS) == []


def test_offending_rows_are_shown(tables: Tables, recipe: Recipe) -> None:
    (found,) = structure_violations(fault("items", 2, text="")(tables), recipe)
    assert found.rows["raw_id"].to_list() == ["i2"]


def test_recipes_that_promise_less_are_held_to_less(tables: Tables, recipe: Recipe) -> None:
    lonely = of_events(lambda e: e.filter(pl.col("task") == "rec"))(tables)
    assert {v.invariant for v in structure_violations(lonely, recipe)} == {"S4"}
    assert structure_violations(lonely, replace(recipe, both_behaviours=False)) == []


def test_clicks_of_one_held_out_request_are_one_event(tables: Tables, recipe: Recipe) -> None:
    together = of_events(lambda e: e.with_columns(split=_move("train", "test"), group_id=pl.lit(0, dtype=pl.Int64)))
    assert structure_violations(together(tables), recipe) == []


def test_two_cases_of_one_kind_are_refused(tables: Tables, recipe: Recipe) -> None:
    case = {"case_id": [0, 1], "user_id": [0, 0], "task": ["rec"] * 2, "split": ["test"] * 2, "hist_items": [[1], [2]]}
    once = pl.DataFrame(case).with_columns(split=pl.Series(["test", "valid"]))
    assert structure_violations(tables | {"cases": once}, recipe) == []
    found = structure_violations(tables | {"cases": pl.DataFrame(case)}, recipe)
    assert [violation.invariant for violation in found] == ["S4"]

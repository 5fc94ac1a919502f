"""Each fault, put into a valid dataset, is reported under its own name and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl
import pytest

from gemsbench.protocol import candidate_invariants, invariants
from gemsbench.protocol.candidate_invariants import false_negative_share
from gemsbench.protocol.invariants import protocol_violations

Tables = dict[str, pl.DataFrame]
Make = Callable[..., Any]
SEED, NEGATIVES = 7, 20
LISTS = ("hist_items", "hist_tasks", "hist_queries", "hist_event_ids")
TRAIN = pl.col("split") == "train"
HAS_HISTORY = pl.col("hist_items").list.len() > 0


def found(tables: Tables, recipe: Make, seed: int = SEED) -> set[str]:
    violations = protocol_violations(tables, recipe("pair"), seed, negatives=NEGATIVES)
    assert all(violation.rows.height for violation in violations)
    return {violation.invariant for violation in violations}


def change(table: pl.DataFrame, key: str, value: int, **columns: Any) -> pl.DataFrame:
    """The table with columns of the one row where key == value replaced."""
    assert table.filter(pl.col(key) == value).height == 1
    changed = [
        pl.when(pl.col(key) == value).then(pl.lit(new, dtype=table.schema[name])).otherwise(name).alias(name)
        for name, new in columns.items()
    ]
    return table.with_columns(changed)


def with_target_event(tables: Tables) -> pl.DataFrame:
    """Cases with the event they ask about: event, pair, group, and the number of events of that pair."""
    events = tables["interactions"].with_columns(twins=pl.len().over("user_id", "pair_id"))
    key = ["user_id", "task", "item_id", "query_id", "split", "order_key"]
    cases = tables["cases"].rename({"target_item": "item_id"})
    joined = cases.join(events.select(*key, "event_id", "pair_id", "group_id", "twins", "seq"), on=key)
    return joined.rename({"item_id": "target_item"})


def entries(cases: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """One row per case and history entry, with the entry's event (columns ending in _h)."""
    events = tables["interactions"].rename({"event_id": "hist_event_ids"})
    return cases.explode(LISTS, empty_as_null=False).join(events, on="hist_event_ids", suffix="_h")


def append(tables: Tables, case_id: int, event: dict[str, Any]) -> Tables:
    """The event as newest entry of the case's history."""
    case = tables["cases"].filter(case_id=case_id).row(0, named=True)
    entry = (event["item_id"], 1 if event["task"] == "rec" else 2, event["query_id"], event["event_id"])
    lists = {name: [*case[name], value] for name, value in zip(LISTS, entry, strict=True)}
    return tables | {"cases": change(tables["cases"], "case_id", case_id, **lists)}


def other_events(tables: Tables, case: dict[str, Any]) -> pl.DataFrame:
    """Events of the case's user that share neither item, pair nor group with its target."""
    apart = (pl.col("group_id") < 0) | (pl.col("group_id") != case["group_id"])
    return tables["interactions"].filter(
        apart, pl.col("item_id") != case["target_item"], pl.col("pair_id") != case["pair_id"], user_id=case["user_id"]
    )


def target_in_history(tables: Tables) -> Tables:
    # A purchase with a search: its item stays touched, and histories name the search.
    case = with_target_event(tables).filter(TRAIN, HAS_HISTORY, task="rec", twins=2).row(0, named=True)
    item = case["hist_items"][0]
    return tables | {
        "interactions": change(tables["interactions"], "event_id", case["event_id"], item_id=item),
        "cases": change(tables["cases"], "case_id", case["case_id"], target_item=item),
    }


def later_event_in_history(tables: Tables) -> Tables:
    for case in with_target_event(tables).filter(TRAIN).iter_rows(named=True):
        later = other_events(tables, case).filter(TRAIN, pl.col("order_key") >= case["order_key"])
        if later.height:
            return append(tables, case["case_id"], later.row(0, named=True))
    raise AssertionError("no such case")


def same_time_in_history(tables: Tables) -> Tables:
    for case in with_target_event(tables).filter(TRAIN).iter_rows(named=True):
        tied = other_events(tables, case).filter(TRAIN, pl.col("order_key") == case["order_key"])
        if tied.height:
            return append(tables, case["case_id"], tied.row(0, named=True))
    raise AssertionError("no such case")


def earlier_event_in_history(tables: Tables, case_split: str, split: str) -> Tables:
    for case in with_target_event(tables).filter(split=case_split).iter_rows(named=True):
        earlier = other_events(tables, case).filter(pl.col("order_key") < case["order_key"], split=split)
        if earlier.height:
            return append(tables, case["case_id"], earlier.row(0, named=True))
    raise AssertionError("no such case")


def held_out_pair_in_train(tables: Tables) -> Tables:
    alone = with_target_event(tables).filter(TRAIN, twins=1, task="rec")
    held_out = tables["interactions"].filter(split="test").select("user_id", held="pair_id").unique("user_id")
    row = alone.join(held_out, on="user_id").row(0, named=True)
    return tables | {"interactions": change(tables["interactions"], "event_id", row["event_id"], pair_id=row["held"])}


def held_out_item_in_train(tables: Tables) -> Tables:
    twin = with_target_event(tables).filter(TRAIN, twins=2, task="rec")
    held_out = tables["interactions"].filter(split="test").select("user_id", held="item_id").unique("user_id")
    row = twin.join(held_out, on="user_id").row(0, named=True)
    return tables | {
        "interactions": change(tables["interactions"], "event_id", row["event_id"], item_id=row["held"]),
        "cases": change(tables["cases"], "case_id", row["case_id"], target_item=row["held"]),
    }


def train_after_valid(tables: Tables) -> Tables:
    alone = with_target_event(tables).filter(TRAIN, twins=1, task="rec")
    valid = tables["cases"].filter(split="valid", task="rec").select("user_id", late="order_key")
    row = alone.join(valid, on="user_id").row(0, named=True)
    key = row["late"] + 1
    keep = pl.col("hist_event_ids").list.eval(pl.element() != row["event_id"])
    stripped = [pl.col(name).list.gather(keep.list.eval(pl.arg_where(pl.element()))).alias(name) for name in LISTS]
    cases = tables["cases"].with_columns(stripped)
    return tables | {
        "interactions": change(tables["interactions"], "event_id", row["event_id"], order_key=key),
        "cases": change(cases, "case_id", row["case_id"], order_key=key),
    }


def request_in_history(tables: Tables) -> Tables:
    case = with_target_event(tables).filter(HAS_HISTORY).row(0, named=True)
    events = change(tables["interactions"], "event_id", case["event_id"], group_id=10**6)
    return tables | {"interactions": change(events, "event_id", case["hist_event_ids"][0], group_id=10**6)}


def own_query_in_history(tables: Tables) -> Tables:
    cases = with_target_event(tables).filter(TRAIN, HAS_HISTORY, task="rec")
    row = entries(cases, tables).filter(pl.col("hist_queries") > 0, task_h="src").row(0, named=True)
    event, pair = row["hist_event_ids"], row["pair_id"]
    return tables | {"interactions": change(tables["interactions"], "event_id", event, pair_id=pair)}


def altered_history(tables: Tables) -> Tables:
    case = tables["cases"].filter(HAS_HISTORY).row(0, named=True)
    taken = {*case["hist_items"], case["target_item"]}
    new = next(item for item in range(1, 60) if item not in taken)
    items = [new, *case["hist_items"][1:]]
    return tables | {"cases": change(tables["cases"], "case_id", case["case_id"], hist_items=items)}


def uneven_history(tables: Tables) -> Tables:
    case = tables["cases"].filter(HAS_HISTORY).row(0, named=True)
    queries = [*case["hist_queries"], 0]
    return tables | {"cases": change(tables["cases"], "case_id", case["case_id"], hist_queries=queries)}


def unknown_target(tables: Tables) -> Tables:
    case = tables["cases"].filter(TRAIN, ~HAS_HISTORY).row(0, named=True)
    used = tables["interactions"].filter(user_id=case["user_id"])["item_id"]
    new = next(item for item in range(1, 60) if item not in used)
    return tables | {"cases": change(tables["cases"], "case_id", case["case_id"], target_item=new)}


def _lists(tables: Tables) -> dict[str, Any]:
    asked = tables["cases"].select("case_id", "user_id", "task", "split", "target_item")
    row: dict[str, Any] = tables["candidates"].join(asked, on="case_id").row(5, named=True)
    return row


def _with_items(tables: Tables, row: dict[str, Any], items: list[int]) -> Tables:
    return tables | {"candidates": change(tables["candidates"], "case_id", row["case_id"], items=items)}


def repeated_negative(tables: Tables) -> Tables:
    row = _lists(tables)
    negatives = [item for item in row["items"] if item != row["target_item"]]
    first, second = negatives[:2]
    return _with_items(tables, row, [second if item == first else item for item in row["items"]])


def target_missing(tables: Tables) -> Tables:
    row = _lists(tables)
    touched = tables["interactions"].filter(user_id=row["user_id"])["item_id"].to_list()
    new = next(item for item in range(1, 60) if item not in {*row["items"], *touched})
    return _with_items(tables, row, [new if item == row["target_item"] else item for item in row["items"]])


def too_short(tables: Tables) -> Tables:
    row = _lists(tables)
    negatives = [item for item in row["items"] if item != row["target_item"]]
    return _with_items(tables, row, negatives[1:] + row["positives"])


def list_missing(tables: Tables) -> Tables:
    return tables | {"candidates": tables["candidates"].head(-1)}


def list_of_a_train_case(tables: Tables) -> Tables:
    extra = tables["candidates"].head(1).with_columns(case_id=pl.lit(0, dtype=pl.Int64))
    return tables | {"candidates": pl.concat([extra, tables["candidates"]])}


def touched_negative(split: str) -> Callable[[Tables], Tables]:
    def inject(tables: Tables) -> Tables:
        asked = tables["cases"].select("case_id", "user_id", "target_item")
        touched = tables["interactions"].filter(pl.col("split") == split).select("user_id", "item_id")
        row = (
            tables["candidates"]
            .join(asked, on="case_id")
            .join(touched, on="user_id")
            .filter(pl.col("item_id") != pl.col("target_item"))
            .row(0, named=True)
        )
        negative = next(item for item in row["items"] if item != row["target_item"])
        return _with_items(tables, row, [row["item_id"] if item == negative else item for item in row["items"]])

    return inject


def target_first(tables: Tables) -> Tables:
    first = pl.concat_list("positives", pl.col("items").list.set_difference("positives"))
    return tables | {"candidates": tables["candidates"].with_columns(items=first)}


def another_order(tables: Tables) -> Tables:
    row = _lists(tables)
    return _with_items(tables, row, [*row["items"][1:], row["items"][0]])


def same_draw_for_both_tasks(tables: Tables) -> Tables:
    asked = tables["cases"].select("case_id", "user_id", "task", "split", "target_item")
    lists = tables["candidates"].join(asked, on="case_id")
    both = lists.filter(task="src").join(lists.filter(task="rec"), on=["user_id", "split"], suffix="_rec")
    row = both.row(0, named=True)
    items = [row["target_item"] if item == row["target_item_rec"] else item for item in row["items_rec"]]
    return _with_items(tables, row, items)


FAULTS: list[tuple[str, Callable[[Tables], Tables]]] = [
    ("L-a", target_in_history),
    ("L-b", later_event_in_history),
    ("L-b", same_time_in_history),
    ("L-c", held_out_pair_in_train),
    ("L-c", held_out_item_in_train),
    ("L-d", train_after_valid),
    ("L-e", request_in_history),
    ("L-f", own_query_in_history),
    ("S2", altered_history),
    ("S2", uneven_history),
    ("S2", unknown_target),
    ("C1", repeated_negative),
    ("C1", target_missing),
    ("C1", too_short),
    ("C1", list_missing),
    ("C1", list_of_a_train_case),
    ("C2", touched_negative("train")),
    ("C2", touched_negative("valid")),
    ("C2", touched_negative("test")),
    ("C4", target_first),
    ("C5", another_order),
    ("C6", same_draw_for_both_tasks),
]


@pytest.fixture(scope="module")
def valid(world: Make) -> Tables:
    """A valid dataset of purchases and searches made from them."""
    tables: Tables = world("pair").tables()
    return tables


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("late", [False, True])
def test_what_the_protocol_makes_is_valid(
    world: Make, recipe: Make, unit: Literal["pair", "task"], seed: int, late: bool
) -> None:
    assert found(world(unit, seed=seed, late_searches=late).tables(), recipe) == set()


@pytest.mark.parametrize(("name", "inject"), FAULTS, ids=[f"{name}-{fault.__name__}" for name, fault in FAULTS])
def test_a_fault_is_reported_under_its_own_name(
    valid: Tables, recipe: Make, name: str, inject: Callable[[Tables], Tables]
) -> None:
    assert found(inject(valid), recipe) == {name}


def messages(tables: Tables, recipe: Make) -> set[str]:
    violations = protocol_violations(tables, recipe("task"), SEED, negatives=NEGATIVES)
    return {f"{violation.invariant} {violation.message.rsplit(' (', 1)[0]}" for violation in violations}


FORBIDDEN = "L-b cases: a history entry is of a split that the case may not see"
HELD_OUT = "L-c cases: a training history holds a held-out pair"
TESTED = "L-c cases: a history holds a pair that is held out as test"


@pytest.mark.parametrize(
    ("case_split", "split", "expected"),
    [
        ("train", "valid", {FORBIDDEN, HELD_OUT}),
        ("train", "test", {FORBIDDEN, HELD_OUT}),
        ("valid", "valid", {FORBIDDEN}),
        ("valid", "test", {FORBIDDEN, TESTED}),
        ("test", "test", {FORBIDDEN, TESTED}),
    ],
)
def test_a_held_out_event_of_the_other_task_in_a_history(
    world: Make, recipe: Make, case_split: str, split: str, expected: set[str]
) -> None:
    tables = world("task", seed=1).tables()
    assert messages(tables, recipe) == set()
    assert messages(earlier_event_in_history(tables, case_split, split), recipe) == expected


@pytest.mark.parametrize(("key", "name"), [("pair_id", "pair"), ("item_id", "(user, item)")])
def test_a_validation_event_that_is_test_in_the_other_task(world: Make, recipe: Make, key: str, name: str) -> None:
    """The one fault that no other check names: a validation event told by a test event, target and history alike."""
    tables = world("task", seed=1).tables()
    asked = with_target_event(tables).filter(split="valid").select("user_id", "task", "event_id", "case_id")
    test = tables["interactions"].filter(split="test").select("user_id", "task", held=key)
    shown = tables["cases"].filter(split="test").select("user_id", "task", event_id="hist_event_ids")
    shown = shown.explode("event_id", empty_as_null=False).rename({"task": "shown_to"})
    row = (
        asked.join(shown, on=["user_id", "event_id"])
        .join(test, on="user_id", suffix="_test")
        .filter(pl.col("task") != pl.col("task_test"), pl.col("task") == pl.col("shown_to"))
        .row(0, named=True)
    )
    broken = tables | {
        "interactions": change(tables["interactions"], "event_id", row["event_id"], **{key: row["held"]})
    }
    if key == "item_id":
        broken["cases"] = change(broken["cases"], "case_id", row["case_id"], target_item=row["held"])
    found = messages(broken, recipe)
    assert {f"L-c interactions: a valid event's {name} is held out as test", TESTED} <= found


def test_another_seed_gives_other_lists(valid: Tables, recipe: Make) -> None:
    assert found(valid, recipe, seed=8) == {"C5"}


def test_faults_are_found_in_every_block(valid: Tables, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "CHUNK", 50)
    monkeypatch.setattr(candidate_invariants, "CHUNK", 50)
    assert found(valid, recipe) == set()
    for name, inject in (("L-a", target_in_history), ("L-e", request_in_history), ("C2", touched_negative("test"))):
        assert found(inject(valid), recipe) == {name}


def test_a_violation_counts_all_rows_and_shows_some(valid: Tables, recipe: Make) -> None:
    broken = valid | {"candidates": valid["candidates"].with_columns(pl.col("items").list.head(5))}
    (violation,) = protocol_violations(broken, recipe("pair"), SEED, negatives=NEGATIVES)
    assert violation.invariant == "C1"
    assert f"({valid['candidates'].height} rows)" in violation.message
    assert violation.rows.height == 20


def test_false_negatives_are_counted_by_hand(valid: Tables) -> None:
    searched = set(valid["interactions"].filter(task="src").select("item_id", "query_id").rows())
    made = set(valid["items"].select("item_id", "query_ids").explode("query_ids").rows())
    matching = total = 0
    cases = valid["cases"].filter(task="src").join(valid["candidates"], on="case_id")
    for case in cases.iter_rows(named=True):
        for item in set(case["items"]) - {case["target_item"]}:
            total += 1
            matching += (item, case["query_id"]) in searched | made
    assert 0 < matching < total
    assert false_negative_share(valid) == pytest.approx(matching / total)

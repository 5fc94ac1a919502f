"""From a raw log to a checked folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.recipe import CaseRules, RawLog
from gemsbench.errors import CheckError, InputError
from gemsbench.files import read_json
from gemsbench.protocol import prepare as module
from gemsbench.protocol.case_rules import SHORT, UNDRAWN
from gemsbench.protocol.case_statistics import case_statistics, upstream_leak_rate
from gemsbench.protocol.prepare import prepare
from gemsbench.protocol.validate import validate

Make = Callable[..., Any]


def prepared(recipe: Make, out: Path, unit: Literal["pair", "task"] = "pair", **changed: Any) -> dict[str, Any]:
    made = recipe(unit)
    arguments = {"seed": 3, "history_length": 4, "negatives": 30} | changed
    return prepare(made, made.settings(), Path("unread"), out, **arguments)


def test_a_prepared_folder_is_valid_and_complete(recipe: Make, tmp_path: Path, unit: Literal["pair", "task"]) -> None:
    stats = prepared(recipe, tmp_path / "out", unit)
    assert stats == read_json(tmp_path / "out" / "stats.json")
    assert validate(tmp_path / "out", recipe(unit), 3) == []
    names = {"items", "queries", "users", "interactions", "cases", "candidates"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(f"{n}.parquet" for n in names), "stats.json"}
    cases = pl.read_parquet(tmp_path / "out" / "cases.parquet")
    for task in ("rec", "src"):
        for split in ("train", "valid", "test"):
            assert stats["cases"][task][split] == cases.filter(task=task, split=split).height > 0
    empty = cases.filter(pl.col("hist_items").list.len() == 0, task="src", split="train").height
    assert stats["empty_history"]["src"]["train"] == empty > 0


def test_the_rules_of_a_recipe_reach_its_cases_and_its_funnel(recipe: Make, tmp_path: Path) -> None:
    plain = prepared(recipe, tmp_path / "plain")
    made = replace(recipe("pair"), cases=CaseRules(min_history=3, train_share=0.3))
    stats = prepare(made, made.settings(), Path("unread"), tmp_path / "out", seed=3, history_length=4, negatives=30)
    assert validate(tmp_path / "out", made, 3) == []
    stricter = replace(made, cases=CaseRules(min_history=7, train_share=0.1))
    assert {violation.invariant for violation in validate(tmp_path / "out", stricter, 3)} == {"R-h", "R-s"}
    dropped = [stats["funnel"][name] for name in (SHORT, UNDRAWN)]
    assert min(dropped) > 0 and stats["empty_history"] == {"rec": {}, "src": {}}
    total = [sum(of["inter_rec"] + of["inter_src"] for of in (stats["in_cases"],)) for stats in (plain, stats)]
    assert total[0] - total[1] == sum(dropped)
    with pytest.raises(InputError, match="history_length is 2"):
        prepare(made, made.settings(), Path("unread"), tmp_path / "short", seed=3, history_length=2)


def test_sizes_in_cases_and_leaks_are_counted_by_hand() -> None:
    rows = [
        {"user_id": 0, "task": "rec", "split": "train", "target_item": 1, "hist_items": [2, 3]},
        {"user_id": 0, "task": "rec", "split": "test", "target_item": 2, "hist_items": [2, 1]},
        {"user_id": 2, "task": "src", "split": "test", "target_item": 5, "hist_items": []},
        {"user_id": 2, "task": "src", "split": "test", "target_item": 0, "hist_items": [1]},
    ]
    rows += [
        {"user_id": 1, "task": "src", "split": "test", "target_item": 3, "hist_items": [4, 1]},
        {"user_id": 1, "task": "rec", "split": "train", "target_item": 4, "hist_items": [4]},
    ]
    cases = pl.DataFrame(rows, schema={name: schema.CASES[name] for name in rows[0]}).with_row_index("case_id")
    # The second target of case 4 stands in its history; case 3 has no target, so nothing that could stand there.
    lists = {"case_id": [1, 2, 3, 4], "positives": [[2], [5], [], [3, 4]]}
    tables = {
        "cases": cases.with_columns(pl.col("case_id").cast(pl.Int64)),
        "candidates": pl.DataFrame(lists, schema_overrides={"positives": pl.List(pl.Int32)}),
        "interactions": pl.DataFrame(schema=schema.INTERACTIONS),
        "users": pl.DataFrame({"user_id": [0, 1, 2]}),
    }
    found = case_statistics(tables)
    assert found["in_cases"] == {"users": 3, "items": 5, "inter_rec": 3, "inter_src": 3}
    assert found["leak_rate"] == {"rec": {"train": 0.5, "test": 1.0}, "src": {"test": 0.5}}


def test_train_counts_are_of_train_events_only(recipe: Make, tmp_path: Path) -> None:
    prepared(recipe, tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    events = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    train = dict(events.filter(pl.col("split") == "train").group_by("item_id").len().iter_rows())
    assert {item: count for item, count in items.select("item_id", "n_train").iter_rows() if count} == train
    assert sum(train.values()) < events.height


def test_a_core_is_a_core_before_the_split(recipe: Make, tmp_path: Path) -> None:
    """Twelve users buy five of twelve items each; one buys long after its search, which the split drops."""
    bought = [(user, (user + step) % 12, step) for user in range(12) for step in range(5)]
    events = [_raw(user, item, "rec", 99 if (user, step) == (0, 1) else step) for user, item, step in bought]
    events += [_raw(user, item, "src", step) for user, item, step in bought]
    items = [dict.fromkeys(("raw_id", "title", "text"), f"i{n}") for n in range(12)]
    log = RawLog(
        pl.DataFrame(events),
        pl.DataFrame(items).with_columns(
            description=pl.lit(""),
            brand=pl.lit(""),
            category_paths=pl.lit([], dtype=pl.List(pl.List(pl.String))),
            queries=pl.lit([], dtype=pl.List(pl.String)),
        ),
        {},
    )
    made = replace(recipe("pair"), load=lambda folder, settings: log, k_core=5)
    stats = prepare(made, None, Path("unread"), tmp_path / "out", seed=3, history_length=4, negatives=7)
    assert stats["funnel"]["split: events dropped: later than a held-out event"] == 1
    assert validate(tmp_path / "out", made, 3) == []
    with pytest.raises(CheckError, match=r"(?s)S5: user_id: fewer than 6 rec events.*S5: item_id"):
        prepare(replace(made, k_core=6), None, Path("unread"), tmp_path / "six", seed=3, history_length=4, negatives=7)
    assert {violation.invariant for violation in validate(tmp_path / "out", replace(made, k_core=6), 3)} == {"S5"}


def _raw(user: int, item: int, task: str, time: int) -> dict[str, Any]:
    """A row of a raw log; its pair is user and item."""
    search = task == "src"
    logged = {"query": "q" if search else "", "query_source": "logged" if search else ""}
    names = {"user": f"u{user}", "item": f"i{item}", "pair": f"{user} {item}", "group": ""}
    return {**names, "task": task, **logged, "timestamp": time, "rating": None, "position": 0}


def test_malformed_lines_are_counted_and_the_first_are_listed(recipe: Make, tmp_path: Path) -> None:
    made = recipe("pair")
    listed = tuple(f"file:{n}: bad" for n in range(30))
    log = replace(made.load(Path("unread"), made.settings()), skipped=listed, malformed=9_000)
    made = replace(made, load=lambda folder, settings: log)
    stats = prepare(made, None, Path("unread"), tmp_path / "out", seed=3, history_length=4, negatives=30)
    assert stats["skipped"] == {"lines": 9_000, "first": list(listed[:20])}


def test_the_same_input_gives_the_same_bytes(recipe: Make, tmp_path: Path) -> None:
    one, two = prepared(recipe, tmp_path / "one"), prepared(recipe, tmp_path / "two")
    assert one == two
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert prepared(recipe, tmp_path / "three", seed=4)["fingerprint"] != one["fingerprint"]


def test_a_broken_invariant_stops_before_anything_is_written(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module.build_cases
    # The target in its own history: the oldest leak.
    leaky = pl.concat_list("target_item", pl.col("hist_items").list.slice(1))
    nonempty = pl.col("hist_items").list.len() > 0

    def build_leaky(events: pl.DataFrame, length: int) -> pl.DataFrame:
        return build(events, length).with_columns(hist_items=pl.when(nonempty).then(leaky).otherwise("hist_items"))

    monkeypatch.setattr(module, "build_cases", build_leaky)
    with pytest.raises(CheckError, match=r"(?s)nothing was written.*L-a: .*target_item"):
        prepared(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_pin_that_does_not_hold_is_named(recipe: Make, tmp_path: Path) -> None:
    made = replace(recipe("pair"), pins={"purchases": 1})
    with pytest.raises(CheckError, match="purchases"):
        prepare(made, made.settings(), Path("unread"), tmp_path / "out", seed=3, history_length=4)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_is_too_small_is_refused(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more items"):
        prepared(recipe, tmp_path / "out", negatives=159)
    made = recipe("pair")
    with pytest.raises(InputError, match="nobody to ask"):
        prepare(
            replace(made, load=lambda folder, settings: _first_events(made, settings)),
            made.settings(),
            Path("unread"),
            tmp_path / "out",
            seed=3,
            history_length=4,
        )


def _first_events(made: Any, settings: Any) -> Any:
    log = made.load(Path("unread"), settings)
    return replace(log, events=log.events.unique("user", keep="first", maintain_order=True))


def test_a_folder_that_is_not_there_names_its_recipe(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: is not there\. Make it: `gemsbench data prepare world`"):
        validate(tmp_path / "none", recipe("pair"), 3)


def test_validate_names_what_was_changed(recipe: Make, tmp_path: Path) -> None:
    prepared(recipe, tmp_path / "out")
    assert {violation.invariant for violation in validate(tmp_path / "out", recipe("pair"), 4)} == {"C5"}
    stats = tmp_path / "out" / "stats.json"
    stats.write_text(stats.read_text().replace(read_json(stats)["fingerprint"], "0" * 64))
    assert [violation.invariant for violation in validate(tmp_path / "out", recipe("pair"), 3)] == ["T2"]
    path = tmp_path / "out" / "cases.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"cases\.parquet.*sha256"):
        validate(tmp_path / "out", recipe("pair"), 3)


def test_the_upstream_leak_is_counted_by_hand(world: Make) -> None:
    """Three purchases on one day, each searched: the script guards only the one that comes last."""
    day = [{"item_id": item, "pair_id": item, "task": task} for item in (1, 2, 3) for task in ("rec", "src")]
    table = pl.DataFrame(day).with_columns(
        user_id=pl.lit(0),
        order_key=pl.lit(5),
        query_id=pl.when(pl.col("task") == "src").then(1).otherwise(0),
        group_id=pl.lit(-1),
    )
    events = world(n_users=1).with_events(table).events
    assert upstream_leak_rate(events) == {"all": pytest.approx(2 / 3), "last 5": pytest.approx(2 / 3)}
    assert upstream_leak_rate(events.with_columns(order_key=pl.col("item_id").cast(pl.Int64))) == {
        "all": 0.0,
        "last 5": 0.0,
    }

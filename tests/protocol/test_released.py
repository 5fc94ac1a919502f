"""Tables of released recipes: everything is what the examples say, and negatives are drawn as that code draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.errors import InputError
from gemsbench.protocol import released_candidates as drawing
from gemsbench.protocol.released import released_tables
from gemsbench.protocol.released_invariants import released_violations
from gemsbench.seeds import hash64, mix64, stream_seed

NEGATIVES = 20
Example = dict[str, Any]
Tables = dict[str, pl.DataFrame]
MakeLog = Callable[..., ReleasedLog]


def tables_of(log: ReleasedLog, recipe: Recipe, seed: int = 5, negatives: int = NEGATIVES) -> Tables:
    return released_tables(log, recipe, seed, negatives)[0]


def by_names(tables: Tables) -> dict[str, Any]:
    """item_id -> raw id, and the cases with raw ids instead of numbers, in case_id order."""
    raw = {0: "", **dict(tables["items"].select("item_id", "raw_id").iter_rows())}
    text = {0: "", **dict(tables["queries"].select("query_id", "text").iter_rows())}
    lists = {row["case_id"]: row for row in tables["candidates"].iter_rows(named=True)}
    rows = [
        {
            **{name: case[name] for name in ("case_id", "user_id", "task", "split", "order_key")},
            "query": text[case["query_id"]],
            "target": raw[case["target_item"]],
            "history": [raw[item] for item in case["hist_items"]],
            "items": [raw[item] for item in lists.get(case["case_id"], {}).get("items", [])],
            "positives": [raw[item] for item in lists.get(case["case_id"], {}).get("positives", [])],
        }
        for case in tables["cases"].iter_rows(named=True)
    ]
    return {"raw": raw, "cases": rows}


def in_case_order(log: ReleasedLog) -> list[Example]:
    place = {name: number for number, name in enumerate(schema.SPLITS)}
    rows = log.examples.to_dicts()
    return sorted(
        rows, key=lambda r: (place[r["split"]], r["task"], r["user"], r["timestamp"], r["targets"][:1], r["query"])
    )


@pytest.mark.parametrize("typed", [True, False])
def test_cases_are_the_examples(released_recipe: Recipe, typed: bool, make_log: MakeLog) -> None:
    log = make_log(typed=typed)
    tables = tables_of(log, released_recipe)
    assert released_violations(tables, released_recipe, NEGATIVES) == []
    for made, example in zip(by_names(tables)["cases"], in_case_order(log), strict=True):
        assert [made[k] for k in ("task", "split", "query")] == [example[k] for k in ("task", "split", "query")]
        assert made["order_key"] == example["timestamp"]
        assert made["target"] == (example["targets"] or [""])[0]
        assert made["history"] == [entry.removeprefix("str ") for entry in example["history"]]
    cases = tables["cases"]
    assert set(cases["hist_event_ids"].explode().drop_nulls()) == {-1}
    assert set(cases["hist_queries"].explode().drop_nulls()) == {0}
    assert cases["hist_tasks"].list.len().equals(cases["hist_items"].list.len())
    assert 0 < cases.filter(target_item=0).height < cases.filter(split="test").height


def test_a_longer_history_is_cut_to_its_last_entries(released_recipe: Recipe, make_log: MakeLog) -> None:
    log = make_log()
    whole, cut = (
        tables_of(log, released_recipe)["cases"],
        tables_of(replace(log, max_history=2), released_recipe)["cases"],
    )
    for name in ("hist_items", "hist_tasks", "hist_queries", "hist_event_ids"):
        assert cut[name].equals(whole.select(pl.col(name).list.tail(2)).to_series())
    assert whole["hist_items"].list.len().max() > 2


def test_negatives_are_entries_of_the_split_and_those_before_it_and_not_the_rows_own(
    released_recipe: Recipe, make_log: MakeLog
) -> None:
    """Entry by entry: a note may be drawn under its other name, and then the list is shorter."""
    log = make_log(users=40)
    tables = tables_of(log, released_recipe, negatives=40)
    split_of = dict(log.corpus.select("entry", "split").iter_rows())
    names: dict[str, set[str]] = {}
    for entry in split_of:
        names.setdefault(entry.removeprefix("str "), set()).add(entry)
    allowed = {"valid": {"train", "valid"}, "test": {"train", "valid", "test"}}
    shorter = own_again = from_split = 0
    for made, example in zip(by_names(tables)["cases"], in_case_order(log), strict=True):
        if made["split"] == "train":
            assert not made["items"]
            continue
        assert made["positives"] == example["targets"]
        assert set(made["positives"]) <= set(made["items"])
        own = {*example["targets"], *example["history"]}
        for note in set(made["items"]) - set(made["positives"]):
            possible = {e for e in names[note] - own if split_of[e] in allowed[made["split"]]}
            assert possible, (note, own)
            own_again += any(entry.removeprefix("str ") == note for entry in own)
            from_split += all(split_of[entry] == made["split"] for entry in possible)
        shorter += len(made["items"]) < 40 + len(made["positives"])
    assert shorter
    assert own_again
    assert from_split


def test_without_typed_entries_every_list_has_all_its_negatives(released_recipe: Recipe, make_log: MakeLog) -> None:
    log = make_log(typed=False)
    tables, counts = released_tables(log, released_recipe, 5, NEGATIVES)
    lengths = tables["candidates"].select(n=pl.col("items").list.len() - pl.col("positives").list.len())
    assert set(lengths["n"]) == {NEGATIVES}
    assert counts["released: candidate lists with fewer negatives"] == 0
    histories = dict(tables["cases"].select("case_id", "hist_items").iter_rows())
    for case, items, positives in tables["candidates"].select("case_id", "items", "positives").iter_rows():
        assert not (set(items) - set(positives)) & set(histories[case])


def test_a_list_is_the_first_allowed_draws_of_the_rows_own_sequence(released_recipe: Recipe, make_log: MakeLog) -> None:
    log = make_log(typed=False)
    tables = tables_of(log, released_recipe)
    examples = in_case_order(log)
    order = {name: number for number, name in enumerate(schema.SPLITS)}
    corpus = sorted(log.corpus.iter_rows(), key=lambda row: (order[row[2]], row[0]))
    seen: dict[tuple[str, str, str], int] = {}
    checked = 0
    for number, example in enumerate(examples):
        split, task, user = example["split"], example["task"], example["user"]
        again = seen[task, split, user] = seen.get((task, split, user), -1) + 1
        if split == "train" or number % 5:
            continue
        entries = [entry for entry, _, first in corpus if order[first] <= order[split]]
        people = dict(zip(sorted({e["user"] for e in examples}), tables["users"]["raw_id"], strict=True))
        key = mix64(mix64(stream_seed(5, released_recipe.name, task, split, "negatives"), hash64(people[user])), again)
        expected: list[str] = []
        draw = 0
        while len(expected) < NEGATIVES:
            entry = entries[int(mix64(key, draw)) % len(entries)]
            draw += 1
            if entry not in (*expected, *example["targets"], *example["history"]):
                expected.append(entry)
        assert set(by_names(tables)["cases"][number]["items"]) == {*expected, *example["targets"]}
        checked += again > 0
    assert checked


def test_tables_do_not_depend_on_row_order_block_or_other_users(
    released_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, make_log: MakeLog
) -> None:
    log = make_log()
    whole = tables_of(log, released_recipe)
    shuffled = replace(
        log,
        examples=log.examples.sample(fraction=1.0, shuffle=True, seed=1),
        corpus=log.corpus.sample(fraction=1.0, shuffle=True, seed=2),
        items=log.items.sample(fraction=1.0, shuffle=True, seed=3),
    )
    monkeypatch.setattr(drawing, "CELLS", 100)
    again = tables_of(shuffled, released_recipe)
    assert all(whole[name].equals(again[name]) for name in schema.TABLES)
    some = tables_of(replace(log, examples=log.examples.filter(pl.col("user") < "u5")), released_recipe)
    kept = whole["cases"].with_columns(at=pl.int_range(pl.len())).join(whole["users"], on="user_id")
    kept = kept.filter(pl.col("raw_id").is_in(some["users"]["raw_id"].implode())).sort("case_id")
    lists = whole["candidates"].join(kept.select("case_id"), on="case_id")
    assert some["candidates"]["items"].equals(lists["items"])


def test_seed_changes_the_draw_and_places_of_targets_are_spread(released_recipe: Recipe, make_log: MakeLog) -> None:
    log = make_log(users=60, typed=False)
    one, two = tables_of(log, released_recipe), tables_of(log, released_recipe, seed=6)
    assert not one["candidates"]["items"].equals(two["candidates"]["items"])
    places = [
        items.index(positives[0])
        for items, positives in one["candidates"].select("items", "positives").iter_rows()
        if positives
    ]
    assert min(places) < 3
    assert max(places) > 17
    assert 6 < np.mean(places) < 15


def test_events_are_the_targets_and_users_are_hashed(released_recipe: Recipe, make_log: MakeLog) -> None:
    log = make_log()
    tables = tables_of(log, released_recipe)
    events = tables["interactions"]
    assert events.height == log.examples["targets"].list.len().sum()
    raw = by_names(tables)["raw"]
    people = dict(zip(sorted(set(log.examples["user"])), tables["users"]["user_id"], strict=True))
    expected = sorted(
        (people[row["user"]], row["task"], row["split"], row["timestamp"], target)
        for row in log.examples.to_dicts()
        for target in row["targets"]
    )
    found = events.select("user_id", "task", "split", "timestamp", "item_id").iter_rows()
    assert sorted((u, t, s, time, raw[item]) for u, t, s, time, item in found) == expected
    assert events.select(pl.col("order_key").is_sorted().over("user_id")).to_series().all()
    several = log.examples.filter(pl.col("targets").list.len() > 1).height
    assert events.filter(pl.col("group_id") >= 0)["group_id"].n_unique() == several
    assert tables["items"]["n_train"].sum() == events.filter(split="train").height
    assert not set(tables["users"]["raw_id"]) & set(log.examples["user"])


def test_queries_know_who_made_them(released_recipe: Recipe, make_log: MakeLog) -> None:
    tables = tables_of(make_log(), released_recipe)
    queries = {row["text"]: row for row in tables["queries"].iter_rows(named=True)}
    assert {text: row["source"] for text, row in queries.items()} == {"find 0": "logged", "find 1": "synthetic"}
    made = {row["item_id"] for row in tables["items"].iter_rows(named=True) if row["query_ids"]}
    searched = tables["interactions"].filter(split="train", query_id=queries["find 1"]["query_id"])
    assert queries["find 1"]["n_items"] == len(made | set(searched["item_id"]))


BAD_LOGS: dict[str, tuple[str, Callable[[ReleasedLog], ReleasedLog]]] = {
    "unknown entry": ("not in the corpus", lambda log: replace(log, corpus=log.corpus[1:])),
    "entry of no item": ("stand for no item", lambda log: replace(log, items=log.items[1:])),
    "entry twice": ("occurs twice", lambda log: replace(log, corpus=pl.concat([log.corpus, log.corpus[:1]]))),
    "item twice": ("occur twice", lambda log: replace(log, items=pl.concat([log.items, log.items[:1]]))),
    "column missing": ("missing columns history", lambda log: replace(log, examples=log.examples.drop("history"))),
    "uneven history": (
        "differ in length",
        lambda log: replace(log, examples=log.examples.with_columns(pl.col("history_tasks").list.head(1))),
    ),
    "two targets in train": (
        "exactly one target",
        lambda log: replace(log, examples=log.examples.with_columns(split=pl.lit("train"))),
    ),
}


@pytest.mark.parametrize("fault", BAD_LOGS)
def test_a_log_that_breaks_its_promise_is_refused(released_recipe: Recipe, fault: str, make_log: MakeLog) -> None:
    message, spoil = BAD_LOGS[fault]
    with pytest.raises(InputError, match=message):
        tables_of(spoil(make_log()), released_recipe)


def test_too_small_a_corpus_is_refused(released_recipe: Recipe, make_log: MakeLog) -> None:
    with pytest.raises(InputError, match="needs 200 negatives"):
        tables_of(make_log(), released_recipe, negatives=200)


def test_a_prepared_folder_is_read_like_any_other(released_recipe: Recipe, tmp_path: Path, make_log: MakeLog) -> None:
    """Training data and questions of a released_recipe whose test rows may have no target."""
    from gemsbench.protocol.pack import load_pack
    from gemsbench.protocol.prepare import prepare
    from gemsbench.protocol.validate import validate

    statistics = prepare(
        released_recipe, object(), tmp_path, tmp_path / "out", seed=5, history_length=20, negatives=NEGATIVES
    )
    pack = load_pack(tmp_path / "out")
    train = pack.training_data()
    assert set(train.cases["split"]) == {"train", "valid"}
    assert train.cases["target_item"].min() > 0
    assert pack.labels("test")["positives"].list.len().min() == 0
    assert pack.questions("test")["items"].list.len().min() >= NEGATIVES - 7
    assert statistics["funnel"]["released: cases"] == pack.cases().height
    assert statistics["history_length"] == 0  # none is cut, whatever the profile says
    assert validate(tmp_path / "out", released_recipe, 5) == []
    pinned = replace(released_recipe, pins={"clicks": 1})
    assert [v.invariant for v in validate(tmp_path / "out", pinned, 5)] == ["T2"]
    cut = replace(released_recipe, load=lambda folder, settings: replace(make_log(), max_history=2))
    made = prepare(cut, object(), tmp_path, tmp_path / "cut", seed=5, history_length=20, negatives=NEGATIVES)
    assert made["history_length"] == 2

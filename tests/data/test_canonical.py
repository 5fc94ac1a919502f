"""Canonical tables: ids, one search per purchase, order, and independence of row order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemsbench.data import schema
from gemsbench.data.canonical import CanonicalTables, canonical_tables
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.errors import CheckError, InputError
from gemsbench.seeds import hash64, mix64, stream_seed

SEED = 7
BuildLog = Callable[..., RawLog]
BuildRecipe = Callable[..., Recipe]


def four_events(build_log: BuildLog) -> RawLog:
    """User b buys y twice and x; user a buys x and searched for it."""
    return build_log(
        [
            {"user": "b", "item": "y", "timestamp": 30, "group": "g1", "rating": 2.0},
            {"user": "b", "item": "y", "timestamp": 20, "group": "g0", "rating": 4.0},
            {"user": "b", "item": "x", "timestamp": 20, "group": "g0"},
            {"user": "a", "item": "x", "timestamp": 10},
            {
                "user": "a",
                "item": "x",
                "task": "src",
                "query": "  red\tshoe ",
                "query_source": "logged",
                "timestamp": 12,
            },
        ],
        [
            {"raw_id": "y", "title": "Yarn &amp; <b>needle</b>", "queries": ["wool", "craft wool"]},
            {"raw_id": "x"},
            {"raw_id": "z", "queries": ["zoo"]},
        ],
    )


@pytest.fixture
def tables(build_log: BuildLog, build_recipe: BuildRecipe) -> CanonicalTables:
    return canonical_tables(four_events(build_log), build_recipe(), SEED)


def test_ids_are_dense_and_sorted_by_raw_id(tables: CanonicalTables) -> None:
    assert tables.items.select("item_id", "raw_id").rows() == [(1, "x"), (2, "y"), (3, "z")]
    assert tables.queries["text"].to_list() == ["craft wool", "red shoe", "wool", "zoo"]
    assert tables.queries["source"].to_list() == ["synthetic", "logged", "synthetic", "synthetic"]
    assert tables.queries["n_items"].to_list() == [0, 0, 0, 0]  # counted when the split is known
    assert tables.items["query_ids"].to_list() == [[], [1, 3], [4]]
    assert tables.items["title"][1] == "Yarn & needle"


def test_user_ids_are_hashed(tables: CanonicalTables) -> None:
    assert tables.users["raw_id"].str.len_chars().to_list() == [64, 64]
    assert tables.users.select("user_id", "n_rec", "n_src").rows() == [(0, 1, 1), (1, 2, 1)]


def test_the_hash_is_salted(tables: CanonicalTables) -> None:
    assert hashlib.sha256(b"a").hexdigest() != tables.users["raw_id"][0]


def test_equal_times_are_ordered_by_position_then_by_hash(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    items = [{"raw_id": f"i{n:02}"} for n in range(20)]
    placed = [{"user": "u", "item": item["raw_id"], "timestamp": 1, "position": 20 - n} for n, item in enumerate(items)]
    events = canonical_tables(build_log(placed, items), build_recipe(), SEED).interactions
    assert events["item_id"].to_list() == list(range(20, 0, -1))
    unplaced = [row | {"position": 0} for row in placed]
    orders = [canonical_tables(build_log(unplaced, items), build_recipe(), s).interactions["item_id"] for s in (1, 2)]
    assert orders[0].to_list() != orders[1].to_list() and sorted(orders[0]) == list(range(1, 21))
    assert not orders[0].is_sorted()


def test_events_twins_and_order(tables: CanonicalTables) -> None:
    events = tables.interactions
    assert events.columns == [column for column in schema.INTERACTIONS if column != "split"]
    first, second = (events.filter(pl.col("user_id") == user) for user in (0, 1))
    assert first.select("task", "item_id", "query_id", "order_key", "seq").rows() == [
        ("rec", 1, 0, 10, 0),
        ("src", 1, 2, 12, 1),
    ]
    assert first["pair_id"].n_unique() == 1
    # The second purchase of y is dropped; x has no query and gets no search.
    assert sorted(second.select("item_id", "task", "timestamp").rows()) == [
        (1, "rec", 20),
        (2, "rec", 20),
        (2, "src", 20),
    ]
    twins = second.filter(pl.col("item_id") == 2)
    assert twins["pair_id"].n_unique() == twins["group_id"].n_unique() == 1
    assert twins["rating"].to_list() == [4.0, 4.0]
    assert second["group_id"].n_unique() == 1 and first["group_id"].unique().to_list() == [-1]


def test_the_query_of_a_twin_follows_the_stated_rule(tables: CanonicalTables) -> None:
    made = tables.interactions.filter((pl.col("user_id") == 1) & (pl.col("task") == "src"))
    stream = stream_seed(SEED, "test", "events")
    expected = ["craft wool", "wool"][int(mix64(stream, hash64("b"), hash64("y"))) % 2]
    assert tables.queries["text"][made["query_id"][0] - 1] == expected


def test_counts_say_what_happened(tables: CanonicalTables) -> None:
    assert {key.removeprefix("canonical: "): n for key, n in tables.counts.items()} == {
        "events read": 5,
        "searches without words dropped": 0,
        "repeated (user, item, task, query) dropped": 1,
        "further searches of a pair dropped": 0,
        "searches made from purchases": 1,
        "users": 2,
        "items": 3,
        "queries": 4,
        "rec events": 3,
        "src events": 2,
    }


names = st.sampled_from("abc")
rows = st.lists(
    st.tuples(
        names, names, st.sampled_from(["rec", "src"]), st.sampled_from(["p", "q q", " "]), st.sampled_from([None, 5, 9])
    ),
    min_size=1,
    max_size=25,
)


def log_of(build_log: BuildLog, drawn: list[tuple[str, str, str, str, int | None]]) -> RawLog:
    events = [
        {
            "user": user,
            "item": item,
            "task": task,
            "query": query if task == "src" else "",
            "query_source": "logged" if task == "src" else "",
            "timestamp": time,
        }
        for user, item, task, query, time in drawn
    ]
    return build_log(
        events, [{"raw_id": "a", "queries": ["u", "v"]}, {"raw_id": "b"}, {"raw_id": "c", "queries": ["w"]}]
    )


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from(["pair", "task"]), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(
    build_log: BuildLog, build_recipe: BuildRecipe, drawn: list[tuple[str, ...]], unit: str, order: random.Random
) -> None:
    log, recipe = log_of(build_log, drawn), build_recipe(split_unit=unit)
    places = list(range(log.events.height))
    order.shuffle(places)
    shuffled = replace(log, events=log.events[places], items=log.items[::-1])
    one, other = canonical_tables(log, recipe, SEED), canonical_tables(shuffled, recipe, SEED)
    for name in ("items", "queries", "users", "interactions"):
        assert getattr(one, name).equals(getattr(other, name)), name
    assert one.counts == other.counts


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from(["pair", "task"]))
def test_one_search_per_pair_and_no_repeats(
    build_log: BuildLog, build_recipe: BuildRecipe, drawn: list[tuple[str, ...]], unit: str
) -> None:
    events = canonical_tables(log_of(build_log, drawn), build_recipe(split_unit=unit), SEED).interactions
    searches = events.filter(pl.col("task") == "src")
    assert not searches["pair_id"].is_duplicated().any()
    assert not events.select("user_id", "item_id", "task", "query_id").is_duplicated().any()
    assert ((events["query_id"] == 0) == (events["task"] == "rec")).all()
    assert events["seq"].to_list() == [
        n for _, g in events.group_by("user_id", maintain_order=True) for n in range(g.height)
    ]
    assert (events["timestamp"].is_null() == (events["time_kind"] == "none")).all()


def test_the_choice_among_searches_is_seeded_and_reaches_all(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    events = [
        {"user": f"u{n}", "item": "x", "task": "src", "query": q, "query_source": "logged", "timestamp": 1}
        for n in range(200)
        for q in ("p", "q")
    ]
    log = build_log(events, [{"raw_id": "x"}])
    chosen = [
        canonical_tables(log, build_recipe(split_unit="task"), s).interactions["query_id"].to_list() for s in (1, 2)
    ]
    assert chosen[0] != chosen[1]
    assert 60 < sum(query == 1 for query in chosen[0]) < 140


def test_a_logged_search_wins_over_a_synthetic_one(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    both = [
        {"user": "a", "item": "x", "task": "src", "query": q, "query_source": s, "timestamp": 1}
        for q, s in (("made", "synthetic"), ("typed", "logged"))
    ]
    for seed in range(8):
        tables = canonical_tables(build_log(both, [{"raw_id": "x"}]), build_recipe(), seed)
        assert tables.queries["text"].to_list() == ["typed"]


def test_order_without_any_time_is_a_seeded_rank_shared_by_twins(
    build_log: BuildLog, build_recipe: BuildRecipe
) -> None:
    items = [{"raw_id": f"i{n}", "queries": ["q"]} for n in range(30)]
    log = build_log([{"user": "u", "item": item["raw_id"]} for item in items], items)
    orders = [
        canonical_tables(log, build_recipe(time_kind={"rec": "none", "src": "none"}), s).interactions for s in (1, 2)
    ]
    for events in orders:
        assert sorted(set(events["order_key"])) == list(range(1, 31))
        assert events.group_by("pair_id").agg(pl.col("order_key").n_unique())["order_key"].max() == 1
    assert orders[0]["item_id"].to_list() != orders[1]["item_id"].to_list()


def test_events_without_time_fall_into_the_users_span(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    month = 31 * 86_400
    timed = [
        {"user": u, "item": "s", "task": "src", "query": "q", "query_source": "logged", "timestamp": t}
        for u, t in (("a", 10 * month), ("b", 50 * month))
    ]
    timed += [
        {"user": "b", "item": "t", "task": "src", "query": "q", "query_source": "logged", "timestamp": 52 * month}
    ]
    timeless = [{"user": u, "item": f"i{n}"} for u in "abc" for n in range(300)]
    items = [{"raw_id": name} for name in ("s", "t", *(f"i{n}" for n in range(300)))]
    recipe = build_recipe(split_unit="task", time_kind={"rec": "none", "src": "month"})
    events = canonical_tables(build_log(timed + timeless, items), recipe, SEED).interactions
    spans = {0: (10, 11), 1: (50, 53), 2: (10, 53)}  # user c has no time at all: the span of the log
    for user, (low, high) in spans.items():
        keys = events.filter((pl.col("user_id") == user) & (pl.col("task") == "rec"))["order_key"] / month
        assert low < keys.min() < low + 0.15 * (high - low) and high - 0.15 * (high - low) < keys.max() <= high
        assert abs(keys.mean() - (low + high) / 2) < 0.1 * (high - low)
    assert events.filter(pl.col("task") == "src")["order_key"].to_list() == [10 * month, 50 * month, 52 * month]


def test_a_pseudo_time_is_later_than_the_first_time(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    search = {"user": "u", "item": "s", "task": "src", "query": "q", "query_source": "logged", "timestamp": 5}
    log = build_log([search, {"user": "u", "item": "i"}], [{"raw_id": "s"}, {"raw_id": "i"}])
    recipe = build_recipe(split_unit="task", time_kind={"rec": "none", "src": "exact"})
    events = canonical_tables(log, recipe, SEED).interactions
    assert events.select("task", "order_key").rows() == [("src", 5), ("rec", 6)]


@pytest.mark.parametrize(
    ("events", "items", "words"),
    [
        ([{"user": "a", "item": "?"}], [{"raw_id": "x"}], "not among the items, e.g. ?"),
        ([{"user": "a", "item": "x"}], [{"raw_id": "x"}, {"raw_id": "x"}], "occur twice, e.g. x"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(
    build_log: BuildLog, build_recipe: BuildRecipe, events: list[dict], items: list[dict], words: str
) -> None:
    with pytest.raises(InputError, match="(?s)" + words.replace("?", r"\?")):
        canonical_tables(build_log(events, items), build_recipe(), SEED)


def test_a_missing_column_is_named(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    log = four_events(build_log)
    with pytest.raises(InputError, match="missing columns pair"):
        canonical_tables(replace(log, events=log.events.drop("pair")), build_recipe(), SEED)


def test_a_pin_that_does_not_hold_stops(build_log: BuildLog, build_recipe: BuildRecipe) -> None:
    log = replace(four_events(build_log), counts={"raw rows": 5})
    assert canonical_tables(log, build_recipe(pins={"raw rows": 5}), SEED).counts["raw rows"] == 5
    with pytest.raises(CheckError, match="'raw rows' is 5, pinned is 6"):
        canonical_tables(log, build_recipe(pins={"raw rows": 6}), SEED)
    with pytest.raises(CheckError, match="'users' is missing, pinned is 2"):
        canonical_tables(log, build_recipe(pins={"users": 2}), SEED)

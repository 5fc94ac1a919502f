from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.encoders.pairs import (
    NO_TEXT,
    TextTable,
    batches_without_repeats,
    recommendation_pairs,
    search_pairs,
)
from gemsbench.errors import InputError
from gemsbench.protocol.pack import TrainingData

EVERYTHING = 10**9


def walk_data(world_of: Any, walks: dict[int, list[int]], n_items: int) -> TrainingData:
    """Training data in which each user bought the items of a walk, in order."""
    events = [(user, item, "rec", 0) for user, walk in walks.items() for item in walk]
    asked = [(user, "rec", 0, "valid", [1, 2]) for user in walks]
    histories = {user: [(item, 1) for item in walk] for user, walk in walks.items()}
    data: TrainingData = world_of(events, asked, max(walks) + 1, n_items, histories).data
    return data


def as_items(pairs: np.ndarray, table: TextTable) -> list[tuple[int, int]]:
    """Pairs of rows of the table as pairs of item ids; texts are distinct."""
    item_of = {int(row): item for item, row in enumerate(table.of_item) if row != NO_TEXT}
    return sorted((item_of[a], item_of[b]) for a, b in pairs.tolist())


def with_texts(data: TrainingData, texts: dict[int, str]) -> TrainingData:
    text = pl.col("item_id").replace_strict(texts, default=pl.col("text"), return_dtype=pl.String)
    return replace(data, items=data.items.with_columns(text=text))


class TestTextTable:
    def test_rows_name_the_texts_of_items_and_queries(self, world: Any) -> None:
        table = TextTable.of(world.data)
        for item, text in world.data.items.select("item_id", "text").iter_rows():
            assert text == "" if table.of_item[item] == NO_TEXT else table.texts[int(table.of_item[item])] == text
        for query, text in world.data.queries.select("query_id", "text").iter_rows():
            assert table.texts[int(table.of_query[query])] == text
        assert table.of_item[0] == table.of_query[0] == NO_TEXT
        assert (table.of_item == NO_TEXT).sum() == 2  # padding and the item without text

    def test_the_prompt_stands_before_queries_only(self, world: Any) -> None:
        table = TextTable.of(world.data, "search: ")
        assert table.texts[int(table.of_query[1])] == "search: a good kettle"
        assert not table.texts.gather(table.of_item[1:5]).str.starts_with("search").any()

    def test_equal_texts_are_one_row(self, world_of: Any) -> None:
        data = with_texts(walk_data(world_of, {0: [1, 2]}, 4), {1: "same", 2: "same", 3: UNKNOWN_ITEM, 4: "other"})
        table = TextTable.of(data)
        assert table.of_item[1] == table.of_item[2] != table.of_item[4]
        assert table.of_item[3] == NO_TEXT

    def test_no_text_at_all_is_an_error(self, world: Any) -> None:
        silent = replace(world.data, items=world.data.items.with_columns(text=pl.lit(UNKNOWN_ITEM)))
        with pytest.raises(InputError, match="no item has a text"):
            TextTable.of(silent)


class TestSearchPairs:
    def test_each_query_and_item_of_train_searches_once(self, world: Any) -> None:
        table = TextTable.of(world.data)
        found = {tuple(row) for row in search_pairs(world.data, table).tolist()}
        searches = world.data.events.filter(pl.col("task") == "src")
        wanted = {
            (int(table.of_query[query]), int(table.of_item[item]))
            for query, item in searches.select("query_id", "item_id").iter_rows()
            if table.of_item[item] != NO_TEXT
        }
        assert found == wanted
        assert len(search_pairs(world.data, table)) == len(wanted) < searches.height

    @pytest.mark.parametrize("task", ["src", "rec"])
    def test_events_of_other_splits_make_no_pairs(self, world: Any, task: str) -> None:
        def pairs(data: TrainingData) -> np.ndarray:
            table = TextTable.of(data)
            return search_pairs(data, table) if task == "src" else recommendation_pairs(data, table, 5, EVERYTHING, 1)

        split = pl.when(pl.col("user_id") % 2 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
        half = world.data.events.with_columns(split=split.cast(world.data.events.schema["split"]))
        kept = half.filter(pl.col("split") == "train")
        assert np.array_equal(pairs(replace(world.data, events=half)), pairs(replace(world.data, events=kept)))
        assert len(pairs(replace(world.data, events=half))) < len(pairs(world.data))

    def test_events_of_unknown_queries_make_no_pairs(self, world: Any) -> None:
        searches = world.data.events.filter(pl.col("task") == "src")
        unknown = searches.with_columns(query_id=pl.lit(977, searches.schema["query_id"]))
        data = replace(world.data, events=pl.concat([world.data.events, unknown]))
        table = TextTable.of(data)
        assert len(table.of_query) == 978 and (table.of_query[4:] == NO_TEXT).all()
        assert np.array_equal(search_pairs(data, table), search_pairs(world.data, TextTable.of(world.data)))

    def test_a_query_that_is_the_text_of_its_item_is_no_pair(self, world: Any) -> None:
        data = with_texts(world.data, {1: "a good kettle", 4: "a good kettle"})
        assert (np.diff(search_pairs(data, TextTable.of(data)), axis=1) != 0).all()


class TestRecommendationPairs:
    def test_items_within_the_window_earlier_first(self, world_of: Any) -> None:
        data = walk_data(world_of, {0: [5, 3, 8, 1], 1: [2, 4]}, 9)
        table = TextTable.of(data)
        pairs = as_items(recommendation_pairs(data, table, 3, EVERYTHING, 1), table)
        assert pairs == [(2, 4), (3, 1), (3, 8), (5, 3), (5, 8), (8, 1)]

    def test_searches_between_do_not_count(self, world: Any) -> None:
        table = TextTable.of(world.data)
        only = replace(world.data, events=world.data.events.filter(pl.col("task") == "rec"))
        args = (table, 5, EVERYTHING, 1)
        assert np.array_equal(recommendation_pairs(world.data, *args), recommendation_pairs(only, *args))

    def test_rows_of_the_tables_may_come_in_any_order(self, world: Any, reordered: TrainingData) -> None:
        one, other = (recommendation_pairs(data, TextTable.of(data), 5, 100, 1) for data in (world.data, reordered))
        assert np.array_equal(one, other)

    def test_popular_items_lose_pairs_as_one_over_the_root_of_their_events(self, world_of: Any) -> None:
        rng = np.random.default_rng(5)
        rare = list(range(2, 402))
        walks = {user: [1 if n % 2 else rare[int(rng.integers(400))] for n in range(40)] for user in range(200)}
        data = walk_data(world_of, walks, 401)
        table = TextTable.of(data)
        items, pairs = data.events["item_id"].to_numpy(), recommendation_pairs(data, table, 2, EVERYTHING, 1)
        typical = np.median(np.bincount(items)[np.bincount(items) > 0])
        popular = (items == 1).sum()
        with_popular = len(pairs) / (200 * 39)  # nearly every pair holds item 1; rare ones keep about all of theirs
        assert with_popular == pytest.approx(np.sqrt(typical / popular), rel=0.2)

    def test_no_more_than_the_most_drawn_by_the_seed(self, world: Any) -> None:
        table = TextTable.of(world.data)
        every = {tuple(row) for row in recommendation_pairs(world.data, table, 5, EVERYTHING, 1).tolist()}
        few = recommendation_pairs(world.data, table, 5, 50, 1)
        assert len(few) == 50
        assert {tuple(row) for row in few.tolist()} <= every
        assert not np.array_equal(few, recommendation_pairs(world.data, table, 5, 50, 2))

    def test_items_of_equal_or_no_text_are_no_pair(self, world_of: Any) -> None:
        data = with_texts(walk_data(world_of, {0: [1, 2, 3, 4]}, 4), {1: "same", 2: "same", 3: UNKNOWN_ITEM})
        table = TextTable.of(data)
        assert recommendation_pairs(data, table, 2, EVERYTHING, 1).tolist() == []
        assert len(recommendation_pairs(data, table, 4, EVERYTHING, 1)) == 2  # (1, 4) and (2, 4)

    def test_no_recommendations_give_no_pairs(self, world: Any) -> None:
        none = replace(world.data, events=world.data.events.filter(pl.col("task") == "src"))
        assert recommendation_pairs(none, TextTable.of(none), 5, 10, 1).shape == (0, 2)


def one_by_one(pairs: np.ndarray, order: list[int], size: int) -> list[int]:
    """The batch that a sampler going through the pairs in order makes."""
    used: set[int] = set()
    batch: list[int] = []
    for row in order:
        texts = set(pairs[row].tolist())
        if len(batch) < size and not texts & used:
            used |= texts
            batch.append(row)
    return batch


def random_pairs(n_pairs: int, anchors: int, positives: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(anchors, size=n_pairs), anchors + rng.integers(positives, size=n_pairs)], axis=1)


class TestBatchesWithoutRepeats:
    @pytest.mark.parametrize(("anchors", "positives"), [(5, 300), (60, 60), (2000, 2000)])
    def test_no_text_stands_twice_in_a_batch(self, anchors: int, positives: int) -> None:
        pairs = random_pairs(900, anchors, positives, 0)
        pairs[::7] = pairs[::7, ::-1]  # a text may be an anchor here and a positive there
        batches = batches_without_repeats(pairs, 32, np.random.default_rng(1))
        assert all(len(np.unique(pairs[batch])) == 2 * len(batch) for batch in batches)
        rows = np.concatenate(batches)
        assert len(np.unique(rows)) == len(rows)

    @pytest.mark.parametrize("seed", range(4))
    def test_batches_are_those_of_going_through_the_shuffled_pairs_one_by_one(self, seed: int) -> None:
        pairs = random_pairs(400, 40, 90, seed)
        order = np.random.default_rng(seed).permutation(400).tolist()
        for batch in batches_without_repeats(pairs, 16, np.random.default_rng(seed)):
            assert batch.tolist() == one_by_one(pairs, order, 16)
            order = [row for row in order if row not in set(batch.tolist())]

    def test_pairs_without_texts_in_common_are_all_used_in_full_batches(self) -> None:
        pairs = np.arange(200).reshape(100, 2)
        batches = batches_without_repeats(pairs, 25, np.random.default_rng(0))
        assert [len(batch) for batch in batches] == [25] * 4
        assert sorted(np.concatenate(batches).tolist()) == list(range(100))
        assert batches[0].tolist() != list(range(25))

    def test_a_pass_ends_before_batches_less_than_half_full(self) -> None:
        pairs = np.stack([np.r_[np.zeros(50, int), np.arange(1, 41)], np.arange(100, 190)], axis=1)
        batches = batches_without_repeats(pairs, 20, np.random.default_rng(0))
        assert 2 <= len(batches) <= 3  # the 50 pairs of text 0 would make 50 batches
        assert min(len(batch) for batch in batches) >= 10

    def test_one_query_makes_no_batch(self) -> None:
        pairs = np.stack([np.zeros(50, int), np.arange(1, 51)], axis=1)
        assert batches_without_repeats(pairs, 20, np.random.default_rng(0)) == []
        assert batches_without_repeats(pairs[:0], 20, np.random.default_rng(0)) == []

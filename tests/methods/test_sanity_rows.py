"""Random, Popularity and category match: hand cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest

from gemsbench.errors import InputError
from gemsbench.methods.category_match import CategoryMatch
from gemsbench.methods.contract import NoSettings
from gemsbench.methods.popularity import Popularity
from gemsbench.methods.random_order import RandomOrder


def _cases(task: str, items: list[list[int]], query_ids: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "case_id": np.arange(len(items)) + 100,
            "task": [task] * len(items),
            "query_id": query_ids,
            "items": items,
        },
        schema_overrides={"items": pl.List(pl.Int32), "query_id": pl.Int32},
    )


def _fitted(method: Any, data: Any, out: Path, seed: int = 1) -> Path:
    method.fit(NoSettings(), data, None, seed, out)
    return out


def test_random_scores_are_uniform_and_free_of_ties(world: Any, tmp_path: Path) -> None:
    cases = _cases("rec", [list(range(1, 101))] * 200, [0] * 200)
    scores = list(RandomOrder().score(_fitted(RandomOrder(), world.data, tmp_path), cases))
    flat = np.concatenate(scores)
    assert flat.min() >= 0.0
    assert flat.max() < 1.0
    assert kstest(flat, "uniform").pvalue > 1e-4
    assert np.mean([len(np.unique(array)) == 100 for array in scores]) > 0.99
    first_is_best = np.mean([array.argmax() == 0 for array in scores])
    assert first_is_best < 0.06  # 0.01 expected: the position in the list says nothing


def test_random_order_differs_between_cases(world: Any, tmp_path: Path) -> None:
    cases = _cases("rec", [list(range(1, 101))] * 2, [0, 0])
    first, second = RandomOrder().score(_fitted(RandomOrder(), world.data, tmp_path), cases)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4


def test_popularity_counts_the_users_of_the_own_task(world: Any, tmp_path: Path) -> None:
    artefact = _fitted(Popularity(), world.data, tmp_path)
    items = list(range(1, world.items.height + 1))
    for task in ("rec", "src"):
        expected = np.zeros(len(items))
        users = {
            (user, item)
            for user, item, event_task in world.events.select("user_id", "item_id", "task").iter_rows()
            if event_task == task
        }
        for _, item in users:
            expected[item - 1] += 1
        (scores,) = Popularity().score(artefact, _cases(task, [items], [0]))
        np.testing.assert_array_equal(scores, expected)
        assert expected.max() > 1


def test_popularity_counts_a_user_once_per_item(world: Any, tmp_path: Path) -> None:
    events = world.events.filter(pl.col("task") == "src")
    once = pl.concat([events, events.with_columns(query_id=pl.lit(99, dtype=pl.Int32))])
    data = pl.DataFrame()  # only events are read
    for number, table in enumerate((events, once)):
        fake = type("Data", (), {"events": table, "n_items": world.items.height, "cases": data})
        _fitted(Popularity(), fake, tmp_path / str(number))
    cases = _cases("src", [list(range(1, 121))], [1])
    plain, repeated = (next(Popularity().score(tmp_path / str(n), cases)) for n in (0, 1))
    np.testing.assert_array_equal(plain, repeated)


def test_popularity_of_a_task_without_events_is_zero(world: Any, tmp_path: Path) -> None:
    fake = type("Data", (), {"events": world.events.filter(pl.col("task") == "rec"), "n_items": world.items.height})
    (scores,) = Popularity().score(_fitted(Popularity(), fake, tmp_path), _cases("src", [[1, 2, 3]], [1]))
    assert scores.tolist() == [0.0, 0.0, 0.0]


def test_category_match_is_one_exactly_where_the_item_has_the_query(world: Any, tmp_path: Path) -> None:
    queries = dict(world.items.select("item_id", "query_ids").iter_rows())
    questions = world.questions("src")
    scores = CategoryMatch().score(_fitted(CategoryMatch(), world.data, tmp_path), questions)
    for array, query_id, items in zip(scores, questions["query_id"], questions["items"], strict=True):
        assert array.tolist() == [float(query_id in queries[item]) for item in items]


def test_category_match_without_queries_says_what_to_do(world: Any, tmp_path: Path) -> None:
    empty = pl.lit([], dtype=pl.List(pl.Int32))
    fake = type("Data", (), {"items": world.items.with_columns(query_ids=empty), "n_items": world.items.height})
    with pytest.raises(InputError, match=r"no item of this recipe has a query .* recipes:"):
        CategoryMatch().fit(NoSettings(), fake, None, 1, tmp_path)  # type: ignore[arg-type]

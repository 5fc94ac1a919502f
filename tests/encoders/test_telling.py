from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.encoders.telling import (
    AskedCases,
    cosine_scores,
    equal_vectors,
    history_profiles,
    unit_rows,
    what_queries_tell,
    what_vectors_tell,
)
from gemsbench.identifiers.vectors import ItemVectors

N_ITEMS = 60  # of `world`, whose tastes are item_id % 3


def vectors_of(rows: np.ndarray, known: np.ndarray | None = None) -> ItemVectors:
    """Item vectors from rows of items 1..n; all known if nothing else is said."""
    table = np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows.astype(np.float32)])
    mask = np.r_[False, np.ones(len(rows), bool) if known is None else known]
    table[~mask] = 0
    return ItemVectors("made", "", table, mask)


def tastes() -> np.ndarray:
    """A direction per taste of `world`, and one for the last item, which is nobody's."""
    return np.eye(4, dtype=np.float32)[np.r_[np.arange(1, N_ITEMS) % 3, 3]]


def test_unit_rows_keep_directions_and_zeros() -> None:
    rows = np.array([[3, 4], [0, 0], [-1e-8, 0]], np.float32)
    assert unit_rows(rows) == pytest.approx(np.array([[0.6, 0.8], [0, 0], [-1, 0]]))


def test_a_profile_is_the_mean_direction_of_the_known_history() -> None:
    unit = np.array([[0, 0], [1, 0], [0, 1], [0, 0], [-1, 0]], np.float32)
    cases = pl.DataFrame({"hist_items": [[1, 2, 3], [1, 1, 2], [3], [], [1, 4]]})
    wanted = [[0.5**0.5, 0.5**0.5], [2 / 5**0.5, 1 / 5**0.5], [0, 0], [0, 0], [0, 0]]
    assert history_profiles(cases, unit) == pytest.approx(np.array(wanted))


def test_chance_is_the_expectation_of_a_random_order(world: Any) -> None:
    told = what_vectors_tell(world.data, vectors_of(tastes()))["tells"]["rec"]
    assert told["chance"] == pytest.approx(np.mean(1 / np.log2(np.arange(2, 12))))  # lists of 10, one positive
    assert told["n"] == world.data.cases.filter((pl.col("split") == "valid") & (pl.col("task") == "rec")).height


def test_vectors_that_know_the_answer_tell_everything_and_random_ones_nothing(world: Any) -> None:
    everything = what_vectors_tell(world.data, vectors_of(tastes()))["tells"]["rec"]
    assert everything["ndcg@10"] == pytest.approx(1)
    rng = np.random.default_rng(0)
    figures = [what_vectors_tell(world.data, vectors_of(rng.normal(size=(N_ITEMS, 8)))) for _ in range(20)]
    mean = np.mean([told["tells"]["rec"]["ndcg@10"] for told in figures])
    assert mean == pytest.approx(everything["chance"], abs=0.05)


def test_equal_vectors_tell_exactly_chance(world: Any) -> None:
    told = what_vectors_tell(world.data, vectors_of(np.ones((N_ITEMS, 5))))["tells"]["rec"]
    assert told["ndcg@10"] == pytest.approx(told["chance"])


def test_lengths_of_vectors_do_not_matter(world: Any) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(N_ITEMS, 4))
    longer = rows * rng.uniform(0.1, 9, size=(N_ITEMS, 1))
    one, other = (what_vectors_tell(world.data, vectors_of(made))["tells"] for made in (rows, longer))
    assert one["rec"]["ndcg@10"] == pytest.approx(other["rec"]["ndcg@10"])


def test_rows_of_the_tables_may_come_in_any_order(world: Any, reordered: Any) -> None:
    vectors = vectors_of(np.random.default_rng(2).normal(size=(N_ITEMS, 4)))
    assert what_vectors_tell(world.data, vectors) == what_vectors_tell(reordered, vectors)


def test_an_unknown_candidate_stands_last_and_a_case_without_known_history_is_chance(world: Any) -> None:
    asked = AskedCases.of(world.data, "rec")
    assert asked is not None
    unknown = asked.lists.items[asked.lists.positive][:2]  # the positives of the first two cases
    vectors = vectors_of(-tastes(), ~np.isin(np.arange(1, N_ITEMS + 1), unknown))
    profiles = np.ones((asked.lists.n_cases, 4), np.float32)
    profiles[1] = 0
    scores = cosine_scores(profiles, asked.lists, vectors.vectors, vectors.known)
    first, second = (slice(*asked.lists.offsets[n : n + 2]) for n in (0, 1))
    assert np.array_equal(scores[first] == -np.inf, np.isin(asked.lists.items[first], unknown))
    assert np.isin(asked.lists.items[second], unknown).any()
    assert scores[second].tolist() == [0] * 10


def test_scores_do_not_depend_on_how_many_candidates_are_gathered_at_a_time(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = vectors_of(np.random.default_rng(3).normal(size=(N_ITEMS, 4)))
    whole = what_vectors_tell(world.data, vectors)
    monkeypatch.setattr("gemsbench.encoders.telling._CANDIDATES_AT_A_TIME", 7)
    assert what_vectors_tell(world.data, vectors) == whole


def test_without_cases_of_the_task_nothing_is_told(world: Any) -> None:
    silent = replace(world.data, cases=world.data.cases.filter(pl.col("split") == "train"))
    assert what_vectors_tell(silent, vectors_of(tastes()))["tells"] == {}
    assert what_queries_tell(silent, vectors_of(tastes()).vectors, vectors_of(tastes()).known, lambda _: 1 / 0) == {}


def test_queries_are_embedded_once_each_and_compared_with_the_candidates(world: Any) -> None:
    asked: list[Sequence[str]] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.append(texts)
        taste = [("kettle", "lamp", "carpet").index(text.split()[-1]) for text in texts]
        return 3 * np.eye(4, dtype=np.float32)[(np.array(taste) + 1) % 3]  # as the searches of `world` go

    vectors = vectors_of(tastes())
    told = what_queries_tell(world.data, vectors.vectors, vectors.known, embed)["tells_src"]
    assert asked == [["a good carpet", "a good kettle", "a good lamp"]]
    assert told["ndcg@10"] == pytest.approx(1)
    assert told["chance"] < 0.6


def test_items_that_share_a_vector_are_counted() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0], [1, -0.0], [2, 2], [0, 1], [5, 5]])
    assert equal_vectors(vectors_of(rows)) == {"share": pytest.approx(5 / 7), "largest": 3}
    known = np.array([True, True, False, False, True, False, True])
    assert equal_vectors(vectors_of(rows, known)) == {"share": 0, "largest": 1}

"""Windows of training events and histories of cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.encoders.sasrec_sequences import histories, padded, training_windows
from gemsbench.errors import InputError
from gemsbench.training.token_lists import TokenLists


def _rows(lists: TokenLists) -> list[list[int]]:
    return [lists[row].tolist() for row in range(len(lists))]


EVENTS = [
    *((7, item, "rec", 0) for item in (3, 9, 1, 4, 2)),
    *((2, item, "rec", 0) for item in (6, 5)),
    (2, 8, "src", 1),
    (2, 7, "rec", 0),
    (4, 1, "src", 1),
]


@pytest.fixture
def events(world_of: Callable[..., Any]) -> pl.DataFrame:
    """Two users with recommendation events, 5 and 3 of them, and one with a search alone."""
    asked = [(2, "rec", 0, "valid", [1, 2])]
    table: pl.DataFrame = world_of(EVENTS, asked, 9, 9, {2: [(6, 1)]}).data.events
    return table


@pytest.mark.parametrize(
    ("most", "windows", "opens"),
    [
        (10, [[6, 5, 7], [3, 9, 1, 4, 2]], [1, 1]),
        (5, [[6, 5, 7], [3, 9, 1, 4, 2]], [1, 1]),
        (4, [[6, 5, 7], [3, 9, 1, 4], [4, 2]], [1, 1, 0]),
        (3, [[6, 5, 7], [3, 9, 1], [1, 4, 2]], [1, 1, 0]),
        (2, [[6, 5], [5, 7], [3, 9], [9, 1], [1, 4], [4, 2]], [1, 0, 1, 0, 0, 0]),
    ],
)
def test_windows_hold_every_recommendation_event_in_order_and_overlap_by_one(
    events: pl.DataFrame, most: int, windows: list[list[int]], opens: list[int]
) -> None:
    found = training_windows(events, most)
    assert _rows(found.items) == windows
    assert found.opens.tolist() == [bool(first) for first in opens]
    assert len(found) == len(windows)
    assert found.n_targets == 8


def test_a_user_with_one_event_has_a_window(events: pl.DataFrame) -> None:
    found = training_windows(events.filter(pl.col("item_id").is_in([6, 3, 9])), 2)
    assert _rows(found.items) == [[6], [3, 9]]
    assert found.opens.all()


def test_windows_follow_order_key_and_seq_not_rows(events: pl.DataFrame) -> None:
    for seed in range(3):
        mixed = events.sample(fraction=1.0, shuffle=True, seed=seed)
        assert _rows(training_windows(mixed, 3).items) == [[6, 5, 7], [3, 9, 1], [1, 4, 2]]
    later = events.with_columns(order_key=pl.when(pl.col("item_id") == 3).then(99).otherwise(pl.lit(5)))
    assert _rows(training_windows(later, 9).items) == [[6, 5, 7], [9, 1, 4, 2, 3]]  # 3 comes last, ties by seq


def test_no_recommendation_event_is_an_error(events: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="no recommendation events in training"):
        training_windows(events.filter(pl.col("task") == "src"), 5)


def test_histories_hold_known_recommendation_items_the_latest_ones() -> None:
    cases = pl.DataFrame(
        {
            "hist_items": [[4, 5, 6, 7], [], [3, 3], [1, 2, 8, 9], [5]],
            "hist_tasks": [[1, 2, 3, 1], [], [2, 2], [1, 1, 1, 1], [1]],
        },
        schema={"hist_items": pl.List(pl.Int32), "hist_tasks": pl.List(pl.Int8)},
    )
    known = np.ones(10, dtype=np.bool_)
    assert _rows(histories(cases, known, 5)) == [[4, 6, 7], [], [], [1, 2, 8, 9], [5]]
    assert _rows(histories(cases, known, 2)) == [[6, 7], [], [], [8, 9], [5]]
    known[[0, 7, 8]] = False  # the place of an unknown item goes to an earlier one
    assert _rows(histories(cases, known, 2)) == [[4, 6], [], [], [2, 9], [5]]
    assert _rows(histories(cases.head(0), known, 2)) == []


def test_an_item_of_other_data_is_an_error() -> None:
    cases = pl.DataFrame({"case_id": [21], "hist_items": [[4, 12]], "hist_tasks": [[1, 1]]})
    with pytest.raises(InputError, match=r"case 21: item 12 of its history .* \(1\.\.9\)"):
        histories(cases, np.ones(10, dtype=np.bool_), 5)


def test_padding_stands_on_the_right() -> None:
    assert padded(TokenLists.of([[1, 2], [], [3, 4, 5]]), 0, 4).tolist() == [[1, 2, 0, 0], [0] * 4, [3, 4, 5, 0]]

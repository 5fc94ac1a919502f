"""Validation lists: paired by case, several positives, the numbers of the evaluation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from gemsbench.evaluation.validation_lists import ValidationLists


def _lists() -> ValidationLists:
    cases = pl.DataFrame(
        {
            "case_id": [9, 4, 5, 6],
            "user_id": [1, 2, 3, 4],
            "task": ["rec", "rec", "src", "rec"],
            "split": ["valid", "valid", "valid", "train"],
        }
    )
    candidates = pl.DataFrame(
        {"case_id": [9, 5, 4], "items": [[2, 5, 3, 1], [1, 2], [3, 1, 2]], "positives": [[3], [1], [1, 3]]}
    )
    return ValidationLists.of(cases, candidates, "rec")


def test_cases_of_the_task_in_the_order_of_their_ids() -> None:
    lists = _lists()
    assert lists.n_cases == 2
    assert lists.users.tolist() == [2, 2, 2, 1, 1, 1, 1]
    assert lists.items.tolist() == [3, 1, 2, 2, 5, 3, 1]
    assert lists.positive.tolist() == [True, True, False, False, False, True, False]


def test_metrics_by_hand() -> None:
    scores = np.array([3, 1, 2, 4, 4, 4, 4], dtype=np.float32)  # ranks 1 and 3 of two positives; a tie of four
    ideal = 1 + 1 / np.log2(3)
    assert _lists().ndcg10(scores) == pytest.approx(((1 + 1 / np.log2(4)) / ideal + 1 / np.log2(5)) / 2)
    assert _lists().hit10(scores).tolist() == [1.0, 1.0]


def test_positive_in() -> None:
    lists = _lists()
    assert lists.positive_in(np.array([1, 2])).tolist() == [True, False]
    assert lists.positive_in(np.array([3])).tolist() == [True, True]
    assert lists.positive_in(np.array([5])).tolist() == [False, False]

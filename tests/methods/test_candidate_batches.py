"""Laying candidate lists end to end and cutting them again loses nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.errors import InputError
from gemsbench.methods import candidate_batches
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches


def _cases(lists: list[list[int]]) -> pl.DataFrame:
    columns = {"case_id": pl.Int64, "user_id": pl.Int32, "items": pl.List(pl.Int32)}
    rows = {"case_id": range(len(lists)), "user_id": [7 * n for n in range(len(lists))], "items": lists}
    return pl.DataFrame(rows, schema=columns)


def _user_and_item(batch: CandidateBatch) -> np.ndarray:
    return batch.per_candidate("user_id") * 100.0 + batch.items


@given(
    lists=st.lists(st.lists(st.integers(1, 50), max_size=7), max_size=12),
    pairs_per_batch=st.integers(1, 40),
)
def test_every_candidate_gets_its_own_score_in_any_batching(lists: list[list[int]], pairs_per_batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate_batches, "PAIRS_PER_BATCH", pairs_per_batch)
        scores = list(score_in_batches(_cases(lists), _user_and_item, 50))
    assert [array.tolist() for array in scores] == [[700.0 * n + item for item in row] for n, row in enumerate(lists)]
    assert all(array.dtype == np.float32 for array in scores)


def test_batches_stay_near_the_given_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_batches, "PAIRS_PER_BATCH", 30)
    sizes: list[int] = []

    def score(batch: CandidateBatch) -> np.ndarray:
        sizes.append(len(batch.items))
        return batch.items.astype(np.float64)

    assert len(list(score_in_batches(_cases([[1] * 10] * 20), score))) == 20
    assert sizes == [30] * 6 + [20]


@pytest.mark.parametrize("item", [0, -1, 51])
def test_a_candidate_that_is_no_item_is_named(item: int) -> None:
    with pytest.raises(InputError, match=rf"case 1: candidate {item} .*1\.\.50"):
        list(score_in_batches(_cases([[1, 2], [3, item]]), _user_and_item, 50))

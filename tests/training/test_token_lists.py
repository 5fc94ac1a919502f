"""Sequences laid end to end."""

from __future__ import annotations

import numpy as np
import pytest

from gemsbench.training.token_lists import TokenLists

ROWS = [[3, 4], [], [5], [6, 7, 8]]


def _rows(lists: TokenLists) -> list[list[int]]:
    return [lists[row].tolist() for row in range(len(lists))]


def test_rows_come_back() -> None:
    lists = TokenLists.of(ROWS)
    assert (len(lists), _rows(lists), lists.lengths.tolist()) == (4, ROWS, [2, 0, 1, 3])
    assert lists.ids.dtype == np.int32
    assert lists[-1].tolist() == ROWS[-1]
    assert [row.tolist() for row in lists] == ROWS


def test_rows_are_taken_in_any_order_and_joined() -> None:
    lists = TokenLists.of(ROWS)
    assert _rows(lists.take(np.array([3, 0, 1, 3]))) == [ROWS[3], ROWS[0], ROWS[1], ROWS[3]]
    assert _rows(TokenLists.join([lists, TokenLists.of([]), lists.take(np.array([2]))])) == [*ROWS, [5]]
    assert len(TokenLists.join([])) == 0


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError, match="row 4 of 4"):
        TokenLists.of(ROWS)[4]

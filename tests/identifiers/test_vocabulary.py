"""Tokens of codes: as many as codes, level by level, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.identifiers.codes import ItemCodes
from gemsbench.identifiers.vocabulary import token_strings, token_table


def test_tokens_stand_in_the_order_of_level_and_code() -> None:
    codes = ItemCodes("made-up", np.array([[-1, -1], [0, 2], [1, -1]], np.int32), (2, 3))
    assert token_strings(codes) == ["<|i1_0|>", "<|i1_1|>", "<|i2_0|>", "<|i2_1|>", "<|i2_2|>"]
    expected = np.array([[-1, -1], [100, 104], [101, -1]], np.int32)
    table = token_table(codes, 100)
    np.testing.assert_array_equal(table, expected)
    assert table.dtype == np.int32


@st.composite
def code_tables(draw: st.DrawFn) -> ItemCodes:
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, len(sizes)))
        codes = [draw(st.integers(0, size - 1)) for size in sizes[:length]]
        rows.append(codes + [-1] * (len(sizes) - length))
    return ItemCodes("drawn", np.array([[-1] * len(sizes), *rows], np.int32), sizes)


@given(code_tables(), st.integers(0, 40_000))
def test_every_code_has_one_token_and_levels_share_none(codes: ItemCodes, first_id: int) -> None:
    strings = token_strings(codes)
    assert len(strings) == len(set(strings)) == sum(codes.sizes)
    table = token_table(codes, first_id)
    np.testing.assert_array_equal(table == -1, codes.codes == -1)
    levels = [set(column[column >= 0].tolist()) for column in table.T]
    assert sum(len(level) for level in levels) == len(set().union(*levels))
    for item, level in np.argwhere(table >= 0):
        expected = f"<|i{level + 1}_{codes.codes[item, level]}|>"
        assert strings[table[item, level] - first_id] == expected

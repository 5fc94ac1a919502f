"""Equal codes: found, numbered in an order that tells nothing, and refused where they are too many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.collisions import append_level, code_groups
from gemsbench.identifiers.scheme import RawCodes

Rows = list[tuple[int, ...]]
ROWS: st.SearchStrategy[Rows] = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=24)


def raw(rows: Rows, sizes: tuple[int, ...] = (3, 3)) -> RawCodes:
    return RawCodes(np.array([[-1] * len(rows[0]), *rows], np.int32), sizes)


def items(count: int, name: str = "B{}") -> pl.DataFrame:
    raw_ids = [name.format(number) for number in range(count)]
    return pl.DataFrame(
        {"item_id": range(1, count + 1), "raw_id": raw_ids, "text": [f"thing {raw_id}" for raw_id in raw_ids]},
        schema_overrides={"item_id": pl.Int32},
    )


@given(ROWS)
def test_groups_are_the_items_of_equal_codes(rows: Rows) -> None:
    groups = code_groups(raw(rows).codes)
    counted = Counter(rows)
    assert sorted(groups.sizes) == sorted(counted.values())
    assert [groups.sizes[group] for group in groups.of] == [counted[row] for row in rows]
    assert [bool(shared) for shared in groups.shared] == [counted[row] > 1 for row in rows]
    for one in range(len(rows)):
        assert (groups.of == groups.of[one]).tolist() == [row == rows[one] for row in rows]


@given(ROWS)
def test_members_of_every_group_are_numbered_from_0_and_nothing_else_changes(rows: Rows) -> None:
    codes = append_level(raw(rows), items(len(rows)), "made-up")
    assert codes.sizes == (3, 3, max(Counter(rows).values()))
    np.testing.assert_array_equal(codes.codes[1:, :2], rows)
    codes.require_injective()
    numbers: dict[tuple[int, ...], list[int]] = {}
    for row, number in zip(rows, codes.codes[1:, 2], strict=True):
        numbers.setdefault(row, []).append(int(number))
    assert all(sorted(found) == list(range(len(found))) for found in numbers.values())


@given(ROWS, st.randoms(use_true_random=False))
def test_numbers_follow_the_raw_id_when_items_are_numbered_anew(rows: Rows, random: object) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    table = items(len(rows))
    before = append_level(raw(rows), table, "made-up").codes[1:]
    renumbered = table.with_columns(
        item_id=pl.Series([order.index(row) + 1 for row in range(len(rows))], dtype=pl.Int32)
    )
    after = append_level(raw([rows[row] for row in order]), renumbered, "made-up").codes[1:]
    np.testing.assert_array_equal(after, before[order])


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [(number % 3, 0) for number in range(60)]
    shuffled = items(60).sample(fraction=1, shuffle=True, seed=3)
    straight = append_level(raw(rows), items(60), "made-up")
    np.testing.assert_array_equal(append_level(raw(rows), shuffled, "made-up").codes, straight.codes)


def test_numbers_follow_neither_item_order_nor_raw_id_nor_plain_hashes() -> None:
    n = 2000
    table = items(n, "B{:06d}")
    numbers = append_level(raw([(0, 0)] * n), table, "made-up", most=n).codes[1:, 2]
    popularity = np.sort(seeds.stream(0, "popularity").zipf(1.5, n))[::-1]  # items are numbered by it
    for suspect in (table["item_id"].to_numpy(), popularity, seeds.hash64_many(table["raw_id"])):
        assert abs(spearmanr(numbers, suspect).statistic) < 4 / np.sqrt(n)


def test_a_level_is_left_out_only_on_request_and_where_all_codes_differ() -> None:
    different, equal = [(0, 1), (1, 0)], [(0, 1), (0, 1), (2, 2)]
    assert append_level(raw(different), items(2), "made-up").codes[1:].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert append_level(raw(different), items(2), "made-up", always=False).sizes == (3, 3)
    assert append_level(raw(equal), items(3), "made-up", always=False).sizes == (3, 3, 2)


def test_too_many_equal_codes_are_refused_with_an_example() -> None:
    rows = [(1, 1), *[(2, 0)] * 5, (1, 1)]
    assert append_level(raw(rows), items(7), "made-up", most=5).sizes[-1] == 5
    message = r"'made-up': 5 items share the codes \(2, 0\), e.g. item 'B1' \('thing B1'\); .* holds 4\. "
    with pytest.raises(InputError, match=message):
        append_level(raw(rows), items(7), "made-up", most=4)


def test_identifiers_of_unequal_length() -> None:
    rows = [(0, 1), (1, -1), (0, 1), (2, -1)]
    codes = append_level(raw(rows), items(4), "made-up")
    assert sorted(codes.codes[[1, 3]].tolist()) == [[0, 1, 0], [0, 1, 1]]
    assert codes.codes[[2, 4]].tolist() == [[1, -1, -1], [2, -1, -1]]
    with pytest.raises(InputError, match=r"2 items share the codes \(1\), e.g. item 'B1'.* fewer levels"):
        append_level(raw([*rows, (1, -1)]), items(5), "made-up")


def test_codes_of_other_items_are_refused() -> None:
    with pytest.raises(InputError, match="codes of 2 items for 3 items"):
        append_level(raw([(0, 0), (1, 1)]), items(3), "made-up")
    with pytest.raises(InputError, match="raw_id 'B' occurs more than once"):
        append_level(raw([(0, 0), (0, 0)]), items(2, "B"), "made-up")

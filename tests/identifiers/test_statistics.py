"""What is counted of identifiers, by hand and against a dense oracle; a collapsed quantiser is refused."""

from __future__ import annotations

import json
from collections import Counter
from math import exp, log

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ItemCodes
from gemsbench.identifiers.collisions import append_level
from gemsbench.identifiers.scheme import Identifiers, RawCodes
from gemsbench.identifiers.statistics import identifier_statistics, require_distinct, require_spread

Rows = list[list[int]]


def padded(rows: Rows) -> np.ndarray:
    return np.array([[-1] * len(rows[0]), *rows], np.int32)


def items(count: int) -> pl.DataFrame:
    return pl.DataFrame({"item_id": range(1, count + 1), "raw_id": [f"B{number}" for number in range(count)]})


def spread(rows: int, size: int, levels: int = 3) -> np.ndarray:
    """Codes of a sound quantiser."""
    return np.random.default_rng(rows).integers(0, size, (rows, levels)).astype(np.int32)


def raw(rows: np.ndarray, *sizes: int) -> RawCodes:
    return RawCodes(np.concatenate([np.full((1, rows.shape[1]), -1, np.int32), rows]).astype(np.int32), sizes)


def test_a_case_counted_by_hand() -> None:
    quantised = RawCodes(padded([[0, 0], [0, 0], [0, 0], [1, 2], [1, 2], [1, 3]]), (4, 4))
    resolved = RawCodes(padded([[0, 0], [0, 1], [0, 0], [1, 2], [1, 0], [1, 3]]), (4, 4))
    stats = identifier_statistics(Identifiers(append_level(resolved, items(6), "made-up"), quantised, resolved))
    json.dumps(stats)
    assert (stats["scheme"], stats["n_items"], stats["sizes"]) == ("made-up", 6, [4, 4, 2])
    assert stats["collisions"] == {
        "quantised": {"distinct": 3, "rate": 0.5, "sharing": 5, "largest_group": 3},
        "resolved": {"distinct": 5, "rate": pytest.approx(1 / 6), "sharing": 2, "largest_group": 2},
        "final": {"distinct": 6, "rate": 0.0, "sharing": 0, "largest_group": 1},
    }
    assert stats["appended"] == {"size": 2, "items": 2}
    first, second, third = stats["levels"]
    assert first == {
        "size": 4,
        "used": 2,
        "usage": 0.5,
        "perplexity": pytest.approx(2),
        "perplexity_share": pytest.approx(0.5),
        "prefixes": 2,
    }
    entropy = -(3 / 6 * log(3 / 6) + 3 * 1 / 6 * log(1 / 6))
    assert second["perplexity"] == pytest.approx(exp(entropy))
    assert (second["used"], second["prefixes"], third["prefixes"]) == (4, 5, 6)


def test_what_was_not_done_is_not_reported() -> None:
    codes = ItemCodes("made-up", padded([[0], [1], [2]]), (3,))
    stats = identifier_statistics(Identifiers(codes))
    assert (list(stats["collisions"]), stats["appended"]) == (["final"], None)
    quantised = RawCodes(codes.codes, codes.sizes)
    same = identifier_statistics(Identifiers(codes, quantised))
    assert (list(same["collisions"]), same["appended"]) == (["quantised", "final"], None)
    numbered = identifier_statistics(Identifiers(append_level(quantised, items(3), "made-up"), quantised))
    assert numbered["appended"] == {"size": 1, "items": 0}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=20))
def test_levels_agree_with_a_dense_oracle(rows: list[tuple[int, int]]) -> None:
    codes = ItemCodes("made-up", padded([list(row) for row in rows]), (3, 3))
    found = identifier_statistics(Identifiers(codes))["levels"]
    for depth in (1, 2):
        present = [row for row in rows if row[depth - 1] != -1]
        counts = Counter(row[depth - 1] for row in present)
        shares = [count / len(present) for count in counts.values()]
        assert found[depth - 1]["used"] == len(counts)
        assert found[depth - 1]["usage"] == len(counts) / 3
        perplexity = exp(-sum(share * log(share) for share in shares)) if shares else 0
        assert found[depth - 1]["perplexity"] == pytest.approx(perplexity)
        assert found[depth - 1]["perplexity_share"] == pytest.approx(perplexity / 3)
        assert found[depth - 1]["prefixes"] == len({row[:depth] for row in present})


@pytest.mark.parametrize(("rows", "size"), [(2, 64), (40, 64), (500, 64), (3000, 256), (1, 16)])
def test_spread_codes_pass(rows: int, size: int) -> None:
    require_spread(raw(spread(rows, size), size, size, size), "made-up")


def test_many_items_of_one_text_are_no_collapse() -> None:
    rows = spread(1000, 64)
    rows[:900] = rows[0]
    require_spread(raw(rows, 64, 64, 64), "made-up")


@pytest.mark.parametrize("items", [2, 30, 2000])
def test_one_identifier_for_all_is_refused(items: int) -> None:
    with pytest.raises(InputError, match=f"'made-up': {items} items have 1 distinct identifiers, and {items} items"):
        require_spread(raw(np.zeros((items, 3), np.int32), 64, 64, 64), "made-up")
    with pytest.raises(InputError, match="1 distinct"):
        require_distinct(raw(np.zeros((items, 3), np.int32), 64, 64, 64), "made-up")


def test_few_distinct_identifiers_are_refused_just_below_the_bound() -> None:
    rows = np.zeros((1000, 1), np.int32)
    rows[:, 0] = np.minimum(np.arange(1000), 49)  # 50 of 1000
    require_distinct(raw(rows, 64), "made-up")
    rows[:, 0] = np.minimum(np.arange(1000), 48)
    with pytest.raises(InputError, match="1000 items have 49 distinct identifiers, and 952 items share one"):
        require_distinct(raw(rows, 64), "made-up")


def test_a_level_of_few_codes_is_refused_by_its_number() -> None:
    rows = spread(2000, 64)
    rows[:, 1] %= 2  # all codes are 0 or 1
    message = "level 2 has collapsed. Its 2000 distinct identifiers use 2 of 64 possible codes .* Lower codebook_size"
    everything = np.column_stack([np.arange(2000) // 64 % 64, rows[:, 1], np.arange(2000) % 64])
    with pytest.raises(InputError, match=message):
        require_spread(raw(everything, 64, 64, 64), "made-up")


def test_a_level_of_too_few_codes_is_refused_even_when_they_are_used_evenly() -> None:
    rows = spread(2000, 64)
    rows[:, 2] %= 16
    require_spread(raw(rows, 64, 64, 64), "made-up")
    rows[:, 2] %= 15
    with pytest.raises(InputError, match=r"level 3 has collapsed\. .* use 15 of 64 .* perplexity of 1\d\.\d "):
        require_spread(raw(rows, 64, 64, 64), "made-up")


def test_a_level_that_uses_every_code_but_one_of_them_nearly_always_is_refused() -> None:
    rows = spread(4000, 64, levels=4)
    rows[:, 0] = np.where(np.arange(4000) < 64, np.arange(4000), 0)
    with pytest.raises(InputError, match=r"level 1 has collapsed\. .* use 64 of 64 .* perplexity of 1\.\d"):
        require_spread(raw(rows, 64, 64, 64, 64), "made-up")

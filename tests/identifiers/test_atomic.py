"""Atomic identifiers: one token per item, in an order that tells nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.atomic import atomic_codes

N = 2000


def items(raw_ids: list[str] | None = None) -> pl.DataFrame:
    raw = [f"B{number:06d}" for number in range(N)] if raw_ids is None else raw_ids
    return pl.DataFrame({"item_id": range(1, len(raw) + 1), "raw_id": raw}, schema_overrides={"item_id": pl.Int32})


def test_every_item_has_a_code_of_its_own() -> None:
    codes = atomic_codes(items())
    assert (codes.scheme, codes.sizes, codes.fixed_length) == ("atomic", (N,), True)
    assert sorted(codes.codes[1:, 0]) == list(range(N))
    codes.require_injective()


def test_the_order_of_the_rows_does_not_matter() -> None:
    shuffled = items().sample(fraction=1, shuffle=True, seed=3)
    np.testing.assert_array_equal(atomic_codes(shuffled).codes, atomic_codes(items()).codes)


def test_codes_follow_the_raw_id_when_items_are_numbered_anew() -> None:
    order = seeds.stream(0, "test").permutation(N)
    table = items()
    renumbered = table.with_columns(item_id=pl.Series((order + 1).astype(np.int32)))
    before, after = atomic_codes(table).codes, atomic_codes(renumbered).codes
    np.testing.assert_array_equal(after[order + 1], before[1:])


def test_codes_follow_neither_item_order_nor_popularity_nor_other_hashes() -> None:
    table = items()
    codes = atomic_codes(table).codes[1:, 0]
    popularity = np.sort(seeds.stream(0, "popularity").zipf(1.5, N))[::-1]  # items are numbered by it
    for suspect in (table["item_id"].to_numpy(), popularity, seeds.hash64_many(table["raw_id"])):
        assert abs(spearmanr(codes, suspect).statistic) < 4 / np.sqrt(N)


def test_codes_are_the_same_on_every_machine() -> None:
    assert atomic_codes(items(["a", "b", "c", "d", "é"])).codes[1:, 0].tolist() == GOLDEN


GOLDEN = [1, 2, 4, 3, 0]


def test_equal_hashes_are_ordered_by_raw_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "hash64_many", lambda texts: np.zeros(len(texts), np.uint64))
    assert atomic_codes(items(["c", "a", "b"])).codes[1:, 0].tolist() == [2, 0, 1]


def test_tables_that_are_no_catalogue_are_refused() -> None:
    with pytest.raises(InputError, match="raw_id 'x' occurs more than once"):
        atomic_codes(items(["a", "x", "x"]))
    with pytest.raises(InputError, match=r"item_id must be 1\.\.3, each once"):
        atomic_codes(items(["a", "b", "c"]).with_columns(item_id=pl.col("item_id") + 1))

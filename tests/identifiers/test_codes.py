"""The code table: what it refuses, and that it comes back from disk as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.errors import InputError
from gemsbench.files import read_json, read_table, table_sha256, write_json, write_table
from gemsbench.identifiers.codes import ItemCodes, load_codes

ROWS = [[0, 1, 2], [1, 0, -1], [0, -1, -1], [0, 1, 1]]


def table(rows: list[list[int]], sizes: tuple[int, ...] = (2, 2, 3)) -> ItemCodes:
    return ItemCodes("made-up", np.array([[-1] * len(rows[0]), *rows], np.int32), sizes)


def test_a_table_knows_its_items() -> None:
    codes = table(ROWS)
    assert (codes.n_items, codes.fixed_length) == (4, False)
    assert table(ROWS[:1]).fixed_length
    with pytest.raises(ValueError, match="read-only"):
        codes.codes[1, 0] = 1
    codes.require_injective()


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        ([[0, 2, 0]], (2, 2, 3), "item 1 has a code outside its level's size"),
        ([[0, 0, 0], [0, -2, -1]], (2, 2, 3), "item 2 has a code outside"),
        ([[0, 0, 0], [-1, -1, -1]], (2, 2, 3), "item 2 has no code on the first level"),
        ([[0, 0, 0], [0, -1, 2]], (2, 2, 3), "item 2 has a code after an absent level"),
        ([[0, 0, 0]], (2, 2), "do not fit 3 levels"),
        ([[0, 0, 0]], (2, 0, 3), "do not fit"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(rows: list[list[int]], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table(rows, sizes)


def test_arrays_of_another_kind_are_refused() -> None:
    for array in (np.zeros((2, 1), np.int64), np.zeros(2, np.int32), np.full((1, 1), -1, np.int32)):
        with pytest.raises(InputError, match=r"int32 \[n_items \+ 1, L\]"):
            ItemCodes("made-up", array, (1,))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="row 0 is padding"):
        ItemCodes("made-up", np.zeros((2, 1), np.int32), (1,))


def test_two_items_of_one_identifier_are_named() -> None:
    with pytest.raises(InputError, match=r"items 2 and 4 share the identifier \(1, 0, -1\); 2 items repeat"):
        table([[0, 1, 2], [1, 0, -1], [0, 1, 1], [1, 0, -1], [1, 0, -1]]).require_injective()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=8))
def test_injective_means_as_many_identifiers_as_items(rows: list[tuple[int, int]]) -> None:
    codes = table([list(row) for row in rows], (3, 3))
    if len(set(rows)) == len(rows):
        codes.require_injective()
    else:
        with pytest.raises(InputError, match="share the identifier"):
            codes.require_injective()


def test_a_saved_table_comes_back(tmp_path: Path) -> None:
    codes = table(ROWS)
    codes.save(tmp_path / "ids")
    loaded = load_codes(tmp_path / "ids", n_items=4)
    np.testing.assert_array_equal(loaded.codes, codes.codes)
    assert loaded.codes.dtype == np.int32
    assert (loaded.scheme, loaded.sizes) == (codes.scheme, codes.sizes)
    first = (tmp_path / "ids" / "codes.json").read_bytes()
    loaded.save(tmp_path / "ids")
    assert (tmp_path / "ids" / "codes.json").read_bytes() == first


@pytest.mark.parametrize("name", ["codes.parquet", "codes.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    table(ROWS).save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_codes(tmp_path)


def _rewrite(folder: Path, changed: pl.DataFrame, *, hashed: bool = True) -> None:
    write_table(folder / "codes.parquet", changed)
    if hashed:
        header = read_json(folder / "codes.json")
        write_json(folder / "codes.json", {**header, "sha256": table_sha256(changed)})


def test_a_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    table(ROWS).save(tmp_path)
    changed = read_table(tmp_path / "codes.parquet").with_columns(level_1=pl.lit(0, pl.Int32))
    _rewrite(tmp_path, changed, hashed=False)
    with pytest.raises(InputError, match="sha256 differs"):
        load_codes(tmp_path)


def test_items_that_are_unknown_or_missing_are_named(tmp_path: Path) -> None:
    table(ROWS).save(tmp_path)
    with pytest.raises(InputError, match=r"the catalogue has 3 items; 1 unknown, e.g. item 4"):
        load_codes(tmp_path, n_items=3)
    with pytest.raises(InputError, match=r"the catalogue has 6 items; 2 missing, e.g. item 5"):
        load_codes(tmp_path, n_items=6)
    whole = read_table(tmp_path / "codes.parquet")
    for changed, message in (
        (whole.head(3), "codes.json says 4 items; 1 missing, e.g. item 4"),
        (whole.with_columns(item_id=pl.col("item_id") * 2), "2 unknown, e.g. item 6; 2 missing, e.g. item 1"),
        (whole.reverse(), "repeat or are out of order"),
        (pl.concat([whole, whole.head(1)]), "repeat or are out of order"),
    ):
        _rewrite(tmp_path, changed)
        with pytest.raises(InputError, match=message):
            load_codes(tmp_path)


@pytest.mark.parametrize(
    "change", [{"sizes": []}, {"sizes": ["2"]}, {"scheme": None}, {"n_items": "4"}, {"sha256": None}]
)
def test_a_header_of_another_form_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    table(ROWS).save(tmp_path)
    write_json(tmp_path / "codes.json", {**read_json(tmp_path / "codes.json"), **change})
    with pytest.raises(InputError, match="not the header of a code table"):
        load_codes(tmp_path)


def test_columns_of_another_form_are_refused(tmp_path: Path) -> None:
    table(ROWS).save(tmp_path)
    _rewrite(tmp_path, read_table(tmp_path / "codes.parquet").drop("level_3"))
    with pytest.raises(InputError, match="its columns are"):
        load_codes(tmp_path)

"""Imported identifiers: the codes of the file, told apart only where the file does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.files import sha256_file
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.identifiers.imported import Imported, ImportedSettings
from gemsbench.identifiers.index_file import write_index
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.statistics import identifier_statistics

N = 60


def items() -> pl.DataFrame:
    names = [f"B{number}" for number in range(N)]
    return pl.DataFrame({"item_id": range(1, N + 1), "raw_id": names}, schema_overrides={"item_id": pl.Int32})


def index_of(folder: Path, lists: list[list[str]]) -> Path:
    """An index file whose keys are raw ids."""
    path = folder / "Some.index.json"
    path.write_text(json.dumps({f"B{number}": tokens for number, tokens in enumerate(lists)}), encoding="utf-8")
    return path


def made(index: Path, **settings: object) -> Identifiers:
    config = load_settings(ImportedSettings, {"index": str(index), **settings}, "test")
    return Imported().make(config, items(), {}, 1, index.with_name("checkpoint"))


def test_different_identifiers_are_kept_as_they_are(tmp_path: Path) -> None:
    index = index_of(tmp_path, [[f"<a_{number // 8}>", f"<b_{number % 8}>"] for number in range(N)])
    identifiers = made(index, sizes=[8, 16])
    numbers = np.arange(N)
    np.testing.assert_array_equal(identifiers.codes.codes[1:], np.column_stack([numbers // 8, numbers % 8]))
    assert (identifiers.codes.scheme, identifiers.codes.sizes) == ("imported", (8, 16))
    assert list(tmp_path.iterdir()) == [index]


def test_equal_identifiers_are_numbered_on_a_further_level_and_counted(tmp_path: Path) -> None:
    index = index_of(tmp_path, [[f"<a_{number % 20}>"] for number in range(N)])
    identifiers = made(index)
    assert identifiers.codes.sizes == (20, 3)
    identifiers.codes.require_injective()
    np.testing.assert_array_equal(identifiers.codes.codes[1:, 0], np.arange(N) % 20)
    stats = identifier_statistics(identifiers)
    assert (stats["collisions"]["quantised"]["distinct"], stats["appended"]) == (20, {"size": 3, "items": N})
    with pytest.raises(InputError, match="'imported': 3 items share the codes"):
        made(index, most_per_code=2)


def test_lists_of_unequal_length_are_kept(tmp_path: Path) -> None:
    index = index_of(tmp_path, [[f"<a_{number}>", "<b_0>"][: 1 + number % 2] for number in range(N)])
    identifiers = made(index)
    assert not identifiers.codes.fixed_length
    np.testing.assert_array_equal(identifiers.codes.codes[1:, 1], np.arange(N) % 2 - 1)


def test_a_file_that_tells_few_items_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'imported': 60 items have 2 distinct identifiers"):
        made(index_of(tmp_path, [[f"<a_{number % 2}>"] for number in range(N)]))


def test_a_written_scheme_comes_back_with_its_codes(tmp_path: Path) -> None:
    codes = atomic_codes(items())
    index, numbers = write_index(codes, items(), tmp_path, "Some")
    np.testing.assert_array_equal(made(index).codes.codes, codes.codes)
    moved = numbers.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(made(index, item2id=str(moved)).codes.codes, codes.codes)
    with pytest.raises(InputError, match="The keys, which are raw ids as there is no"):
        made(index)


def test_the_record_says_which_file_it_was(tmp_path: Path) -> None:
    index = index_of(tmp_path, [[f"<a_{number}>"] for number in range(N)])
    first = made(index).record
    index_of(tmp_path, [[f"<a_{N - number}>"] for number in range(N)])
    assert first.keys() == {"index_sha256"}
    assert made(index).record != first


def test_the_record_says_which_numbers_of_items_were_read(tmp_path: Path) -> None:
    """Beside the index or elsewhere: the same file, the same record; of other numbers, another one."""
    index, numbers = write_index(atomic_codes(items()), items(), tmp_path, "Some")
    beside = made(index).record
    assert beside == {"index_sha256": sha256_file(index), "item2id_sha256": sha256_file(numbers)}
    moved = numbers.rename(tmp_path / "elsewhere")
    assert made(index, item2id=str(moved)).record == beside
    lines = moved.read_text("utf-8").replace("B1\t", "B\t").replace("B2\t", "B1\t").replace("B\t", "B2\t")
    moved.write_text(lines, encoding="utf-8")
    assert made(index, item2id=str(moved)).record["item2id_sha256"] != beside["item2id_sha256"]


def test_the_file_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file is named"):
        Imported().make(ImportedSettings(), items(), {}, 1, tmp_path)

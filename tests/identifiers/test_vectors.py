"""Item vectors on disk: what is refused, and that they come back for the items they were made for and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from gemsbench.errors import InputError
from gemsbench.identifiers.vectors import VECTORS, ItemVectors, catalogue_sha256, load_vectors

N, WIDTH = 6, 4


def items() -> pl.DataFrame:
    numbers = range(1, N + 1)
    return pl.DataFrame(
        {"item_id": numbers, "raw_id": [f"B{n}" for n in numbers], "text": [f"thing {n}" for n in numbers], "other": 0},
        schema_overrides={"item_id": pl.Int32},
    )


def arrays(unknown: tuple[int, ...] = (0, 3)) -> tuple[np.ndarray, np.ndarray]:
    """vectors and known; rows of unknown items are zeros."""
    vectors = np.random.default_rng(0).normal(size=(N + 1, WIDTH)).astype(np.float32)
    known = np.ones(N + 1, np.bool_)
    known[list(unknown)] = False
    vectors[~known] = 0
    return vectors, known


def made() -> ItemVectors:
    return ItemVectors("made-up", catalogue_sha256(items()), *arrays())


def test_vectors_know_their_items_and_cannot_be_changed() -> None:
    vectors = made()
    assert (vectors.n_items, vectors.width) == (N, WIDTH)
    for array in (vectors.vectors, vectors.known):
        with pytest.raises(ValueError, match="read-only"):
            array[1] = 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_item(value: float) -> None:
    vectors, known = arrays()
    vectors[2, 1] = vectors[5, 0] = value
    with pytest.raises(InputError, match=r"vectors of 'made-up': 2 items have NaN or inf .* e.g. item 2\."):
        ItemVectors("made-up", "", vectors, known)


def test_arrays_of_another_kind_are_refused() -> None:
    vectors, known = arrays()
    for wrong in (vectors.astype(np.float64), vectors[0], vectors[:1], vectors[:, :0]):
        with pytest.raises(InputError, match=r"float32 \[n_items \+ 1, D\]"):
            ItemVectors("made-up", "", wrong, known)
    for unfit in (known[1:], known.astype(np.int8), known[:, None]):
        with pytest.raises(InputError, match=r"known is bool \[7\]"):
            ItemVectors("made-up", "", vectors, unfit)


def test_what_is_not_known_says_nothing() -> None:
    vectors, known = arrays()
    for row in (0, 3):
        told = vectors.copy()
        told[row, 0] = 1
        with pytest.raises(InputError, match="must have zero vectors"):
            ItemVectors("made-up", "", told, known)
    with pytest.raises(InputError, match="must have zero vectors"):
        ItemVectors("made-up", "", *arrays(unknown=(3,)))  # padding is never known
    with pytest.raises(InputError, match="no item is known"):
        ItemVectors("made-up", "", np.zeros_like(vectors), np.zeros_like(known))


def test_saved_vectors_come_back_and_equal_vectors_give_equal_bytes(tmp_path: Path) -> None:
    made().save(tmp_path / "one")
    shuffled = items().sample(fraction=1, shuffle=True, seed=1)
    loaded = load_vectors(tmp_path / "one" / VECTORS, shuffled.with_columns(other=1))
    np.testing.assert_array_equal(loaded.vectors, made().vectors)
    np.testing.assert_array_equal(loaded.known, made().known)
    assert (loaded.vectors.dtype, loaded.known.dtype) == (np.float32, np.bool_)
    assert (loaded.encoder, loaded.items_sha256) == ("made-up", catalogue_sha256(items()))
    loaded.save(tmp_path / "two")
    assert (tmp_path / "one" / VECTORS).read_bytes() == (tmp_path / "two" / VECTORS).read_bytes()
    assert [path.name for path in (tmp_path / "two").iterdir()] == [VECTORS]


def test_a_view_with_gaps_is_saved_as_it_reads(tmp_path: Path) -> None:
    wide, known = np.repeat(arrays()[0], 2, axis=1), arrays()[1]
    ItemVectors("made-up", catalogue_sha256(items()), wide[:, ::2], known).save(tmp_path)
    np.testing.assert_array_equal(load_vectors(tmp_path / VECTORS, items()).vectors, made().vectors)


@pytest.mark.parametrize(
    "change",
    [
        pl.col("text").replace("thing 2", "thing two"),
        pl.col("raw_id").replace("B2", "B20"),
        pl.col("raw_id").reverse(),
        pl.col("item_id").reverse(),
    ],
)
def test_vectors_of_another_catalogue_are_refused(tmp_path: Path, change: pl.Expr) -> None:
    made().save(tmp_path)
    with pytest.raises(InputError, match="made for 6 items of other ids or texts than the 6 of this recipe"):
        load_vectors(tmp_path / VECTORS, items().with_columns(change))
    with pytest.raises(InputError, match="than the 5 of this recipe"):
        load_vectors(tmp_path / VECTORS, items().head(5))


def test_a_table_of_another_length_under_the_right_name_is_refused(tmp_path: Path) -> None:
    vectors, known = arrays()
    ItemVectors("made-up", catalogue_sha256(items()), vectors[:-1], known[:-1]).save(tmp_path)
    with pytest.raises(InputError, match="made for 5 items"):
        load_vectors(tmp_path / VECTORS, items())


def test_files_that_are_missing_damaged_or_of_another_kind_are_named(tmp_path: Path) -> None:
    path = tmp_path / VECTORS
    with pytest.raises(InputError, match=f"{VECTORS}: no such file"):
        load_vectors(path, items())
    made().save(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"not vectors", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a file of item vectors"):
            load_vectors(path, items())
    vectors, known = arrays()
    header = {"gemsbench": '{"encoder": "made-up"}'}
    for metadata in ({}, header, {"gemsbench": "[]"}):
        save_file({"vectors": vectors, "known": known}, path, metadata=metadata)
        with pytest.raises(InputError, match="its header does not say"):
            load_vectors(path, items())
    for content in ({"vectors": vectors}, {"known": known}):
        save_file(content, path, metadata=header)
        with pytest.raises(InputError, match="not a file of item vectors"):
            load_vectors(path, items())
    save_file({"vectors": vectors, "known": known}, path, metadata={"gemsbench": "{"})
    with pytest.raises(InputError, match="not a file of item vectors"):
        load_vectors(path, items())

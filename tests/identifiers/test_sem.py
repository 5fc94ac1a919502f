"""Scheme `sem`: residual k-means of the bi-encoder's directions, with a number behind equal codes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gemsbench.errors import InputError
from gemsbench.identifiers import sem
from gemsbench.identifiers.rqkmeans import residual_codes
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.sem import SemanticIds, SemanticIdsSettings

SETTINGS = SemanticIdsSettings(codebook_size=12)


@pytest.fixture
def catalogue(planting: SimpleNamespace) -> Any:
    """600 items, some with equal vectors, three without any."""
    rows = planting.planted(n=600)[0]
    rows[100:104] = rows[0]
    items = planting.items(600)
    return items, {"bi-encoder": planting.vectors("bi-encoder", items, rows, unknown=(7, 8, 600))}


def made(catalogue: Any, settings: SemanticIdsSettings = SETTINGS, seed: int = 0) -> Identifiers:
    items, vectors = catalogue
    return SemanticIds().make(settings, items, vectors, seed, Path("unused"))


def test_identifiers_are_of_one_length_and_each_of_one_item(catalogue: Any) -> None:
    result = made(catalogue)
    result.codes.require_injective()
    assert result.codes.fixed_length
    assert result.codes.sizes[:3] == (12, 12, 12)
    assert result.codes.codes.shape == (601, 4)
    assert result.quantised is not None
    np.testing.assert_array_equal(result.codes.codes[:, :3], result.quantised.codes)


def test_equal_vectors_and_unknown_items_share_codes_and_differ_in_the_number(catalogue: Any) -> None:
    codes = made(catalogue).codes.codes
    assert len(np.unique(codes[[1, 101, 102, 103, 104], :3], axis=0)) == 1
    assert len(np.unique(codes[[7, 8, 600], :3], axis=0)) == 1
    assert len(np.unique(codes[[7, 8, 600], 3])) == 3


def test_the_order_of_the_table_and_a_second_run_change_nothing(catalogue: Any) -> None:
    items, vectors = catalogue
    first = made(catalogue)
    again = made((items.sample(fraction=1.0, shuffle=True, seed=0), vectors))
    assert again.codes.codes.tobytes() == first.codes.codes.tobytes()
    assert again.record == first.record
    assert made(catalogue, seed=1).codes.codes.tobytes() != first.codes.codes.tobytes()


def test_the_mean_vector_does_not_hang_on_how_items_are_numbered(
    catalogue: Any, planting: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, vectors = catalogue
    seen: list[bytes] = []

    def look(rows: Any, *rest: Any) -> Any:
        seen.append(rows.tobytes())
        return residual_codes(rows, *rest)

    monkeypatch.setattr(sem, "residual_codes", look)
    made(catalogue)
    order = np.random.default_rng(0).permutation(600)
    numbered = items[order.tolist()].with_columns(item_id=items["item_id"])
    known, rows = vectors["bi-encoder"].known[1:][order], vectors["bi-encoder"].vectors[1:][order]
    unknown = tuple((np.flatnonzero(~known) + 1).tolist())
    made((numbered, {"bi-encoder": planting.vectors("bi-encoder", numbered, rows, unknown=unknown)}))
    assert seen[0] == seen[1]


def test_the_length_of_a_vector_means_nothing(catalogue: Any, planting: SimpleNamespace) -> None:
    items, vectors = catalogue
    lengths = np.exp2(np.random.default_rng(0).integers(-3, 4, (600, 1)))  # exact in float32
    longer = planting.vectors("bi-encoder", items, lengths * vectors["bi-encoder"].vectors[1:], unknown=(7, 8, 600))
    assert made((items, {"bi-encoder": longer})).codes.codes.tobytes() == made(catalogue).codes.codes.tobytes()


def test_the_record_says_what_is_missing_and_what_is_left(catalogue: Any) -> None:
    record = made(catalogue).record
    assert record["items_without_vector"] == 3
    assert record["few_vectors_per_code"] is False
    assert record["vectors_per_code"] == pytest.approx(597 / 12)
    left = record["variance_left"]
    assert 1 > left[0] >= left[1] >= left[2] >= 0
    assert made(catalogue, SemanticIdsSettings(codebook_size=20)).record["few_vectors_per_code"] is True


def test_wrong_input_is_refused(catalogue: Any, planting: SimpleNamespace) -> None:
    items, vectors = catalogue
    with pytest.raises(InputError, match="'sem': needs the vectors of 'bi-encoder'"):
        made((items, {}))
    with pytest.raises(InputError, match="of 600 items of other ids or texts than the 5"):
        made((planting.items(5), vectors))
    with pytest.raises(InputError, match="Lower codebook_size"):
        made(catalogue, SemanticIdsSettings(codebook_size=599))
    with pytest.raises(InputError, match="holds 2"):
        made(catalogue, SemanticIdsSettings(codebook_size=12, most_per_code=2))


@pytest.mark.parametrize("field", ["levels", "codebook_size", "iterations", "most_per_code", "threads"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"sem: {field} is 0"):
        SemanticIdsSettings(**{field: 0})

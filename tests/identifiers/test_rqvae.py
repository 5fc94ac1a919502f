"""Scheme `rqvae`: TIGER's codes of the item text, with a number behind equal codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.quantiser_training import train_quantiser
from gemsbench.identifiers.rqvae import RQVAE, RQVAESettings
from gemsbench.identifiers.scheme import Identifiers

VALUES: dict[str, Any] = {
    "quantiser": {"hidden": [24], "latent": 8, "codebook_size": 16, "batch_size": 128, "epochs": 15}
}


@pytest.fixture
def catalogue(planting: SimpleNamespace) -> Any:
    """500 items, some with equal vectors, three without any."""
    rows = planting.planted(n=500, noise=1.0)[0]
    rows[100:104] = rows[0]
    items = planting.items(500)
    return items, {"item-text": planting.vectors("item-text", items, rows, unknown=(7, 8, 500))}


def made(catalogue: Any, folder: Path, seed: int = 0, **changes: Any) -> Identifiers:
    items, vectors = catalogue
    return RQVAE().make(load_settings(RQVAESettings, {**VALUES, **changes}, "test"), items, vectors, seed, folder)


def test_identifiers_are_triples_and_a_number(catalogue: Any, tmp_path: Path) -> None:
    result = made(catalogue, tmp_path)
    result.codes.require_injective()
    assert result.codes.fixed_length
    assert result.codes.scheme == "rqvae"
    assert result.codes.sizes[:3] == (16, 16, 16)
    codes = result.codes.codes
    assert codes.shape == (501, 4)
    assert result.quantised is not None
    np.testing.assert_array_equal(codes[:, :3], result.quantised.codes)
    for equal in ([1, 101, 102, 103, 104], [7, 8, 500]):
        assert len(np.unique(codes[equal, :3], axis=0)) == 1
        assert len(np.unique(codes[equal, 3])) == len(equal)


def test_items_without_text_have_the_codes_of_the_mean_vector(catalogue: Any, tmp_path: Path) -> None:
    text = catalogue[1]["item-text"]
    known = np.flatnonzero(text.known)
    settings = load_settings(RQVAESettings, VALUES, "test").quantiser
    ranks = keyed_ranks(catalogue[0])[known].astype(np.int64)
    model, _ = train_quantiser(text.vectors[known], ranks, settings, 0, tmp_path / "again")
    mean = torch.from_numpy(text.vectors[known].mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32))
    codes = made(catalogue, tmp_path).codes.codes
    np.testing.assert_array_equal(codes[7, :3], model.codes(mean)[0])
    np.testing.assert_array_equal(codes[known, :3], model.codes(torch.from_numpy(text.vectors[known])))


def test_the_order_of_the_table_and_a_second_run_change_nothing(catalogue: Any, tmp_path: Path) -> None:
    items, vectors = catalogue
    first = made(catalogue, tmp_path / "first")
    again = made((items.sample(fraction=1.0, shuffle=True, seed=0), vectors), tmp_path / "again")
    assert again.codes.codes.tobytes() == first.codes.codes.tobytes()
    assert again.record == first.record
    assert made(catalogue, tmp_path, seed=1).codes.codes.tobytes() != first.codes.codes.tobytes()


def test_the_record_tells_how_the_training_went(catalogue: Any, tmp_path: Path) -> None:
    record = made(catalogue, tmp_path).record
    assert json.loads(json.dumps(record)) == record
    assert record["items_without_vector"] == 3
    assert (record["vectors_per_code"], record["few_vectors_per_code"]) == (497 / 16, True)  # 39 per code are enough
    eight = {**VALUES["quantiser"], "codebook_size": 8, "epochs": 1}
    assert made(catalogue, tmp_path, quantiser=eight).record["few_vectors_per_code"] is False
    assert record["epochs"] == 15
    assert record["last_epoch"].keys() == {"loss", "reconstruction", "quantisation", "used", "reseated"}
    assert isinstance(record["dead_codes_reseated"], int)
    left = record["variance_left"]["latent"]
    assert 1 > left[0] > left[1] > left[2] > 0
    assert 0 < record["variance_left"]["reconstruction"] < 1


def test_wrong_input_is_refused(catalogue: Any, planting: SimpleNamespace, tmp_path: Path) -> None:
    items, vectors = catalogue
    with pytest.raises(InputError, match="'rqvae': needs the vectors of 'item-text'"):
        made((items, {}), tmp_path)
    with pytest.raises(InputError, match="of 500 items of other ids or texts than the 5"):
        made((planting.items(5), vectors), tmp_path)
    with pytest.raises(InputError, match="493 distinct vectors cannot fill"):
        made(catalogue, tmp_path, quantiser={**VALUES["quantiser"], "codebook_size": 512})
    with pytest.raises(InputError, match="holds 2"):
        made(catalogue, tmp_path, most_per_code=2)
    with pytest.raises(InputError, match="most_per_code is 0"):
        made(catalogue, tmp_path, most_per_code=0)
    with pytest.raises(InputError, match=r"unknown key 'quantiser\.latents'. Did you mean 'latent'"):
        made(catalogue, tmp_path, quantiser={"latents": 4})

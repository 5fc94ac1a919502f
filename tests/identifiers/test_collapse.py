"""A quantiser whose first level gives one code to all items: every scheme that learns codes refuses it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gemsbench import registry
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.identifiers import sem
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser
from gemsbench.identifiers.rqkmeans import ResidualKMeans

N, WIDTH, SIZE = 120, 8, 16
QUANTISER = {"hidden": [16], "latent": WIDTH, "levels": 2, "codebook_size": SIZE, "epochs": 1}
VALUES: dict[str, dict[str, Any]] = {
    "rqvae": {"quantiser": QUANTISER},
    "letter": {"quantiser": QUANTISER, "groups": 4, "balance_iterations": 2},
    "sem": {"levels": 2, "codebook_size": SIZE},
}


def one_code_then_many(n: int) -> Any:
    """Codes int64 [n, 2] that tell 16 items in 120 apart, more than 5 %, but leave the first level idle."""
    return np.column_stack([np.zeros(n, np.int64), np.arange(n) % SIZE])


def collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both quantisers give such codes."""

    def of_rq_vae(model: ResidualQuantiser, vectors: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(one_code_then_many(len(vectors)))

    def of_k_means(vectors: Any, *_: Any) -> ResidualKMeans:
        return ResidualKMeans(np.zeros((2, SIZE, WIDTH), np.float32), one_code_then_many(len(vectors)), (1.0, 0.5))

    monkeypatch.setattr(ResidualQuantiser, "codes", of_rq_vae)
    monkeypatch.setattr(sem, "residual_k_means", of_k_means)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_collapsed_quantiser_is_refused_and_not_hidden_by_the_further_level(
    name: str, planting: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, rows = planting.items(N), np.random.default_rng(0).normal(size=(N, WIDTH))
    vectors = {encoder: planting.vectors(encoder, items, rows) for encoder in registry.SCHEMES[name].encoders}
    scheme = registry.resolve(registry.SCHEMES[name].target)()
    config = load_settings(scheme.Config, VALUES[name], "test")
    scheme.make(config, items, vectors, 0, tmp_path / "sound")
    collapse(monkeypatch)
    with pytest.raises(InputError, match=f"^identifiers '{name}': level 1 has collapsed"):
        scheme.make(config, items, vectors, 0, tmp_path / "collapsed")

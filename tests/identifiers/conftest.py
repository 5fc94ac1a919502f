"""Planted catalogues: items in groups of groups, and their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256


def items_table(n: int) -> pl.DataFrame:
    """Items 1..n."""
    ids = np.arange(1, n + 1, dtype=np.int32)
    return pl.DataFrame({"item_id": ids, "raw_id": [f"raw-{i}" for i in ids], "text": [f"text of {i}" for i in ids]})


def item_vectors(
    encoder: str, items: pl.DataFrame, rows: npt.NDArray[Any], unknown: tuple[int, ...] = ()
) -> ItemVectors:
    """rows [n, D] of items 1..n; the unknown ones have none."""
    vectors = np.concatenate([np.zeros((1, rows.shape[1])), rows]).astype(np.float32)
    known = np.arange(len(vectors)) > 0
    known[list(unknown)] = False
    vectors[~known] = 0
    return ItemVectors(encoder, catalogue_sha256(items), vectors, known)


def planted(
    n: int = 600, width: int = 16, coarse: int = 4, fine: int = 4, noise: float = 0.1, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Vectors [n, width] around fine centres around coarse centres; the coarse and the fine group of each."""
    rng = np.random.default_rng(seed)
    of_coarse, of_fine = rng.integers(0, coarse, n), rng.integers(0, fine, n)
    coarse_centres, fine_centres = 4 * rng.normal(size=(coarse, width)), rng.normal(size=(fine, width))
    vectors = coarse_centres[of_coarse] + fine_centres[of_fine] + noise * rng.normal(size=(n, width))
    return vectors.astype(np.float32), of_coarse, of_fine


@pytest.fixture(scope="session")
def planting() -> SimpleNamespace:
    """All of the above, for tests that cannot import this file."""
    return SimpleNamespace(items=items_table, vectors=item_vectors, planted=planted)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

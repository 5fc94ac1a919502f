"""Sem-BSR's identifiers: residual k-means of a bi-encoder trained on both tasks (arXiv 2508.10478)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gemsbench.errors import InputError
from gemsbench.identifiers.collisions import append_level
from gemsbench.identifiers.distinct_rows import Float32Array
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.k_means import codebook_load
from gemsbench.identifiers.known_items import code_table, known_by_rank, required_vectors
from gemsbench.identifiers.rqkmeans import residual_codes, residual_k_means
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.statistics import require_spread

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors

SCHEME = "sem"
ENCODER = "bi-encoder"


@dataclass(frozen=True)
class SemanticIdsSettings:
    """Config of the scheme; grid of the specification: levels 2-4, codebook_size 128-512.

    Raises InputError for values out of range.
    """

    levels: int = 3
    codebook_size: int = 256
    iterations: int = 25  # of k-means, per level
    most_per_code: int = 256  # items that may share their codes
    threads: int = 1  # of faiss; results are bit-identical for a fixed number

    def __post_init__(self) -> None:
        least = {"levels": 1, "codebook_size": 2, "iterations": 1, "most_per_code": 1, "threads": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise InputError(f"{SCHEME}: {name} is {getattr(self, name)}; it must be at least {smallest}.")


class SemanticIds:
    """Residual k-means of the bi-encoder's vectors; an item without one has the codes of the mean vector."""

    Config: ClassVar[type] = SemanticIdsSettings

    def make(
        self,
        config: SemanticIdsSettings,
        items: pl.DataFrame,
        vectors: Mapping[str, ItemVectors],
        seed: int,
        checkpoint: Path,
    ) -> Identifiers:
        """Fit, take the codes, number equal ones; see Scheme.make. Too short for a checkpoint."""
        joint = required_vectors(vectors, ENCODER, items, SCHEME)
        known = known_by_rank(joint, keyed_ranks(items))
        rows = _of_length_one(joint.vectors[known])
        fitted = residual_k_means(rows, config.levels, config.codebook_size, seed, config.iterations, config.threads)
        of_mean = residual_codes(rows.mean(axis=0, keepdims=True), fitted.codebooks, config.threads)[0]
        raw = code_table(joint.n_items, known, fitted.codes, of_mean, config.codebook_size)
        require_spread(raw, SCHEME)
        record = {
            "encoder": joint.encoder,
            "items_without_vector": joint.n_items - len(known),
            **codebook_load(len(known), config.codebook_size),
            "variance_left": list(fitted.variance_left),
        }
        appended = append_level(raw, items, SCHEME, most=config.most_per_code)
        return Identifiers(appended, quantised=raw, record=record)


def _of_length_one(vectors: Float32Array) -> Float32Array:
    """Directions of vectors [n, D], of zeros zeros: a bi-encoder is trained on cosines, lengths mean nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)

"""TIGER's identifiers: RQ-VAE codes of the item text, and a level that tells equal ones apart (arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from gemsbench.errors import InputError
from gemsbench.identifiers.collisions import append_level
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.known_items import code_table, known_by_rank, required_vectors
from gemsbench.identifiers.quantiser_record import training_record, variance_left
from gemsbench.identifiers.quantiser_training import QuantiserSettings, train_quantiser
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.statistics import require_spread
from gemsbench.threads import torch_threads

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors

SCHEME = "rqvae"
ENCODER = "item-text"


@dataclass(frozen=True)
class RQVAESettings:
    """Config of the scheme. Raises InputError for values out of range."""

    quantiser: QuantiserSettings = field(default_factory=QuantiserSettings)
    most_per_code: int = 256  # items that may share their codes

    def __post_init__(self) -> None:
        if self.most_per_code < 1:
            raise InputError(f"{SCHEME}: most_per_code is {self.most_per_code}; it must be at least 1.")


class RQVAE:
    """RQ-VAE of the text vectors; an item without text has the codes of the mean vector."""

    Config: ClassVar[type] = RQVAESettings

    def make(
        self,
        config: RQVAESettings,
        items: pl.DataFrame,
        vectors: Mapping[str, ItemVectors],
        seed: int,
        checkpoint: Path,
    ) -> Identifiers:
        """Train, take the codes once, number equal ones; see Scheme.make."""
        text = required_vectors(vectors, ENCODER, items, SCHEME)
        ranks, settings = keyed_ranks(items), config.quantiser
        known = known_by_rank(text, ranks)
        rows = text.vectors[known]
        model, log = train_quantiser(rows, ranks[known].astype(np.int64), settings, seed, checkpoint)
        with torch_threads(settings.threads):
            codes = model.codes(torch.from_numpy(rows))
            left = variance_left(model, rows, codes)
            of_mean = model.codes(model.mean[None])[0]
        raw = code_table(text.n_items, known, codes.numpy(), of_mean.numpy(), settings.codebook_size)
        require_spread(raw, SCHEME)
        appended = append_level(raw, items, SCHEME, most=config.most_per_code)
        record = training_record(log, left, text, settings.codebook_size)
        return Identifiers(appended, quantised=raw, record=record, log=log)

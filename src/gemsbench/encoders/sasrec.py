"""Collaborative item vectors: the item table of a SASRec trained on the training recommendation events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.sasrec_training import SASRecSettings, train_sasrec

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class SASRecEncoder:
    """Vector = row of the item table, as the model's scores use it: neither normalised nor shifted by one."""

    Config = SASRecSettings

    def encode(self, config: SASRecSettings, data: TrainingData, seed: int, checkpoint: Path) -> Encoded:
        """Train and give float32 [n_items + 1, width]; items without a training recommendation event are not known.

        Raises InputError without recommendation events in training or without recommendation cases in validation.
        """
        trained = train_sasrec(config, data, seed, checkpoint)
        known = trained.model.known.numpy()
        vectors = trained.model.items.detach().numpy()
        return Encoded(np.where(known[:, None], vectors, np.float32(0)), known.copy(), trained.record, trained.log)

"""What a method is: fit on the training split, then one float32 score per candidate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

ScoreArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NoSettings:
    """Config of a method that has nothing to set."""


class Method(Protocol):
    """A row of the tables. Registered as `name -> target` in gemsbench.registry, or named by a profile's `target`.

    Config is a frozen dataclass with defaults; a profile overrides its fields. The class is built without arguments
    and keeps no state: all that `score` needs lies in the artefact.
    """

    Config: ClassVar[type]

    def fit(self, config: Any, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Train and save everything that `score` needs into the folder out (safetensors, JSON, parquet; no pickle).

        data holds training events, training and validation cases, validation candidates; nothing of the test split.
        A `log.jsonl` written there is kept beside the scores. A long fit may keep checkpoints in a folder beside out
        (same name plus ".checkpoint") and continues from them when it is called again with the same arguments.
        """
        ...

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield one float32 array per row of cases, aligned with its `items` (higher is better, NaN is an error).

        cases has the columns case_id, user_id, task, query_id, query (text), hist_items, hist_tasks, hist_queries,
        items; it carries no target and no label. A score depends on its case and item alone, not on other rows.
        """
        ...


class TunedMethod(Protocol):
    """A method that tunes a backbone: it is handed what was made for the run, where the run needs it."""

    def fit(
        self,
        config: Any,
        data: TrainingData,
        backbone: Path | None,
        seed: int,
        out: Path,
        *,
        identifiers: Path | None = None,
        basis: Path | None = None,
    ) -> None:
        """Fit as Method says.

        identifiers: folder of a code table (gemsbench.identifiers.codes) of the same items. basis: a file of
        gemsbench.optim.KnowledgeBasis, made from the same backbone.
        """
        ...

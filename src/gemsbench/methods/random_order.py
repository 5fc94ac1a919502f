"""Random: a sanity row; Hit@K is K / number of candidates in expectation.

Cost: none. The order is a hash of (seed, case, item), so it depends neither on the order of the candidates nor on the
other cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import seeds
from gemsbench.files import read_json, write_json
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import NoSettings, ScoreArray

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

_FLOAT32_BITS = 24  # so many random bits survive in a float32 between 0 and 1


class RandomOrder:
    """Uniform random scores in [0, 1)."""

    Config = NoSettings

    def fit(self, config: NoSettings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Keep the seed of this method's stream; nothing is learned."""
        write_json(out / "random.json", {"stream_seed": seeds.stream_seed(seed, "random-order")})

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 arrays, uniform in [0, 1), independent between candidates."""
        stream_seed = int(read_json(artefact / "random.json")["stream_seed"])

        def uniform(batch: CandidateBatch) -> npt.NDArray[np.float64]:
            bits = seeds.mix64(
                stream_seed, batch.per_candidate("case_id").astype(np.uint64), batch.items.astype(np.uint64)
            )
            numbers: npt.NDArray[np.float64] = (bits >> np.uint64(64 - _FLOAT32_BITS)) / 2.0**_FLOAT32_BITS
            return numbers

        yield from score_in_batches(cases, uniform)

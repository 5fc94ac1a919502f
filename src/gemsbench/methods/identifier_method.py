"""What all methods that write identifiers share: a row of the tables declares its parts, and nothing else.

    method = identifiers x tasks x objective x tuner

The identifiers are named in the registry (or in a profile: `scheme`), the tasks are defaults of the Config, the
objective and the tuner stand in the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from gemsbench.methods.contract import ScoreArray
from gemsbench.methods.generative import GenerativeSettings, Objective, fit_generative
from gemsbench.methods.generative_scoring import score_generative
from gemsbench.training.objective import identifier_loss

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class IdentifierMethod:
    """Score = sum of the log-probabilities of an item's code tokens after the prompt, under the whole vocabulary."""

    Config: ClassVar[type[GenerativeSettings]] = GenerativeSettings
    tuner: ClassVar[str] = ""  # on every kind of backbone, unless the settings name one; "": the kind's usual one

    def objective(self, config: Any) -> Objective:
        """The loss of a micro-batch; token cross-entropy unless a method has its own."""
        return identifier_loss

    def fit(
        self,
        config: GenerativeSettings,
        data: TrainingData,
        backbone: Path | None,
        seed: int,
        out: Path,
        *,
        identifiers: Path | None = None,
        basis: Path | None = None,
    ) -> None:
        """Tune the backbone on training cases until validation stops improving; resumes after a kill.

        identifiers: folder of the code table. basis: file of the backbone's knowledge basis, where the tuner is gems
        and keeps what the backbone knows. Writes a plain `from_pretrained` folder with codes, log.jsonl and
        diagnostics.json. Raises InputError without a backbone, identifiers, or training or validation cases.
        """
        fit_generative(
            type(self).__module__,
            config,
            data,
            backbone,
            seed,
            out,
            identifiers=identifiers,
            basis=basis,
            tuner=self.tuner,
            objective=self.objective(config),
        )

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 log-probabilities."""
        yield from score_generative(artefact, cases)

"""GEMS, the paper's own row "Ours" (arXiv 2601.09496): atomic identifiers, tuned in gradient subspaces of the tasks.

Identifiers, prompts and loss are those of BSR, which makes BSR its controlled partner: only the tuner differs, that is
which weights move (here neither norms and biases nor old rows) and how. The paper does not say which identifiers it
used; its released code has one token per item, and knows T5 only. What we changed of the optimizer, and why, stands in
`gemsbench.optim` and its documents.
Cost: that of BSR, plus for every matrix and step a projection of the shared gradient, one of each task's and one
projection back, and new bases of every matrix every `update_gap` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.methods.contract import ScoreArray
from gemsbench.methods.generative import GenerativeSettings, fit_generative
from gemsbench.methods.generative_scoring import score_generative

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class GEMS:
    """Score = log-probability of the item's token after the prompt, under the softmax over the whole vocabulary."""

    Config = GenerativeSettings
    tuner: ClassVar[str] = "gems"  # on both kinds of backbone, unless the settings name another

    def fit(
        self,
        config: GenerativeSettings,
        data: TrainingData,
        backbone: Path | None,
        seed: int,
        out: Path,
        *,
        basis: Path | None = None,
    ) -> None:
        """Tune the backbone on training cases until validation stops improving; resumes after a kill.

        basis: file of the backbone's knowledge basis; needed unless null_space is off. Writes a plain
        `from_pretrained` folder with codes, log.jsonl and diagnostics.json. Raises InputError without a backbone or
        without training or validation cases.
        """
        codes = atomic_codes(data.items)
        fit_generative(__name__, config, codes, data, backbone, seed, out, tuner=self.tuner, basis=basis)

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 log-probabilities."""
        yield from score_generative(artefact, cases)

"""BSR: one generative model for both tasks with atomic item identifiers (Penha et al., RecSys 2024, arXiv 2410.16823).

Each item is one new token; the model reads the common prompt (task, history, query) and is trained to write the
target's token, on training searches and recommendations together, in their natural proportion and with equal weights.
What we changed, and why: the common prompt of all generative methods with behaviour tags and the user's history in
searches too (the paper's searches are the query alone); learning rates and epochs are ours, because the paper's
are not in its abstract and no code of it is public. Full fine-tuning on T5; on Qwen2 LoRA with trained new rows.
Known weakness: of items that no training case contains the input row stays as drawn and the output row is only ever
pushed away, so nothing is learned of them; `diagnostics.json` reports their share and the accuracy with and without
them.
Cost: one encoder pass and one decoder step per case, whatever the number of candidates; |I| new rows of the
embedding matrix (twice on T5, whose output layer is untied).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.methods.contract import ScoreArray
from gemsbench.methods.generative import GenerativeSettings, fit_generative
from gemsbench.methods.generative_scoring import score_generative

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class BSR:
    """Score = log-probability of the item's token after the prompt, under the softmax over the whole vocabulary."""

    Config = GenerativeSettings

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

        basis: file of the backbone's knowledge basis, for the tuner gems. Writes a plain `from_pretrained` folder with
        codes, log.jsonl and diagnostics.json. Raises InputError without a backbone or without training or validation
        cases.
        """
        fit_generative(__name__, config, atomic_codes(data.items), data, backbone, seed, out, basis=basis)

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 log-probabilities."""
        yield from score_generative(artefact, cases)

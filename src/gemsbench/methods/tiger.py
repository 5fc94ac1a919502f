"""TIGER: the next item as a semantic identifier made by an RQ-VAE from item text (NeurIPS 2023, arXiv 2305.05065).

Three codes of a residual quantiser over the text embedding and one that tells equal ones apart; the model reads the
identifiers of the user's purchases and writes the next one. Recommendation only: no queries, no search events.
What we changed, and why: the backbone in the place of a small T5 from scratch, because the tables compare methods on
the same backbone (arXiv 2601.09496, section 5.1); the common prompt; no hashed user tokens; LoRA on Qwen2. The history
is what is left of the last N events of both tasks when searches are taken out, so it can be shorter than N.
Official code does not exist. The quantiser follows the paper's formula: sums, and a commitment gradient at every level,
which public re-implementations take as means or lose after the first level (`identifiers/residual_quantiser.py`).
Cost: that of BSR with prompts about four times as long, and a few hundred new rows instead of one per item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemsbench.methods.generative import GenerativeSettings
from gemsbench.methods.identifier_method import IdentifierMethod


@dataclass(frozen=True)
class TIGERSettings(GenerativeSettings):
    """Config of TIGER: a single-task method."""

    train_tasks: tuple[str, ...] = ("rec",)
    history_tasks: tuple[str, ...] = ("rec",)


class TIGER(IdentifierMethod):
    """Scheme rqvae, recommendation alone, token cross-entropy, the usual tuner of each backbone."""

    Config: ClassVar[type[GenerativeSettings]] = TIGERSettings

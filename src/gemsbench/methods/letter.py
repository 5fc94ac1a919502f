"""LETTER: TIGER with a learned tokenizer and a temperature in its loss (CIKM 2024, arXiv 2405.07314).

The identifiers know who bought what and use their codes evenly (`identifiers/letter.py`); the ranking-guided loss is
cross-entropy of logits divided by a temperature, in training alone. Recommendation only, as TIGER.
What we changed, and why: the backbone and the common prompt, as in TIGER; exact scores of the candidates in the place
of a beam over the catalogue. Both official scripts run temperature 1, so that is the default.
Cost: that of TIGER with four codes or five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from gemsbench.errors import InputError
from gemsbench.methods.generative import GenerativeSettings, Objective
from gemsbench.methods.identifier_method import IdentifierMethod
from gemsbench.training.objective import identifier_loss


@dataclass(frozen=True)
class LETTERSettings(GenerativeSettings):
    """Config of LETTER; raises InputError for a temperature that is not positive."""

    train_tasks: tuple[str, ...] = ("rec",)
    history_tasks: tuple[str, ...] = ("rec",)
    temperature: float = 1.0  # below 1 hard negatives weigh more; the paper's range is about 0.6 to 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; it must be positive and finite.")


class LETTER(IdentifierMethod):
    """Scheme letter, recommendation alone, ranking-guided loss, the usual tuner of each backbone."""

    Config: ClassVar[type[GenerativeSettings]] = LETTERSettings

    def objective(self, config: Any) -> Objective:
        """Cross-entropy with the temperature of the settings (arXiv 2405.07314, ranking-guided generation loss)."""
        return partial(identifier_loss, temperature=config.temperature)

"""Training of language models: prompts as token ids, batches, one loop, checkpoints.

`loop.train` turns any model, loss and validation figure into the best weights; the rest makes what it is fed.
`GEMSTrainer` is for users of transformers' own Trainer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemsbench.training.gems_trainer import GEMSPlan, GEMSTrainer, with_tasks

__all__ = ["GEMSPlan", "GEMSTrainer", "with_tasks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # looked up when first used: nothing else here needs them
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.gems_trainer"), name)

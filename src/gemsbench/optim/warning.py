"""What GEMS warns of: settings that undo one another, and what only a first step can show."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from gemsbench.optim.record import StepRecord
from gemsbench.optim.settings import GEMSConfig

WEIGHT_DECAY = (
    "GEMS: weight decay changes W x for every x, so the null space no longer preserves anything. Set weight_decay=0."
)
WHOLE_PARAMETERS = (
    "GEMS: whole parameters are trained beside the null space. Norms, biases and embedding rows act on every feature, "
    "so nothing is preserved exactly. Use others='frozen', and rows for new tokens."
)


def warn_of_first_step(record: StepRecord, config: GEMSConfig, tasks: Sequence[str], silent: Sequence[str]) -> None:
    """Warn of a gate without losses, and of weights that no gradient reached (silent: their names)."""
    if not record.losses and config.gate != "uniform" and len(tasks) > 1:
        warnings.warn("GEMS: the gate saw no losses. Use part.backward(loss), or part.record(loss).", stacklevel=6)
    if silent:
        warnings.warn(
            f"GEMS: no gradient reached {', '.join(silent[:3])} ({len(silent)} in all) in the first step. Layers whose "
            "forward is bypassed (nn.MultiheadAttention) need backward='full'.",
            stacklevel=6,
        )

"""What an encoder is: training data in, one vector per item out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gemsbench.identifiers.vectors import BoolArray, Float32Array

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder found.

    vectors: float32 [n_items + 1, D], row = item_id. known: bool [n_items + 1], False for padding and for items of
    which it knows nothing; their rows are zeros. record: JSON values that say how it went; log: lines of log.jsonl.
    """

    vectors: Float32Array
    known: BoolArray
    record: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()


class Encoder(Protocol):
    """Registered as `name -> target` in gemsbench.registry.

    Config is a frozen dataclass with defaults; a profile overrides its fields. The class is built without arguments
    and keeps no state.
    """

    Config: ClassVar[type]

    def encode(self, config: Any, data: TrainingData, seed: int, checkpoint: Path) -> Encoded:
        """Give every item a vector, from what may be seen before the test split.

        checkpoint: a folder of its own for a long fit, which goes on from it when called again with equal arguments.
        """
        ...

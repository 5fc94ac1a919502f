"""What a tuner is: it makes a backbone ready for training and hands back model and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from gemsbench.backbones.loading import Backbone

Head: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"  # hidden [.., D] -> logits fp32 [.., V]


class Tuned(Protocol):
    """A backbone made ready for training."""

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model, called for training and for scoring; adapters sit inside it, nothing wraps it."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What moves the trainable parameters; the learning rate of each group is its peak."""
        ...

    def counts(self) -> dict[str, int]:
        """Numbers of values: "trainable", "new_rows" (of them in rows of new tokens) and "total" (of the model)."""
        ...

    def head(self) -> Head | None:
        """Logits of the present weights in fp32, differentiable; None: the model's own output layer will do."""
        ...

    def save(self, folder: Path) -> None:
        """Write a plain `from_pretrained` folder of the present weights; the caller sees to atomicity."""
        ...


class Tuner(Protocol):
    """A way to adapt a backbone. Config is a frozen dataclass with defaults; the class is built without arguments."""

    Config: ClassVar[type]
    frozen_base: ClassVar[bool]  # True: the backbone's own weights never change and may be loaded in bf16

    def prepare(
        self,
        config: Any,
        backbone: Backbone,
        new_rows: range,
        *,
        activation_checkpointing: bool = False,
        seed: int = 0,
        tasks: Sequence[str] = (),
        basis: Path | None = None,
    ) -> Tuned:
        """Make backbone.model (changed in place, once) trainable; new_rows are the ids of its added tokens.

        seed draws what the tuner adds to the model. tasks: names of the tasks to come; basis: file of the backbone's
        knowledge basis. A tuner ignores what it has no use for. Raises InputError when the backbone does not suit the
        tuner, and when something that it needs is missing.
        """
        ...

"""Full fine-tuning: every parameter of the backbone is trained (the T5 block of the tables; BSR, arXiv 2410.16823)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from gemsbench.backbones.loading import Backbone, save_backbone
from gemsbench.errors import InputError
from gemsbench.tuners.parameters import (
    check_new_rows,
    check_ranges,
    checkpoint_activations,
    count_values,
    token_matrices,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gemsbench.tuners.contract import Head


@dataclass(frozen=True)
class FullSettings:
    """Config of full fine-tuning. Grid for T5: learning rate 1e-4 to 2e-3, rows 1e-3 and 3e-3.

    Raises InputError for values out of range.
    """

    learning_rate: float = 1e-3  # AdamW, betas 0.9 and 0.999
    rows_learning_rate: float | None = None  # of input embedding and head; None: learning_rate
    weight_decay: float = 0.01  # of the weight matrices between embedding and head

    def __post_init__(self) -> None:
        fractions = ("learning_rate", "rows_learning_rate", "weight_decay")
        check_ranges("full", self, least=dict.fromkeys(fractions, 0), below=dict.fromkeys(fractions, 1))


@dataclass(frozen=True)
class FullyTuned:
    """A backbone all of whose parameters are trained."""

    backbone: Backbone
    optimizer: torch.optim.Optimizer
    new_rows: range

    @property
    def model(self) -> PreTrainedModel:
        """The backbone's model itself."""
        return self.backbone.model

    def counts(self) -> dict[str, int]:
        """All values are trainable; those of new rows are counted in the input embedding and, if untied, the head."""
        total = count_values(self.model.parameters())
        width = sum(matrix.shape[1] for matrix in token_matrices(self.model))
        return {"trainable": total, "new_rows": len(self.new_rows) * width, "total": total}

    def head(self) -> Head | None:
        """None: the weights are fp32."""
        return None

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a plain `from_pretrained` folder."""
        save_backbone(self.backbone, folder)


class FullFineTuning:
    """AdamW on all parameters, in fp32."""

    Config: ClassVar[type] = FullSettings
    frozen_base: ClassVar[bool] = False

    def prepare(
        self,
        config: FullSettings,
        backbone: Backbone,
        new_rows: range,
        *,
        activation_checkpointing: bool = False,
        seed: int = 0,  # nothing is drawn
        tasks: Sequence[str] = (),  # all alike
        basis: Path | None = None,  # not used
    ) -> FullyTuned:
        """Make all parameters of backbone.model trainable.

        Raises InputError when the weights are not fp32 (small updates vanish in bf16) or new_rows are not in the model.
        """
        model = backbone.model
        check_new_rows(model, new_rows)
        if model.dtype != torch.float32:
            raise InputError(f"full fine-tuning needs a backbone loaded in float32, not {model.dtype}.")
        model.requires_grad_(True)
        if activation_checkpointing:
            checkpoint_activations(model)
        return FullyTuned(backbone, _optimizer(model, config), new_rows)


def _optimizer(model: PreTrainedModel, config: FullSettings) -> torch.optim.AdamW:
    """AdamW in three groups: decayed matrices, token matrices, the rest (norms, biases, position tables).

    Token matrices are not decayed: the rows of items that no training example shows would shrink to 0.
    """
    tokens = token_matrices(model)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    kept = tables | {id(matrix) for matrix in tokens}
    others = [parameter for parameter in model.parameters() if id(parameter) not in {id(matrix) for matrix in tokens}]
    decayed = [parameter for parameter in others if parameter.ndim >= 2 and id(parameter) not in kept]
    plain = [parameter for parameter in others if parameter.ndim < 2 or id(parameter) in kept]
    rows_rate = config.learning_rate if config.rows_learning_rate is None else config.rows_learning_rate
    groups = [
        {"params": decayed, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": tokens, "lr": rows_rate, "weight_decay": 0.0},
        {"params": plain, "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999))

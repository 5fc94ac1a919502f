"""GEMS (arXiv 2601.09496): low-rank updates in a shared and task-wise subspaces, kept off what the model knows.

Every linear layer except the head is projected; rows of new tokens are trained by AdamW; everything else is frozen,
because norms, biases and old rows act on every feature and would undo what the null space preserves. No weight is
added: the saved model has the parameters of the backbone. The gate (146 numbers) exists in training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from gemsbench.backbones.loading import Backbone, save_backbone
from gemsbench.data.schema import TASKS
from gemsbench.errors import InputError
from gemsbench.optim import GEMS, KnowledgeBasis, gems_param_groups
from gemsbench.seeds import stream_seed
from gemsbench.tuners.gems_settings import LEARNING_RATES, RANKS, GEMSSettings
from gemsbench.tuners.parameters import (
    check_new_rows,
    checkpoint_activations,
    count_values,
    token_matrices,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gemsbench.tuners.contract import Head


@dataclass(frozen=True)
class GEMSTuned:
    """A backbone whose linear layers GEMS moves."""

    backbone: Backbone
    optimizer: GEMS
    new_rows: range
    trained: tuple[nn.Parameter, ...]  # whole parameters that move; rows of token matrices come on top
    row_matrices: tuple[nn.Parameter, ...]

    @property
    def model(self) -> PreTrainedModel:
        """The backbone's model itself."""
        return self.backbone.model

    def counts(self) -> dict[str, int]:
        """Trainable = the projected matrices (and, in preset reference, all others) + the rows of new tokens."""
        whole = count_values(self.trained)
        rows = len(self.new_rows) * sum(matrix.shape[1] for matrix in self.row_matrices)
        inside = {id(parameter) for parameter in self.trained}
        beside = 0 if all(id(matrix) in inside for matrix in self.row_matrices) else rows
        return {"trainable": whole + beside, "new_rows": rows, "total": count_values(self.model.parameters())}

    def head(self) -> Head | None:
        """None: the weights are fp32."""
        return None

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a plain `from_pretrained` folder; the optimizer leaves nothing in it."""
        save_backbone(self.backbone, folder)


class GEMSTuner:
    """GEMS on all linear layers, AdamW on the rows of new tokens, in fp32."""

    Config: ClassVar[type] = GEMSSettings
    frozen_base: ClassVar[bool] = False

    def prepare(
        self,
        config: GEMSSettings,
        backbone: Backbone,
        new_rows: range,
        *,
        activation_checkpointing: bool = False,
        seed: int = 0,
        tasks: Sequence[str] = (),
        basis: Path | None = None,
    ) -> GEMSTuned:
        """Make the linear layers and the new rows of backbone.model trainable; tasks: () means rec and src.

        Raises InputError when the weights are not fp32, new_rows are not in the model, the basis is missing or of
        another model or side, and for preset reference on another backbone than T5 (the released code has none).
        """
        model = backbone.model
        check_new_rows(model, new_rows)
        _check_backbone(config, backbone)
        everything = config.preset == "reference"
        matrices = token_matrices(model)
        rows = {} if everything or not len(new_rows) else dict.fromkeys(_names(model, matrices), new_rows)
        rate = LEARNING_RATES[backbone.kind] if config.learning_rate is None else config.learning_rate
        known = _knowledge(config, backbone, basis)
        try:
            groups = gems_param_groups(
                model,
                rank=RANKS[backbone.kind] if config.rank is None else config.rank,
                task_rank=config.task_rank,
                others="trained" if everything else "frozen",
                rows=rows,
                rows_lr=config.rows_learning_rate,
            )
            optimizer = _optimizer(config, groups, rate, tuple(tasks) or TASKS, known, stream_seed(seed, "gems"))
        except ValueError as error:
            raise InputError(f"gems: {_without(str(error), 'GEMS: ', 'gems_param_groups: ')}") from error
        if activation_checkpointing:
            checkpoint_activations(model)
        held = [p for group in optimizer.param_groups if group["rank"] or everything for p in group["params"]]
        return GEMSTuned(backbone, optimizer, new_rows, tuple(held), tuple(matrices))


def _check_backbone(config: GEMSSettings, backbone: Backbone) -> None:
    if backbone.model.dtype != torch.float32:
        raise InputError(f"gems needs a backbone loaded in float32, not {backbone.model.dtype}.")
    if config.preset == "reference" and backbone.kind != "t5":
        raise InputError(
            f"gems: preset 'reference' repeats the released code, which knows T5 only and not {backbone.kind}. "
            "Use preset 'paper', or a T5 backbone."
        )


def _knowledge(config: GEMSSettings, backbone: Backbone, basis: Path | None) -> KnowledgeBasis | None:
    if config.basis_side is None:
        return None
    command = "gemsbench basis BACKBONE" + (" --side output" if config.basis_side == "output" else "")
    if basis is None:
        raise InputError(
            f"gems: null_space is on, and there is no knowledge basis of this backbone. Make one ({command}), or set "
            "null_space: false."
        )
    try:
        known = KnowledgeBasis.load(basis)
        known.verify(backbone.model)
    except (ValueError, OSError) as error:
        reason = _without(str(error), f"{basis}: ")
        raise InputError(f"{basis}: {reason} Make it again for this backbone ({command}).") from error
    if known.side != config.basis_side:
        raise InputError(f"{basis}: a basis of {known.side}s; this run needs one of {config.basis_side}s ({command}).")
    return known


def _without(message: str, *prefixes: str) -> str:
    """The message without the name of who speaks, where it stands before it already."""
    for prefix in prefixes:
        message = message.removeprefix(prefix)
    return message


def _names(model: PreTrainedModel, parameters: Sequence[nn.Parameter]) -> list[str]:
    wanted = {id(parameter) for parameter in parameters}
    return [name for name, parameter in model.named_parameters() if id(parameter) in wanted]


def _optimizer(
    config: GEMSSettings,
    groups: list[dict[str, Any]],
    rate: float,
    tasks: tuple[str, ...],
    known: KnowledgeBasis | None,
    seed: int,
) -> GEMS:
    settings = vars(config.optimizer_config())
    return GEMS(groups, lr=rate, tasks=tasks, preset=config.preset, null_space=known, seed=seed, **settings)

"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) by peft, with trained rows for new tokens.

W' = W + (alpha / r) B A on every linear layer except the head; B = 0 at the start, so step 0 is the base model.
Rows of new tokens are trained beside it (`trainable_token_indices`): frozen random rows would make identifiers
meaningless. peft's input embedding copies the whole matrix in every forward pass to put these rows in (at 427,000 rows
of width 2,048 that is 1.7 GB in bf16, twice that in fp32); only the head avoids such a copy (LoRATuned.head). peft's
other way, `modules_to_save=["embed_tokens"]`, is not used: on a tied model it trains the input
matrix and leaves the old one in the head. Only tied causal models can have new rows: on untied ones and on T5 peft
trains none, or the rows of one matrix only, without saying so. Adapters and rows are fp32 also over a bf16 base.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import linear

from gemsbench import seeds
from gemsbench.backbones.loading import Backbone, save_backbone
from gemsbench.config import load_settings, settings_dict
from gemsbench.errors import InputError
from gemsbench.tuners.adapters import RECORD, WEIGHTS, base_sha256, read_adapter, tokens_sha256, write_adapter
from gemsbench.tuners.parameters import (
    check_new_rows,
    check_ranges,
    checkpoint_activations,
    count_values,
    output_matrix,
    token_matrices,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gemsbench.tuners.contract import Head

ADAPTER_FOLDER = "adapter"  # inside a saved model


@dataclass(frozen=True)
class LoRASettings:
    """Config of LoRA. Grid: rank 8, 16, 64; alpha r, 2r; dropout 0, 0.05; rates 1e-4 to 5e-4, rows 1e-3 and 3e-3.

    The paper gives none; LoRA wants about ten times the learning rate of full fine-tuning.
    Raises InputError for values out of range.
    """

    rank: int = 16
    alpha: int = 32  # the update is scaled by alpha / rank
    dropout: float = 0.05  # of the adapters' input
    learning_rate: float = 2e-4  # AdamW, betas 0.9 and 0.999
    rows_learning_rate: float = 1e-3  # of the new tokens' rows
    weight_decay: float = 0.0  # of A and B; rows are never decayed

    def __post_init__(self) -> None:
        fractions = ("dropout", "learning_rate", "rows_learning_rate", "weight_decay")
        least = {"rank": 1, "alpha": 0, **dict.fromkeys(fractions, 0)}
        check_ranges("lora", self, least, below=dict.fromkeys(fractions, 1))


@dataclass(frozen=True)
class LoRATuned:
    """A frozen backbone with adapters inside and, where tokens were added, trained rows."""

    backbone: Backbone
    peft_model: Any  # PeftModel around the same modules: for disable_adapter() and merging
    optimizer: torch.optim.Optimizer
    settings: LoRASettings
    new_rows: range
    base: Mapping[str, Tensor]  # the frozen weights under their own names
    matrix: nn.Parameter  # [V, D] of the head, frozen
    rows: nn.Parameter | None  # [new rows, D], trained

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model with the adapters inside."""
        return cast("PreTrainedModel", self.peft_model.get_base_model())

    def counts(self) -> dict[str, int]:
        """Trainable = r * sum of (inputs + outputs) over the adapted layers + values of new rows."""
        trainable = count_values(parameter for parameter in self.model.parameters() if parameter.requires_grad)
        new_rows = 0 if self.rows is None else self.rows.numel()
        return {"trainable": trainable, "new_rows": new_rows, "total": count_values(self.model.parameters())}

    def head(self) -> Head:
        """Logits from the frozen rows and the trained ones, side by side.

        peft's own head copies the whole matrix in every call, in the base's precision, and makes a gradient for all
        of its rows.
        """
        return self._logits

    def _logits(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self.rows is None:
                return linear(hidden, self.matrix.float())
            before, after = self.matrix[: self.new_rows.start], self.matrix[self.new_rows.stop :]
            return torch.cat([linear(hidden, part.float()) for part in (before, self.rows, after)], dim=-1)

    def merged(self) -> Backbone:
        """A copy on the CPU with adapters and rows merged into plain fp32 weights; training may go on.

        It takes no memory of the device: weights and buffers are copied straight to the CPU.
        """
        made = _copies_on_cpu(self.peft_model)  # deepcopy takes these instead of copying; tied weights stay tied
        model = copy.deepcopy(self.peft_model, made).to("cpu", torch.float32).merge_and_unload()
        return Backbone(self.backbone.kind, model, self.backbone.tokenizer)

    def save(self, folder: Path) -> None:
        """Write the merged model (fp32 also over a bf16 base: merging into bf16 loses updates) and folder/adapter."""
        save_backbone(self.merged(), folder)
        record = {
            "base_sha256": base_sha256(self.base, self._matrix_names(), self.new_rows),
            "tokens_sha256": tokens_sha256(self.backbone.tokenizer, self.new_rows),
            "first_row": self.new_rows.start,
            "n_rows": len(self.new_rows),
            "peft": peft.__version__,
            "settings": settings_dict(self.settings),
        }
        peft_config = self.peft_model.peft_config["default"].to_dict()
        write_adapter(folder / ADAPTER_FOLDER, _adapter_weights(self.peft_model), peft_config, record)

    def _matrix_names(self) -> set[str]:
        return {name for name, weight in self.base.items() if self.rows is not None and weight is self.matrix}


class LoRA:
    """peft's LoRA on all linear layers."""

    Config: ClassVar[type] = LoRASettings
    frozen_base: ClassVar[bool] = True

    def prepare(
        self,
        config: LoRASettings,
        backbone: Backbone,
        new_rows: range,
        *,
        activation_checkpointing: bool = False,
        seed: int = 0,
        tasks: Sequence[str] = (),  # all alike
        basis: Path | None = None,  # not used
    ) -> LoRATuned:
        """Freeze backbone.model and put adapters into it; seed draws their A (Kaiming uniform, B is 0).

        Raises InputError when new_rows are not in the model, or are there and cannot be trained (T5, untied head).
        """
        model = backbone.model
        check_new_rows(model, new_rows)
        if len(new_rows):
            _require_one_matrix(backbone)
        base = dict(model.named_parameters())
        matrix = output_matrix(model)
        lora_config = LoraConfig(
            target_modules="all-linear",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            trainable_token_indices=list(new_rows) or None,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            torch.default_generator.manual_seed(seeds.stream_seed(seed, "tuner", "lora"))
            peft_model = get_peft_model(model, lora_config, autocast_adapter_dtype=True)
        if activation_checkpointing:
            checkpoint_activations(model)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rows = _rows(model) if len(new_rows) else None
        optimizer = _optimizer([parameter for parameter in trainable if parameter is not rows], rows, config)
        return LoRATuned(backbone, peft_model, optimizer, config, new_rows, base, matrix, rows)


def load_adapter(backbone: Backbone, folder: Path) -> LoRATuned:
    """Put the adapter of a saved folder/adapter into backbone.model, whose tokens have been added.

    Raises InputError when the adapter belongs to other base weights, when the new tokens have other names or another
    order, when the model or the adapter lacks their rows, and for missing, damaged or pickled files. Which item has
    which tokens is not recorded: codes of equal sizes have equal tokens.
    """
    weights, record = read_adapter(folder)
    new_rows = range(record["first_row"], record["first_row"] + record["n_rows"])
    check_new_rows(backbone.model, new_rows)
    base = dict(backbone.model.named_parameters())
    matrices = {id(matrix) for matrix in token_matrices(backbone.model)} if len(new_rows) else set()
    names = {name for name, weight in base.items() if id(weight) in matrices}
    if base_sha256(base, names, new_rows) != record["base_sha256"]:
        raise InputError(
            f"{folder / RECORD}: this adapter was trained on another base model (sha256 of the weights differs). "
            "Load it on the backbone it was trained on, or train it again on this one."
        )
    if tokens_sha256(backbone.tokenizer, new_rows) != record["tokens_sha256"]:
        raise InputError(
            f"{folder / RECORD}: an adapter of other identifiers (tokens {new_rows.start}..{new_rows.stop - 1} have "
            "other names in this tokenizer). Add the tokens of the identifiers it was trained with, or train it again."
        )
    settings = load_settings(LoRASettings, record["settings"], str(folder / RECORD))
    tuned = LoRA().prepare(settings, backbone, new_rows)
    expected = {name: list(tensor.shape) for name, tensor in _adapter_weights(tuned.peft_model).items()}
    if expected != {name: list(tensor.shape) for name, tensor in weights.items()}:
        odd = sorted(set(expected) ^ set(weights)) or ["(shapes differ)"]
        raise InputError(f"{folder / WEIGHTS}: not the weights that {RECORD} describes: {odd[0]}. Train it again.")
    set_peft_model_state_dict(tuned.peft_model, weights)
    return tuned


def _require_one_matrix(backbone: Backbone) -> None:
    """Raise InputError unless one tied matrix holds all rows of a token."""
    if backbone.kind == "t5" or len(token_matrices(backbone.model)) > 1:
        raise InputError(
            f"LoRA cannot train the rows of new tokens on this {backbone.kind} backbone: its input embedding and head "
            "are not one tied matrix, and peft would leave rows frozen. Use tuner 'full', or a tied causal model."
        )


def _copies_on_cpu(module: nn.Module) -> dict[int, Any]:
    """Copies of parameters and buffers in their own precision, by the id of the original."""
    copies: dict[int, Any] = {}
    for parameter in module.parameters():
        values = parameter.detach().to("cpu", copy=True)
        copies[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
    return copies | {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in module.buffers()}


def _rows(model: PreTrainedModel) -> nn.Parameter:
    """The trained rows, of which input embedding and head each refer to the same."""
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[no-untyped-call]
    deltas = [layer.token_adapter.trainable_tokens_delta["default"] for layer in layers]
    if deltas[0] is not deltas[1]:
        raise RuntimeError("peft made separate rows for input embedding and head")
    return cast(nn.Parameter, deltas[0])


def _adapter_weights(peft_model: PeftModel) -> dict[str, Tensor]:
    # Not "auto": that asks the hub for the base model's config.
    return dict(get_peft_model_state_dict(peft_model, save_embedding_layers=False))


def _optimizer(adapters: list[nn.Parameter], rows: nn.Parameter | None, config: LoRASettings) -> torch.optim.AdamW:
    groups = [{"params": adapters, "lr": config.learning_rate, "weight_decay": config.weight_decay}]
    if rows is not None:
        groups.append({"params": [rows], "lr": config.rows_learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, betas=(0.9, 0.999))

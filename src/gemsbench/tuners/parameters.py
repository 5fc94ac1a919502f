"""Questions that every tuner asks of a model: which matrices have a row per token, how many values are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from gemsbench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def input_matrix(model: PreTrainedModel) -> nn.Parameter:
    """The input embedding [V, D]."""
    return cast(nn.Parameter, model.get_input_embeddings().weight)


def output_matrix(model: PreTrainedModel) -> nn.Parameter:
    """The output layer [V, D]; the input embedding itself where the two are tied."""
    layer: nn.Linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return cast(nn.Parameter, layer.weight)


def token_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Input embeddings and output layer [V, D], each distinct parameter once (one if tied, two for Flan-T5)."""
    n_rows = len(input_matrix(model))
    layers = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    matrices = [cast(nn.Parameter, layer.weight) for layer in layers if layer.num_embeddings == n_rows]
    return list({id(matrix): matrix for matrix in [*matrices, output_matrix(model)]}.values())


def check_new_rows(model: PreTrainedModel, new_rows: range) -> None:
    """Raise InputError when the model has no such rows."""
    n_rows = len(input_matrix(model))
    if len(new_rows) and not (new_rows.start >= 0 and new_rows.stop <= n_rows and new_rows.step == 1):
        raise InputError(
            f"the model's token matrix has {n_rows} rows, rows {new_rows.start}..{new_rows.stop - 1} of the new "
            "tokens are not among them. Add the tokens (backbones.vocabulary.add_tokens) before tuning."
        )


def count_values(parameters: Iterable[Tensor]) -> int:
    """Number of values in the distinct parameters."""
    return sum({id(parameter): parameter.numel() for parameter in parameters}.values())


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass.

    Not reentrant: the reentrant form gives no gradients at all where the inputs of a block need none, as over a frozen
    embedding. transformers 5.23 also hooks the embedding against that (`enable_input_require_grads`).
    """
    model.activation_checkpointing_enable({"use_reentrant": False})


def check_ranges(name: str, settings: Any, least: Mapping[str, float], below: Mapping[str, float]) -> None:
    """Raise InputError when a setting is smaller than its `least` or not smaller than its `below`; None passes."""
    for field, smallest in least.items():
        value = getattr(settings, field)
        if value is not None and not value >= smallest:
            raise InputError(f"{name}: {field} is {value}; it must be at least {smallest}.")
    for field, bound in below.items():
        value = getattr(settings, field)
        if value is not None and not value < bound:
            raise InputError(f"{name}: {field} is {value}; it must be below {bound}.")

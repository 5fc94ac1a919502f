"""Token cross-entropy of identifiers (arXiv 2601.09496, section 3): full vocabulary, target positions only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from gemsbench.errors import InputError
from gemsbench.training.batches import NO_LOSS

Head = Callable[[Tensor], Tensor]


def identifier_loss(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], head: Head | None = None, temperature: float = 1.0
) -> Tensor:
    """Sum over the target tokens of -log P(token | prompt, earlier tokens), a float32 scalar.

    tensors: input_ids and attention_mask int64 [B, T]; labels int64 with NO_LOSS where there is no target: [B, L] for
    an encoder-decoder model (its decoder starts with decoder_start_token_id), [B, T] for a causal one (the label of a
    position is the token that stands there). head: float32 hidden states [N, D] -> float32 logits [N, V]; None: the
    model's own output layer. Logits are computed at target positions only, in float32 also under autocast.
    temperature: P is the softmax of logits / temperature; below 1, the tokens that the model confuses with the target
    weigh more (LETTER, arXiv 2405.07314, ranking-guided loss). For training: nothing else divides logits by it.
    Raises InputError for a temperature that is not positive.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"the temperature of the loss is {temperature}; it must be positive and finite.")
    hidden, targets = (_decoded if model.config.is_encoder_decoder else _continued)(model, tensors)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = (head or own_head(model))(hidden.float()).float()
        # At 1 no quotient is formed: the same bits, and no second copy of the logits.
        scaled = logits if temperature == 1 else logits / temperature
        return cross_entropy(scaled, targets, reduction="sum")


def own_head(model: PreTrainedModel) -> Head:
    """The model's output layer on float32 hidden states [N, D]; logits are float32 [N, V].

    Raises InputError for a layer in lower precision that is more than a matrix: its tuner has to hand in a head.
    """
    layer: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    dtype = next(layer.parameters()).dtype
    if dtype == torch.float32:
        return cast(Head, layer)
    if type(layer) is nn.Linear:
        return lambda hidden: linear(hidden, layer.weight.float(), None if layer.bias is None else layer.bias.float())
    raise InputError(f"the output layer is a {type(layer).__name__} in {dtype}; pass a head that computes in float32.")


def _decoded(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states [N, D] of an encoder-decoder model before each of N target tokens, and those tokens [N]."""
    labels, mask, config = tensors["labels"], tensors["attention_mask"], model.config
    encoded = model.get_encoder()(input_ids=tensors["input_ids"], attention_mask=mask).last_hidden_state
    before = labels.new_full(labels.shape, config.decoder_start_token_id)
    before[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == NO_LOSS, config.pad_token_id)
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    states = {"encoder_hidden_states": encoded, "encoder_attention_mask": mask}
    hidden = decoder(input_ids=before, **states, use_cache=False).last_hidden_state
    if getattr(config, "scale_decoder_outputs", False):
        hidden = hidden * config.d_model**-0.5
    wanted = labels != NO_LOSS
    return hidden[wanted], labels[wanted]


def _continued(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states [N, D] of a causal model before each of N target tokens, and those tokens [N]."""
    labels = tensors["labels"][:, 1:]
    inputs = {"input_ids": tensors["input_ids"], "attention_mask": tensors["attention_mask"]}
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    hidden = decoder(**inputs, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels != NO_LOSS
    return hidden[wanted], labels[wanted]

"""The loss of identifiers: Hugging Face's own loss, computed at target positions only."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from gemsbench.errors import InputError
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.objective import identifier_loss


def _own_loss(model: PreTrainedModel, tensors: Any) -> torch.Tensor:
    """The model's mean loss, times the number of target tokens."""
    return model(**tensors).loss * (tensors["labels"] != NO_LOSS).sum()


def _gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _same(first: PreTrainedModel, tensors: Any, head: Any = None) -> None:
    ours, theirs = identifier_loss(first, tensors, head), _own_loss(first, tensors)
    torch.testing.assert_close(ours, theirs)
    gradients, expected = _gradients(first, ours), _gradients(first, theirs)
    assert gradients.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("untied", [False, True])
def test_it_is_the_models_own_loss(tiny: Any, untied: bool) -> None:
    model = tiny.model().eval()
    if untied and tiny.kind == "t5":
        model.config.tie_word_embeddings = model.config.scale_decoder_outputs = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    _same(model, tiny.batch(5).tensors)


def test_it_is_the_models_own_loss_with_adapters_and_trained_rows(tiny: Any) -> None:
    model = tiny.model()
    targets = ["q", "wo"] if tiny.kind == "t5" else ["q_proj", "down_proj"]
    rows = None if tiny.kind == "t5" else [35, 36, 37]
    config = peft.LoraConfig(r=2, target_modules=targets, trainable_token_indices=rows, init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, model).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.normal_()
    _same(model, tiny.batch(5).tensors)


def test_it_is_a_sum_over_rows(tiny: Any) -> None:
    model, batch = tiny.model().eval(), tiny.batch(6)
    alone = [identifier_loss(model, part.tensors) for part in batch.split(1)]
    torch.testing.assert_close(identifier_loss(model, batch.tensors), torch.stack(alone).sum())


def test_what_is_masked_does_not_matter(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), dict(tiny.batch(6).tensors)
    loss = identifier_loss(model, tensors)
    hidden = tensors["attention_mask"] == 0
    assert hidden.any()
    assert (tensors["labels"] == NO_LOSS).any()
    other = {**tensors, "input_ids": tensors["input_ids"].masked_fill(hidden, 17)}
    torch.testing.assert_close(identifier_loss(model, other), loss)
    padded = {
        name: torch.nn.functional.pad(tensor, (0, 3), value=NO_LOSS if name == "labels" else 0)
        for name, tensor in tensors.items()
    }
    torch.testing.assert_close(identifier_loss(model, padded), loss)


@pytest.mark.parametrize("level", [0, 1])
def test_every_target_token_counts(tiny: Any, level: int) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(4).tensors
    labels = tensors["labels"].clone()
    row = labels[0]
    place = int((row != NO_LOSS).nonzero()[level])
    row[place] = NO_LOSS
    less = identifier_loss(model, {**tensors, "labels": labels})
    assert less < identifier_loss(model, tensors)


def test_a_head_of_ones_own_replaces_the_output_layer(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(4).tensors
    weight = model.get_output_embeddings().weight
    own = identifier_loss(model, tensors, lambda hidden: linear(hidden, weight))
    torch.testing.assert_close(own, identifier_loss(model, tensors))
    count = (tensors["labels"] != NO_LOSS).sum()
    flat = identifier_loss(model, tensors, lambda hidden: linear(hidden, torch.zeros_like(weight)))
    torch.testing.assert_close(flat, count * torch.tensor(float(len(weight))).log())


def test_logits_are_float32_whatever_the_model_computes_in(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(4).tensors
    seen = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = linear(hidden, model.get_output_embeddings().weight.float())
        seen.append((hidden.dtype, logits.dtype))
        return logits

    with torch.autocast("cpu", torch.bfloat16):
        assert identifier_loss(model, tensors, head).dtype == torch.float32
    exact = identifier_loss(model, tensors)
    model.to(torch.bfloat16)
    low = identifier_loss(model, tensors)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, identifier_loss(model, tensors, head))
    torch.testing.assert_close(low, exact, rtol=0.05, atol=0.0)
    assert set(seen) == {(torch.float32, torch.float32)}


def test_a_head_in_low_precision_that_is_more_than_a_matrix_must_be_handed_in(tiny: Any) -> None:
    model = tiny.model().to(torch.bfloat16)
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    with pytest.raises(InputError, match=r"Sequential in torch\.bfloat16; pass a head"):
        identifier_loss(model, tiny.batch(2).tensors)

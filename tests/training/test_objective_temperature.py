"""The temperature of LETTER's ranking-guided loss: a softmax of scaled logits at target positions, and nothing more."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from gemsbench.errors import InputError
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.objective import identifier_loss

LOGITS = torch.tensor([2.0, 1.5, -1.0, -3.0])  # the target is token 0, the wrong token nearest to it is 1


def _fixed_logits(seen: list[torch.Tensor]) -> Any:
    """A head that answers with LOGITS everywhere, whatever the hidden states are."""

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = LOGITS.expand(len(hidden), -1).clone().requires_grad_()
        seen.append(logits)
        return logits

    return head


def _first_token_targets(tensors: Any) -> dict[str, torch.Tensor]:
    return {**tensors, "labels": tensors["labels"].clamp(max=0)}  # NO_LOSS is negative and stays


def test_at_one_it_is_the_loss_without_a_temperature_bit_by_bit(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(5).tensors
    plain, scaled = identifier_loss(model, tensors), identifier_loss(model, tensors, temperature=1.0)
    assert torch.equal(plain, scaled)
    model.zero_grad()
    plain.backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    scaled.backward()
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_at_one_it_is_hugging_faces_loss(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(5).tensors
    count = (tensors["labels"] != NO_LOSS).sum()
    torch.testing.assert_close(identifier_loss(model, tensors, temperature=1.0), model(**tensors).loss * count)


@pytest.mark.parametrize("temperature", [0.7, 0.9, 1.3])
def test_it_divides_the_logits_of_the_targets(tiny: Any, temperature: float) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(6).tensors
    assert (tensors["labels"] == NO_LOSS).any()
    logits, labels = model(**tensors).logits, tensors["labels"]
    if tiny.kind != "t5":
        logits, labels = logits[:, :-1], labels[:, 1:]
    rows = (logits / temperature).flatten(0, 1)
    expected = cross_entropy(rows, labels.flatten(), ignore_index=NO_LOSS, reduction="sum")
    torch.testing.assert_close(identifier_loss(model, tensors, temperature=temperature), expected)


def test_a_head_of_ones_own_is_scaled_too(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), tiny.batch(4).tensors
    weight = model.get_output_embeddings().weight
    own = identifier_loss(model, tensors, lambda hidden: linear(hidden, weight / 0.8))
    torch.testing.assert_close(identifier_loss(model, tensors, lambda hidden: linear(hidden, weight), 0.8), own)


def test_a_lower_temperature_weighs_the_top_wrong_token_more(tiny: Any) -> None:
    model, tensors = tiny.model().eval(), _first_token_targets(tiny.batch(3).tensors)
    forces, shares = [], []
    for temperature in (1.0, 0.9, 0.8, 0.7, 0.6):
        seen: list[torch.Tensor] = []
        identifier_loss(model, tensors, _fixed_logits(seen), temperature).backward()
        gradient = seen[0].grad
        assert gradient is not None
        expected = torch.softmax(LOGITS / temperature, dim=0)[1] / temperature
        torch.testing.assert_close(gradient[:, 1], expected.expand(len(gradient)))
        forces.append(float(gradient[0, 1]))
        shares.append(float(gradient[0, 1] / gradient[0, 1:].sum()))
    assert forces == sorted(forces)
    assert shares == sorted(shares)
    assert forces[0] < forces[-1]
    assert shares[0] < shares[-1]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_must_be_positive_and_finite(tiny: Any, temperature: float) -> None:
    with pytest.raises(InputError, match="must be positive and finite"):
        identifier_loss(tiny.model(), tiny.batch(2).tensors, temperature=temperature)

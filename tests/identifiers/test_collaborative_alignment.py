"""L_CF: a softmax over the batch, which the encoder alone learns from."""

from __future__ import annotations

import math

import torch

from gemsbench.identifiers.collaborative_alignment import alignment_loss
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser

ALL = torch.ones(3, dtype=torch.bool)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_case_by_hand() -> None:
    quantised = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    collaborative = torch.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    products = [[1.0, 0.0, 2.0], [2.0, 2.0, 0.0], [2.0, 1.0, 2.0]]
    each = [-math.log(math.exp(row[i]) / sum(map(math.exp, row))) for i, row in enumerate(products)]
    torch.testing.assert_close(alignment_loss(quantised, collaborative, ALL), torch.tensor(sum(each) / 3))


def test_lengths_matter_neither_side_is_normalised() -> None:
    quantised, collaborative = random(3, 4), random(3, 4, seed=1)
    plain = alignment_loss(quantised, collaborative, ALL)
    assert not torch.isclose(alignment_loss(3 * quantised, collaborative, ALL), plain)
    torch.testing.assert_close(
        alignment_loss(3 * quantised, collaborative, ALL), alignment_loss(quantised, 3 * collaborative, ALL)
    )


def test_items_without_a_vector_change_nothing() -> None:
    quantised, collaborative = random(6, 4), random(6, 4, seed=1)
    known = torch.tensor([True, False, True, True, False, True])
    wild = collaborative.masked_fill(~known[:, None], 1e6)
    alone = alignment_loss(quantised[known], collaborative[known], torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(alignment_loss(quantised, wild, known), alone)
    leaf = quantised.clone().requires_grad_()
    alignment_loss(leaf, collaborative, known).backward()
    assert leaf.grad is not None
    assert (leaf.grad[~known] == 0).all()
    assert (leaf.grad[known] != 0).any(dim=1).all()


def test_a_batch_without_any_vector_adds_nothing_but_can_be_trained_on() -> None:
    leaf = random(3, 4).requires_grad_()
    loss = alignment_loss(leaf, random(3, 4), ~ALL)
    loss.backward()
    assert loss == 0
    assert (leaf.grad == 0).all()  # type: ignore[union-attr]


def test_the_encoder_learns_and_the_codebooks_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    model = ResidualQuantiser(6, [8], 4, 3, 5, generator)
    found = model(random(10, 6))
    alignment_loss(found.quantised, random(10, 4), torch.ones(10, dtype=torch.bool)).backward()
    assert model.codebooks.grad is None or (model.codebooks.grad == 0).all()
    for parameter in model.encoder.parameters():
        assert (parameter.grad != 0).any()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_its_value_is_that_of_the_sum_of_codewords() -> None:
    model = ResidualQuantiser(6, [8], 4, 3, 5, torch.Generator().manual_seed(0))
    found, collaborative, known = model(random(10, 6)), random(10, 4, seed=3), torch.ones(10, dtype=torch.bool)
    summed = alignment_loss(found.codewords.sum(dim=1), collaborative, known)
    torch.testing.assert_close(alignment_loss(found.quantised, collaborative, known), summed)
    assert not torch.isclose(alignment_loss(found.latent, collaborative, known), summed)


def test_it_falls_when_items_move_towards_their_own_vectors() -> None:
    collaborative = random(8, 4, seed=2)
    known = torch.ones(8, dtype=torch.bool)
    steps = [alignment_loss(scale * collaborative, collaborative, known) for scale in (0.0, 0.5, 1.0, 2.0)]
    assert steps == sorted(steps, reverse=True)
    torch.testing.assert_close(steps[0], torch.tensor(math.log(8)))

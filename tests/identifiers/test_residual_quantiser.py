"""The quantiser against a dense numpy oracle: what it computes, and where each gradient goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gemsbench.identifiers.residual_quantiser import (
    Reduction,
    ResidualQuantiser,
    quantisation_loss,
    reconstruction_loss,
)

B, D, LATENT, LEVELS, CODES = 6, 5, 3, 3, 4
Array = npt.NDArray[Any]


def quantiser(
    hidden: tuple[int, ...] = (), levels: int = LEVELS, codes: int = CODES, seed: int = 0
) -> ResidualQuantiser:
    """Random weights and codewords that matter."""
    generator = torch.Generator().manual_seed(seed)
    model = ResidualQuantiser(D, hidden, LATENT, levels, codes, generator)
    with torch.no_grad():
        model.codebooks.normal_(generator=generator)
    return model


def vectors(n: int = B, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(2, 3, (n, D)).astype(np.float32))


@dataclass
class Oracle:
    """A linear encoder and decoder in float64, by the formulas of the paper."""

    latent: Array
    residuals: list[Array]
    codes: Array
    quantised: Array
    loss: dict[str, float]
    gradients: dict[str, Array]


def oracle(model: ResidualQuantiser, x: Array, commitment: float, reduction: Reduction) -> Oracle:
    named = {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}
    inward, outward, books = named["encoder.0.weight"], named["decoder.0.weight"], named["codebooks"]
    x = (x - model.mean.numpy()) / model.std.numpy()
    residual = latent = x @ inward.T + named["encoder.0.bias"]
    residuals, codes, quantised = [], [], np.zeros_like(latent)
    for book in books:
        residuals.append(residual)
        codes.append(((residual[:, None] - book) ** 2).sum(2).argmin(1))
        quantised = quantised + book[codes[-1]]
        residual = residual - book[codes[-1]]
    error = quantised @ outward.T + named["decoder.0.bias"] - x
    per_x = 1 / B if reduction == "sum" else 1 / (B * D)
    per_z = 1 / B if reduction == "sum" else 1 / (B * LATENT * len(books))
    to_latent = 2 * per_x * error @ outward  # straight through
    to_books = np.zeros_like(books)
    distances = 0.0
    for level, book in enumerate(books):
        gap = residuals[level] - book[codes[level]]
        distances += (gap**2).sum()
        to_latent = to_latent + 2 * per_z * commitment * gap
        np.add.at(to_books[level], codes[level], -2 * per_z * gap)
    gradients = {
        "encoder.0.weight": to_latent.T @ x,
        "encoder.0.bias": to_latent.sum(0),
        "decoder.0.weight": 2 * per_x * error.T @ quantised,
        "decoder.0.bias": 2 * per_x * error.sum(0),
        "codebooks": to_books,
    }
    loss = {"reconstruction": per_x * (error**2).sum(), "quantisation": per_z * (1 + commitment) * distances}
    return Oracle(latent, residuals, np.stack(codes, 1), quantised, loss, gradients)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("levels", [1, 3])
def test_values_losses_and_gradients_are_those_of_the_formulas(reduction: Reduction, levels: int) -> None:
    model, x = quantiser(levels=levels), vectors()
    model.standardise_by(x)
    expected = oracle(model, x.numpy().astype(np.float64), 0.25, reduction)
    made = model(x)
    np.testing.assert_array_equal(made.codes, expected.codes)
    np.testing.assert_allclose(made.latent.detach(), expected.latent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.residuals.detach(), np.stack(expected.residuals, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.quantised.detach(), expected.quantised, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.codewords.detach().sum(1), expected.quantised, rtol=1e-5, atol=1e-6)
    losses = {
        "reconstruction": reconstruction_loss(model.standardised(x), made, reduction),
        "quantisation": quantisation_loss(made, 0.25, reduction),
    }
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(expected.loss[name], rel=1e-5)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, expected.gradients[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_decoder_reaches_the_latent_unchanged_and_the_codebooks_not_at_all() -> None:
    model = quantiser(hidden=(4,))
    made = model(vectors())
    weights = torch.randn(made.quantised.shape, generator=torch.Generator().manual_seed(0))
    to_latent, to_books = torch.autograd.grad(
        (weights * made.quantised).sum(), [made.latent, model.codebooks], allow_unused=True
    )
    torch.testing.assert_close(to_latent, weights, rtol=0, atol=0)
    assert to_books is None


def test_every_level_commits_the_encoder() -> None:
    made = quantiser()(vectors())
    for level in range(LEVELS):
        gap = made.residuals[:, level] - made.codewords[:, level].detach()
        (gradient,) = torch.autograd.grad(gap.square().sum(), made.latent, retain_graph=True)
        torch.testing.assert_close(gradient, 2 * gap.detach())
        assert gradient.abs().max() > 0.1


def test_the_last_level_alone_is_assigned_from_its_squared_distances() -> None:
    model, x = quantiser(), vectors()
    seen = []

    def farthest(distances: Tensor) -> Tensor:
        seen.append(distances)
        return distances.argmax(dim=1)

    plain, made = model(x), model(x, farthest)
    last = ((plain.residuals[:, -1, None] - model.codebooks[-1]) ** 2).sum(2).detach()
    assert len(seen) == 1
    assert not seen[0].requires_grad
    torch.testing.assert_close(seen[0], last, rtol=1e-4, atol=1e-4)
    assert torch.equal(made.codes[:, :-1], plain.codes[:, :-1])
    assert torch.equal(made.codes[:, -1], last.argmax(dim=1))


def test_codes_are_the_nearest_codewords_level_by_level() -> None:
    model, x = quantiser(codes=16), vectors(500)
    model.standardise_by(x)
    np.testing.assert_array_equal(model.codes(x), oracle(model, x.numpy().astype(np.float64), 0.25, "sum").codes)
    assert torch.equal(model.codes(x), model(x).codes)


def test_equal_vectors_have_equal_codes_and_neighbours_do_not_matter() -> None:
    model = quantiser(hidden=(7,), codes=16)
    x = vectors(300)
    codes = model.codes(x)
    order = torch.from_numpy(np.random.default_rng(0).permutation(300))
    assert torch.equal(model.codes(x[order]), codes[order])
    assert torch.equal(model.codes(x.repeat(7, 1)), codes.repeat(7, 1))


def test_the_lowest_of_equally_near_codes_is_taken() -> None:
    model = quantiser()
    with torch.no_grad():
        model.codebooks.fill_(0.5)
    assert model.codes(vectors()).eq(0).all()


def test_vectors_are_centred_and_share_one_scale() -> None:
    """Dimensions keep their proportions, and the mean variance is 1; nothing is divided by zero."""
    model, x = quantiser(), vectors(400) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0])
    x[:, 3], x[:, 4] = 0.1, 0.0
    model.standardise_by(x)
    seen = model.standardised(x)
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(D), rtol=0, atol=1e-5)
    before, after = x.std(dim=0, correction=0), seen.std(dim=0, correction=0)
    torch.testing.assert_close(after / after[0], before / before[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after.square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(seen[:, 3:], torch.zeros(400, 2), rtol=0, atol=1e-6)
    model.standardise_by(torch.full((400, D), 0.1))
    torch.testing.assert_close(model.standardised(torch.full((2, D), 0.1)), torch.zeros(2, D), rtol=0, atol=1e-5)


@pytest.mark.parametrize("initial", ["uniform", "xavier"])
def test_initial_weights_follow_the_generator_and_the_named_law(initial: Any) -> None:
    def made(seed: int) -> ResidualQuantiser:
        return ResidualQuantiser(300, (200,), 8, 2, 4, torch.Generator().manual_seed(seed), initial)

    one, same, other = made(0), made(0), made(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.codebooks, other.codebooks)
    layer = one.encoder[0]
    assert isinstance(layer, torch.nn.Linear)
    variance = 1 / (3 * 300) if initial == "uniform" else 2 / 500
    assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.05)
    assert bool(layer.bias.any()) == (initial == "uniform")

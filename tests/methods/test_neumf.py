"""The NeuMF module: sizes, equations of arXiv 1708.05031, gradients of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from gemsbench.methods.neumf import BOTH, EMBEDDING_STD, NeuMF

U, I = 7, 11  # noqa: E741 (the paper's letters)


def _model(factors: int = 8, parts: tuple[str, ...] = BOTH, seed: int = 0, hidden_layers: int = 3) -> NeuMF:
    return NeuMF(U, I, factors, hidden_layers, parts).initialize(torch.Generator().manual_seed(seed))


def _trained_looking(model: NeuMF, seed: int) -> NeuMF:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.7, generator=generator)
    return model


def _every_pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(U).repeat_interleave(I), torch.arange(I).repeat(U)


@pytest.mark.parametrize("f", [8, 16])
def test_number_of_parameters(f: int) -> None:
    expected = (U + I) * (f + 4 * f) + (8 * f * 4 * f + 4 * f) + (4 * f * 2 * f + 2 * f) + (2 * f * f + f) + (2 * f + 1)
    assert sum(parameter.numel() for parameter in _model(f).parameters()) == expected


def test_shapes_of_the_official_tower() -> None:
    model = _model(8)
    assert [tuple(layer.weight.shape) for layer in model.head.layers()] == [(32, 64), (16, 32), (8, 16)]
    assert {name: tuple(table.shape) for name, table in model.embeddings.items()} == {
        "user_gmf": (U, 8),
        "item_gmf": (I, 8),
        "user_mlp": (U, 32),
        "item_mlp": (I, 32),
    }
    users, items = _every_pair()
    assert model(users, items).shape == (U * I,)


def test_initial_values() -> None:
    model = NeuMF(4000, 10, 8, 3).initialize(torch.Generator().manual_seed(1))
    table = model.embeddings["user_mlp"].detach()
    assert abs(float(table.std()) / EMBEDDING_STD - 1) < 0.02
    assert abs(float(table.mean())) < 1e-4
    for layer in model.head.layers():
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    assert 0.5 * (3 / 16) ** 0.5 < float(model.head.output.weight.detach().abs().max()) <= (3 / 16) ** 0.5


def test_gmf_with_unit_weights_is_the_inner_product() -> None:
    model = _trained_looking(_model(parts=("gmf",)), 3)
    with torch.no_grad():
        model.head.output.weight.fill_(1.0)
        model.head.output.bias.zero_()
    users, items = _every_pair()
    expected = model.embeddings["user_gmf"] @ model.embeddings["item_gmf"].T
    torch.testing.assert_close(model(users, items).reshape(U, I), expected)


def test_mlp_is_the_tower_on_the_concatenation() -> None:
    model = _trained_looking(_model(parts=("mlp",)), 4)
    hidden = torch.cat([model.embeddings["user_mlp"][[2]], model.embeddings["item_mlp"][[5]]], dim=1)
    for layer in model.head.layers():
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    expected = (hidden @ model.head.output.weight.T + model.head.output.bias).squeeze(1)
    torch.testing.assert_close(model(torch.tensor([2]), torch.tensor([5])), expected)


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_pretrained_neumf_is_the_weighted_sum_of_its_parts(alpha: float) -> None:
    gmf, mlp = _trained_looking(_model(parts=("gmf",)), 5), _trained_looking(_model(parts=("mlp",)), 6)
    model = _model(seed=7)
    model.load_pretrained(gmf, mlp, alpha)
    users, items = _every_pair()
    expected = alpha * gmf(users, items) + (1 - alpha) * mlp(users, items)
    torch.testing.assert_close(model(users, items), expected, atol=1e-5, rtol=1e-6)


def test_gradient_touches_only_the_rows_of_the_batch() -> None:
    model = _trained_looking(_model(), 8)
    users, items = torch.tensor([3, 3, 3]), torch.tensor([0, 9, 4])  # one positive, two negatives
    loss = binary_cross_entropy_with_logits(model(users, items), torch.tensor([1.0, 0.0, 0.0]))
    (loss + 0.1 * model.squared_rows(users, items)).backward()
    for name, table in model.embeddings.items():
        gradient = table.grad.to_dense()
        touched = set(gradient.abs().sum(dim=1).nonzero().flatten().tolist())
        assert touched == ({3} if name.startswith("user") else {0, 4, 9}), name


def test_squared_rows_counts_each_row_of_the_batch_once() -> None:
    model = _trained_looking(_model(), 9)
    tables = {name: table.detach() for name, table in model.embeddings.items()}
    expected = sum(float(tables[f"user_{part}"][[3, 5]].square().sum()) for part in BOTH)
    expected += sum(float(tables[f"item_{part}"][[0]].square().sum()) for part in BOTH)
    value = model.squared_rows(torch.tensor([3, 5, 3]), torch.tensor([0, 0, 0])).item()
    assert value == pytest.approx(expected, rel=1e-6)


def test_unknown_users_get_the_mean_row() -> None:
    model = _trained_looking(_model(), 10)
    before = {name: table.detach().clone() for name, table in model.embeddings.items()}
    known = np.array([True, False, True, True, True, False, True])
    model.fill_unknown_users(known)
    for name, table in model.embeddings.items():
        if name.startswith("user"):
            torch.testing.assert_close(table[1], before[name][torch.from_numpy(known)].mean(dim=0))
            torch.testing.assert_close(table[5], table[1])
            torch.testing.assert_close(table[torch.from_numpy(known)], before[name][torch.from_numpy(known)])
        else:
            torch.testing.assert_close(table.detach(), before[name])


def test_scores_are_the_logits_with_item_ids_from_one() -> None:
    model = _trained_looking(_model(), 11)
    users, items = _every_pair()
    scores = model.scores(users.numpy(), items.numpy() + 1)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, model(users, items).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _trained_looking(_model(), 12)
    users, items = (ids.numpy() for ids in _every_pair())
    whole = model.scores(users, items + 1)
    monkeypatch.setattr("gemsbench.methods.neumf.PAIRS_AT_A_TIME", 5)
    np.testing.assert_array_equal(model.scores(users, items + 1), whole)

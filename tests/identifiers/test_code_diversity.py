"""L_div, and the choice of another code of the same group."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gemsbench import seeds
from gemsbench.identifiers.balanced_groups import balanced_groups
from gemsbench.identifiers.code_diversity import CodeGroupTable, diversity_loss
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser

GROUPS = torch.tensor([[0, 1, 0, 2, 1, 0], [1, 1, 0, 0, 1, 1]])  # two levels; code 3 of the first is a group of one


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(n: int, levels: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(seeds.stream(seed, "draws").random((n, levels)))


def test_a_case_by_hand() -> None:
    codebook = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, -1.0]]])
    codes, positives = torch.tensor([[0], [2]]), torch.tensor([[2], [1]])
    first = -math.log(math.exp(2) / (math.exp(0) + math.exp(2) + math.exp(1)))  # 0 against 1, 2, 3
    second = -math.log(math.exp(1) / (math.exp(2) + math.exp(1) + math.exp(1)))  # 2 against 0, 1, 3
    torch.testing.assert_close(diversity_loss(codebook, codes, positives), torch.tensor((first + second) / 2))


def test_it_is_the_mean_over_items_and_levels_of_the_formula() -> None:
    codebooks, table = random(2, 6, 4), CodeGroupTable.of(GROUPS)
    codes = torch.from_numpy(seeds.stream(0, "codes").integers(0, 6, (50, 2)))
    positives = table.others(codes, draws(50, 2))
    total = 0.0
    for item in range(50):
        for level in range(2):
            own, other = int(codes[item, level]), int(positives[item, level])
            products = codebooks[level] @ codebooks[level, own]
            if own != other:
                rest = [float(products[j]) for j in range(6) if j != own]
                total += math.log(sum(map(math.exp, rest))) - float(products[other])
    torch.testing.assert_close(diversity_loss(codebooks, codes, positives), torch.tensor(total / 100))


def test_the_own_code_is_not_among_the_255_others() -> None:
    codebooks = torch.zeros(1, 256, 4)
    codes, positives = torch.tensor([[7]]), torch.tensor([[9]])
    torch.testing.assert_close(diversity_loss(codebooks, codes, positives), torch.tensor(math.log(255)))
    codebooks[0, 7] = 1e-3  # <e_7, e_7> alone changes
    torch.testing.assert_close(diversity_loss(codebooks, codes, positives), torch.tensor(math.log(255)))


def test_it_is_lower_when_the_code_moves_towards_its_group() -> None:
    codebooks = torch.eye(6)[None]
    codes, positives = torch.tensor([[0]]), torch.tensor([[2]])
    values = []
    for share in (0.0, 0.3, 0.6):
        moved = codebooks.clone()
        moved[0, 0] += share * codebooks[0, 2]
        values.append(float(diversity_loss(moved, codes, positives)))
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_codebooks_alone_learn() -> None:
    model = ResidualQuantiser(6, [8], 4, 2, 6, torch.Generator().manual_seed(0))
    found = model(random(20, 6))
    positives = CodeGroupTable.of(GROUPS).others(found.codes, draws(20, 2))
    diversity_loss(model.codebooks, found.codes, positives).backward()
    assert model.codebooks.grad is not None
    assert model.codebooks.grad.isfinite().all()
    assert (model.codebooks.grad != 0).any(dim=2).all()  # every code is among the others of some other
    untouched = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert all(parameter.grad is None for parameter in untouched)


def test_a_group_of_one_adds_nothing() -> None:
    codebooks = random(2, 6, 4).requires_grad_()
    codes = torch.tensor([[3, 0], [0, 2]])
    positives = CodeGroupTable.of(GROUPS).others(codes, draws(2, 2))
    assert positives[0, 0] == 3
    loss = diversity_loss(codebooks, codes, positives)
    loss.backward()
    assert loss.isfinite()
    assert codebooks.grad is not None
    assert codebooks.grad.isfinite().all()
    silent = diversity_loss(codebooks[:1], codes[:1, :1], positives[:1, :1])
    assert silent == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_other_code_is_another_one_of_the_group(seed: int) -> None:
    rows = seeds.stream(seed, "rows").normal(size=(3, 64, 8))
    groups = np.stack([balanced_groups(level, 5, seeds.stream(seed, "groups")) for level in rows])
    table = CodeGroupTable.of(torch.from_numpy(groups))
    codes = torch.from_numpy(seeds.stream(seed, "codes").integers(0, 64, (2000, 3)))
    for uniform in (draws(2000, 3, seed), torch.zeros(2000, 3), torch.full((2000, 3), 1.0)):
        others = table.others(codes, uniform)
        assert (others != codes).all()
        level = np.arange(3)
        np.testing.assert_array_equal(groups[level, others.numpy()], groups[level, codes.numpy()])


def test_every_other_member_is_as_likely() -> None:
    table = CodeGroupTable.of(GROUPS)
    codes = torch.zeros((30_000, 2), dtype=torch.int64)
    others = table.others(codes, draws(30_000, 2))
    first = np.bincount(others[:, 0].numpy(), minlength=6) / 30_000
    second = np.bincount(others[:, 1].numpy(), minlength=6) / 30_000
    np.testing.assert_allclose(first, [0, 0, 1 / 2, 0, 0, 1 / 2], atol=0.02)
    np.testing.assert_allclose(second, [0, 1 / 3, 0, 0, 1 / 3, 1 / 3], atol=0.02)

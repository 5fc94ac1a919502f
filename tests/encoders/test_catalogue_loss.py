"""Cross-entropy in blocks against torch's own on the full matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gemsbench.encoders.catalogue_loss import POSITIONS_AT_A_TIME, catalogue_cross_entropy


def _drawn(positions: int, items: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(positions)
    states = scale * torch.randn(positions, 6, generator=generator)
    rows = scale * torch.randn(items, 6, generator=generator)
    labels = torch.randint(items, (positions,), generator=generator)
    return states.requires_grad_(), rows.requires_grad_(), labels


@pytest.mark.parametrize("positions", [1, POSITIONS_AT_A_TIME - 1, POSITIONS_AT_A_TIME, 2 * POSITIONS_AT_A_TIME + 3])
@pytest.mark.parametrize("scale", [1.0, 12.0])  # products of hundreds: exp of them overflows
def test_loss_and_gradients_are_those_of_the_full_matrix(positions: int, scale: float) -> None:
    states, rows, labels = _drawn(positions, 17, scale)
    expected = cross_entropy(states.double() @ rows.double().T, labels, reduction="sum")
    gradients = torch.autograd.grad(3 * expected, [states, rows])
    found = catalogue_cross_entropy(states, rows, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(3 * found, [states, rows]), gradients, rtol=1e-4, atol=1e-3)


def test_a_label_twice_in_a_block_counts_twice() -> None:
    states, rows, _ = _drawn(2, 5)
    same = torch.tensor([3, 3])
    alone = [catalogue_cross_entropy(states[n : n + 1], rows, same[:1]) for n in range(2)]
    torch.testing.assert_close(catalogue_cross_entropy(states, rows, same), sum(alone))


def test_no_position_no_loss() -> None:
    states, rows, labels = _drawn(1, 5)
    loss = catalogue_cross_entropy(states[:0], rows, labels[:0])
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, rows)[0].any()


def test_autocast_changes_nothing() -> None:
    states, rows, labels = _drawn(5, 17)
    plain = catalogue_cross_entropy(states, rows, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = catalogue_cross_entropy(states, rows, labels)
        half = catalogue_cross_entropy(states.bfloat16(), rows, labels)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, plain)
    torch.testing.assert_close(half, plain, rtol=0.01, atol=0)
    for one, other in zip(*(torch.autograd.grad(loss, [states, rows]) for loss in (found, plain)), strict=True):
        assert torch.equal(one, other)

"""The exact second moment against the formula on all rows at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gemsbench.optim.feature_moments import SecondMoment, Spectrum

CPU = torch.device("cpu")


def features(rows: int = 400, width: int = 24, seed: int = 0) -> Tensor:
    """Rows with a mean and with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    scales = 3.0 * 0.8 ** torch.arange(width)
    return torch.randn((rows, width), generator=generator) * scales + 0.5


def of(parts: list[Tensor]) -> Spectrum:
    moment = SecondMoment(parts[0].shape[1], CPU)
    for part in parts:
        moment.add(part)
    return moment.spectrum()


def test_it_is_the_uncentred_moment_of_all_rows() -> None:
    rows = features()
    found = of(list(rows.split(61)))
    dense = rows.double().T @ rows.double() / len(rows)
    again = found.vectors @ found.values.diag() @ found.vectors.T
    assert torch.allclose(again, dense, atol=1e-6 * float(dense.norm()))
    assert found.trace == pytest.approx(float(dense.trace()), rel=1e-6)
    assert found.count == len(rows) and found.width == rows.shape[1]


def test_eigenvalues_descend_and_vectors_are_orthonormal() -> None:
    found = of([features()])
    assert bool((found.values.diff() <= 0).all()) and float(found.values[-1]) >= 0
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(24, dtype=torch.float64), atol=1e-12)
    largest = found.vectors.abs().argmax(dim=0)
    assert bool((found.vectors[largest, torch.arange(24)] > 0).all())  # signs are fixed


def test_the_first_vector_is_the_direction_of_a_mean_that_dominates() -> None:
    mean = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)
    rows = 50 * mean + torch.randn((200, 8), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(of([rows]).vectors[:, 0].float(), mean, atol=0.01)  # positive: the sign is fixed


def test_how_rows_are_cut_into_batches_hardly_matters() -> None:
    rows = features()
    one, many = of([rows]), of(list(rows.split(7)))
    assert torch.allclose(one.values, many.values, rtol=1e-5, atol=1e-6 * one.trace)


def test_sums_do_not_lose_small_features_behind_large_ones() -> None:
    """A float32 running sum would: 2 x 10^7 + 1 is 2 x 10^7 there."""
    moment = SecondMoment(1, CPU)
    moment.add(torch.full((1, 1), 2.0e4))
    for _ in range(1000):
        moment.add(torch.full((1, 1), 1.0))
    assert moment.spectrum().trace * 1001 == pytest.approx(4.0e8 + 1000, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_of_other_precisions_are_summed_in_float32(dtype: torch.dtype) -> None:
    rows = features().to(dtype)
    assert torch.equal(of([rows]).values, of([rows.float()]).values)


def test_no_features_and_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="every position is masked out"):
        SecondMoment(4, CPU).spectrum()
    moment = SecondMoment(2, CPU)
    moment.add(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        moment.spectrum()

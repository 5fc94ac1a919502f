"""The balanced plan against a plain log-domain oracle, also where float32 and single exponentials fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

from gemsbench.errors import InputError
from gemsbench.identifiers.sinkhorn import balanced_codes, sinkhorn


def distances(rows: int, codes: int, seed: int = 0) -> Tensor:
    """From rows to codes that lie to one side of them: a few codes are nearest to nearly all rows."""
    rng = np.random.default_rng(seed)
    points, centres = rng.normal(size=(rows, 1, 8)), 1 + 0.3 * rng.normal(size=(codes, 8))
    return torch.from_numpy(((points - centres) ** 2).sum(2).astype(np.float32))


def oracle(given: Tensor, epsilon: float, iterations: int) -> npt.NDArray[Any]:
    values = given.numpy().astype(np.float64)
    least, most = values.min(), values.max()
    cost = (2 * (values - least) / (most - least) - 1) / epsilon
    row = np.zeros((len(values), 1))
    for _ in range(iterations):
        column = np.log(values.shape[0] / values.shape[1]) - logsumexp(row - cost, axis=0)
        row = -logsumexp(column - cost, axis=1, keepdims=True)
    return np.exp(row + column - cost)


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.003, 1e-5, 1e-8])
@pytest.mark.parametrize("shape", [(96, 24), (7, 16), (1, 4)])
def test_the_plan_is_that_of_the_log_domain(epsilon: float, shape: tuple[int, int]) -> None:
    given = distances(*shape)
    plan = sinkhorn(given, epsilon, 50)
    assert plan.dtype == torch.float64
    # Potentials of 1 / epsilon keep about so many digits.
    np.testing.assert_allclose(plan, oracle(given, epsilon, 50), rtol=0, atol=1e-14 + 1e-15 / epsilon)
    np.testing.assert_allclose(plan.sum(1), 1.0, rtol=1e-12 + 1e-15 / epsilon)


@pytest.mark.parametrize("shape", [(1024, 256), (512, 64)])
def test_columns_are_equal_within_a_percent(shape: tuple[int, int]) -> None:
    columns = sinkhorn(distances(*shape), 0.01, 100).sum(0)
    np.testing.assert_allclose(columns, shape[0] / shape[1], rtol=0.01)


def test_the_codes_are_far_more_even_than_the_nearest_ones() -> None:
    given = distances(1024, 64)
    nearest, balanced = given.argmin(1), balanced_codes(given, 0.003, 50)
    assert torch.bincount(nearest, minlength=64).max() > 100
    assert torch.bincount(balanced, minlength=64).max() <= 20
    assert torch.bincount(balanced, minlength=64).min() >= 12


@pytest.mark.parametrize("epsilon", [0.05, 0.003, 1e-6])
def test_where_the_nearest_codes_are_even_they_are_kept(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    given = rng.uniform(1, 2, (60, 12))
    wanted = rng.permutation(np.arange(60) % 12)
    given[np.arange(60), wanted] -= 1
    assert torch.equal(balanced_codes(torch.from_numpy(given), epsilon, 50), torch.from_numpy(wanted))


def test_scale_and_shift_of_the_distances_do_not_matter() -> None:
    given = distances(128, 32).double()
    torch.testing.assert_close(sinkhorn(1000 * given + 7, 0.01, 30), sinkhorn(given, 0.01, 30), rtol=1e-6, atol=1e-9)


def test_equal_distances_give_an_even_plan() -> None:
    torch.testing.assert_close(sinkhorn(torch.ones(6, 4), 0.003, 5), torch.full((6, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 5), (-1.0, 5), (float("nan"), 5), (0.1, 0)])
def test_settings_out_of_range_are_refused(epsilon: float, iterations: int) -> None:
    with pytest.raises(InputError, match="must be positive"):
        sinkhorn(torch.ones(2, 2), epsilon, iterations)

"""The sketched second moment against eigh of the exact one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gemsbench.optim.feature_moments import SecondMoment, Spectrum
from gemsbench.optim.nystroem import StreamingMoment, sketching_matrix

CPU = torch.device("cpu")
WIDTH, KEPT, COLUMNS = 512, 64, 128


def features(decay: float, outlier: float = 0.0, rows: int = 2000, width: int = WIDTH) -> Tensor:
    """Rows of a power-law spectrum in a random basis; outlier: size of one direction that dwarfs the others."""
    generator = torch.Generator().manual_seed(4)
    scales = torch.arange(1, width + 1).double() ** (-decay / 2)
    scales[0] += outlier
    basis = torch.linalg.qr(torch.randn((width, width), generator=generator, dtype=torch.float64)).Q
    return ((torch.randn((rows, width), generator=generator, dtype=torch.float64) * scales) @ basis).float()


def exact(rows: Tensor) -> Spectrum:
    moment = SecondMoment(rows.shape[1], CPU)
    moment.add(rows)
    return moment.spectrum()


def sketched(rows: Tensor, columns: int = COLUMNS, seed: int = 0) -> Spectrum:
    moment = StreamingMoment(sketching_matrix(rows.shape[1], columns, seed, CPU))
    for part in rows.split(173):
        moment.add(part)
    return moment.spectrum()


def energy(rows: Tensor, basis: Tensor) -> float:
    """Squared length of the rows in the span of basis."""
    return float((rows.double() @ basis).square().sum())


@pytest.mark.parametrize(("decay", "share"), [(1.0, 0.965), (1.5, 0.99), (2.0, 0.999), (3.0, 0.9999)])
def test_its_leading_directions_hold_the_energy_of_the_best_ones(decay: float, share: float) -> None:
    rows = features(decay)
    best, found = exact(rows).vectors[:, :KEPT], sketched(rows).vectors[:, :KEPT]
    assert share * energy(rows, best) <= energy(rows, found) <= energy(rows, best)


def test_leading_directions_are_those_of_eigh() -> None:
    rows = features(3.0)
    best, found = exact(rows).vectors, sketched(rows).vectors
    cosines = torch.linalg.svdvals(best[:, :16].T @ found[:, :16])  # of the principal angles
    assert float(cosines.min()) > 0.9999
    # All but a few of the kept ones lie among the best; the last ones mix with their neighbours of nearly equal value.
    assert float((found[:, :KEPT].T @ best[:, :COLUMNS]).square().sum()) > 0.99 * KEPT


def test_eigenvalues_and_trace_are_those_of_the_moment() -> None:
    rows = features(2.0)
    best, found = exact(rows), sketched(rows)
    assert torch.allclose(found.values[:16], best.values[:16], rtol=0.03)
    assert bool((found.values <= best.values[: len(found.values)] * (1 + 1e-5)).all())  # it never claims too much
    assert found.trace == pytest.approx(best.trace, rel=1e-6) and found.count == len(rows)


@pytest.mark.parametrize("outlier", [30.0, 300.0, 3000.0])
def test_one_huge_direction_does_not_hide_the_others(outlier: float) -> None:
    """Language models have such; the rounding noise of float32 sums would drown the rest."""
    rows = features(2.0, outlier=outlier)
    direct = torch.linalg.svd(rows.double(), full_matrices=False).Vh.T
    found = sketched(rows)
    assert energy(rows, found.vectors[:, 1:KEPT]) >= 0.99 * energy(rows, direct[:, 1:KEPT])
    assert found.vectors.shape[1] == COLUMNS


def test_vectors_are_orthonormal_and_values_descend() -> None:
    found = sketched(features(2.0))
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(found.vectors.shape[1]).double(), atol=1e-10)
    assert bool((found.values.diff() <= 0).all())


def test_features_of_low_rank_are_known_exactly() -> None:
    rows = features(2.0)[:, :12] @ torch.randn((12, WIDTH), generator=torch.Generator().manual_seed(2))
    best, found = exact(rows), sketched(rows)
    assert torch.linalg.svdvals(best.vectors[:, :12].T @ found.vectors[:, :12]).min() > 1 - 1e-6
    assert float(found.values[12:].sum()) < 1e-5 * found.trace


class _Largest(TorchDispatchMode):
    """Notes the number of values of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return made


def test_nothing_of_the_size_of_the_moment_is_ever_made() -> None:
    rows = features(2.0, rows=300)
    with _Largest() as seen:
        sketched(rows)
    assert 0 < seen.largest <= WIDTH * COLUMNS + 300 * WIDTH < WIDTH * WIDTH
    with _Largest() as exactly:
        exact(rows)
    assert exactly.largest >= WIDTH * WIDTH  # the check sees it where it is made


def test_the_seed_decides_and_only_the_sketch_depends_on_it() -> None:
    rows = features(2.0)
    assert torch.equal(sketched(rows, seed=1).vectors, sketched(rows, seed=1).vectors)
    one, other = sketched(rows, seed=1), sketched(rows, seed=2)
    assert not torch.equal(one.vectors, other.vectors) and one.trace == other.trace


def test_nothing_added_is_refused() -> None:
    with pytest.raises(ValueError, match="every position is masked out"):
        StreamingMoment(sketching_matrix(8, 4, 0, CPU)).spectrum()

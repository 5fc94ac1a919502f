"""The leading part of a second moment in one pass and without an n x n matrix, for wide layers.

Nystroem approximation from a sketch (Tropp, Yurtsever, Udell, Cevher, arXiv 1706.05736): with C = E[x x^T] and a test
matrix Omega [n, l], only Y = C Omega is kept, and C is close to Y (Omega^T Y)^+ Y^T. All products are float64: a few
features of a language model are so large that the rounding noise of float32 would cover the small eigenvalues. The
paper makes Omega^T Y invertible by a small shift; here its directions below the rounding noise are left out instead.

Measured at n = 512, k = 64, l = 2 k, against the best k directions: eigenvalues that fall like i^-2 keep 99.97 % of the
energy, like i^-1.5 99.6 %, like 1/i 97.0 %. One pass cannot do better where the spectrum is nearly flat.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gemsbench.optim.feature_moments import Spectrum, check_total, signed


class StreamingMoment:
    """Y = sum of x (x^T Omega) / count over streamed rows x, kept in float64 [n, l]."""

    def __init__(self, test: Tensor) -> None:
        """test: Omega, float64 [n, l] with orthonormal columns; see `sketching_matrix`."""
        self._test = test
        self._total = torch.zeros_like(test)
        self._squares = torch.zeros((), dtype=torch.float64, device=test.device)
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Take in features [T, n] of any floating type: 4 T n l operations, T n + T l + n l numbers."""
        rows = rows.double()
        self._total.addmm_(rows.T, rows @ self._test)
        self._squares += rows.square().sum()
        self._count += len(rows)

    def spectrum(self) -> Spectrum:
        """At most l leading eigenpairs; raises ValueError when nothing was added, or a value was NaN or infinite."""
        check_total(self._total, self._count)
        sketch = self._total / self._count
        core = self._test.T @ sketch
        values, vectors = _above_noise(core)
        root = sketch @ (vectors / values.sqrt())  # C is close to root root^T
        values, vectors = _above_noise(root.T @ root)  # seconds, where an SVD of root takes minutes
        left, triangle = torch.linalg.qr(root @ (vectors / values.sqrt()))
        left = left * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        return Spectrum(values, signed(left), float(self._squares) / self._count, self._count)


def _above_noise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending) and eigenvectors of a positive matrix, float64, without those of rounding size."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    noise = torch.finfo(torch.float64).eps * len(values) * values[-1].clamp(min=0)
    kept = int((values > noise).sum())
    return values.flip(0)[:kept], vectors.flip(1)[:, :kept]


def sketching_matrix(width: int, columns: int, seed: int, device: torch.device) -> Tensor:
    """Omega: float64 [width, columns], orthonormal columns that span a Gaussian subspace; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn((width, columns), generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(gaussian).Q
    return basis.to(device)

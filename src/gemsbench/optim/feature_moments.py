"""The exact second moment of a layer's features, for widths at which an n x n matrix is cheap.

Uncentred: what a linear layer must keep is W x for every known x, the mean of x included (arXiv 2601.09496, Eq. 18).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST_EXACT = 4096  # above it, 36 layers of n x n numbers no longer fit beside a model


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (float64 [l], descending) and eigenvectors (float64 [n, l]) of C = E[x x^T].

    l is n, or fewer where only the leading part is known. trace: of C, the energy of all n directions.
    """

    values: Tensor
    vectors: Tensor
    trace: float
    count: int  # of the features

    @property
    def width(self) -> int:
        """Dimension n of the features."""
        return len(self.vectors)


class SecondMoment:
    """C = sum of x x^T / count over streamed rows x, kept in float64 [n, n]."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._total = torch.zeros((width, width), dtype=torch.float64, device=device)
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Take in features [T, n] of any floating type; one float32 product, added in float64."""
        rows = rows.float()
        self._total += rows.T @ rows
        self._count += len(rows)

    def spectrum(self) -> Spectrum:
        """All n eigenpairs; raises ValueError when nothing was added, or a value was NaN or infinite."""
        check_total(self._total, self._count)
        moment = self._total / self._count
        values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
        return Spectrum(values.flip(0).clamp(min=0), signed(vectors.flip(1)), float(moment.trace()), self._count)


def check_total(total: Tensor, count: int) -> None:
    """Raise ValueError unless features were added and their sums are finite."""
    if not count:
        raise ValueError("no feature was added: every position is masked out. Give text with at least one token.")
    if not bool(torch.isfinite(total).all()):
        raise ValueError("the features hold NaN or infinity. Run the model in float32 or bfloat16.")


def signed(vectors: Tensor) -> Tensor:
    """Columns [n, l] turned so that the entry of largest size is positive: the sign of an eigenvector is arbitrary."""
    if not vectors.numel():
        return vectors
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)

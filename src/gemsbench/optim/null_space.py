"""The projector that keeps what a model knows: updates without a part along its features (Eq. 19-20).

The paper prints U U^T, which projects onto the knowledge, applied from the left, where the sizes do not fit; its text,
and what it is for, say I - U U^T on the side of the inputs: W x stays as it is for every x in the span of U.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Projector:
    """P = I - U U^T (complement) or U U^T (literal, the ablation) for one matrix.

    directions: U, [d, k] with orthonormal columns. side: whether d counts inputs (columns of W) or outputs (rows).
    """

    directions: Tensor
    side: Literal["input", "output"]
    form: Literal["complement", "literal"]

    @property
    def rank(self) -> int:
        """The number of dimensions that P leaves."""
        width, k = self.directions.shape
        return width - k if self.form == "complement" else k

    def apply(self, rows: Tensor) -> Tensor:
        """Rows [.., d] times P, at 4 d k operations a row; P itself is never formed."""
        known = (rows @ self.directions.to(rows)) @ self.directions.T.to(rows)
        return rows - known if self.form == "complement" else known

"""Many token-id sequences of different lengths as one flat array: prompts and targets by the million."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gemsbench.evaluation.ragged import Int64Array, gather, offsets_of

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenLists:
    """n sequences laid end to end; sequence r is ids[offsets[r]:offsets[r + 1]]."""

    ids: Int32Array  # [N]
    offsets: Int64Array  # [n + 1]

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> TokenLists:
        """From a few sequences of ints (a Python loop: not for millions)."""
        ids = np.fromiter((token for row in rows for token in row), dtype=np.int32)
        return TokenLists(ids, offsets_of(np.array([len(row) for row in rows], dtype=np.int64)))

    @staticmethod
    def join(parts: Sequence[TokenLists]) -> TokenLists:
        """The sequences of all parts, one part after the other."""
        ids = np.concatenate([np.empty(0, dtype=np.int32), *(part.ids for part in parts)], dtype=np.int32)
        lengths = np.concatenate([np.empty(0, dtype=np.int64), *(part.lengths for part in parts)])
        return TokenLists(ids, offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int32Array:
        """Sequence number row, int32; a view."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Number of tokens of each sequence, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, rows: npt.NDArray[np.integer]) -> TokenLists:
        """The sequences named by rows (non-negative), in that order."""
        return TokenLists(*gather(self.ids, self.offsets, np.asarray(rows, dtype=np.int64)))

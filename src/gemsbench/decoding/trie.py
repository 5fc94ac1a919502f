"""Tries of identifiers as arrays: what a tree of candidates feeds to a model, and what it reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
Int64Array = npt.NDArray[np.int64]
ABSENT = -1


@dataclass(frozen=True)
class PackedTree:
    """The trie of C identifiers of at most L tokens, level by level.

    Nodes are the N distinct proper prefixes (the root is the empty one): each is fed to the model once. Steps are the E
    distinct non-empty prefixes: step e goes out from a node and its log-probability is read there. All arrays int64.
    """

    tokens: Int64Array  # [N] the last token of the prefix; -1 at the root
    parents: Int64Array  # [N] nodes; the root is its own parent
    depths: Int64Array  # [N] 0 at the root
    step_nodes: Int64Array  # [E] ascending
    step_tokens: Int64Array  # [E] ascending among the steps of one node
    step_before: Int64Array  # [E] the step that leads to step_nodes; -1 at the root
    paths: Int64Array  # [C, L] the steps of every identifier; -1 behind its end

    @property
    def n_nodes(self) -> int:
        """N, the number of tokens to feed."""
        return len(self.tokens)

    def totals(self, log_probs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Log-probabilities [E] of all prefixes from those of the single steps [E]."""
        on_path = self.paths >= 0
        totals = np.zeros(len(self.step_nodes))
        sums = np.cumsum(np.where(on_path, log_probs.astype(np.float64)[self.paths], 0.0), axis=1)
        totals[self.paths[on_path]] = sums[on_path]
        return totals

    def last_steps(self) -> Int64Array:
        """The step [C] that every identifier ends with."""
        lengths = (self.paths >= 0).sum(axis=1)
        last: Int64Array = self.paths[np.arange(len(self.paths)), lengths - 1]
        return last


def identifier_rows(candidates: IntArray, where: str = "identifiers") -> Int64Array:
    """The table [C, L] as int64 without columns that are absent everywhere.

    Raises ValueError for another shape or dtype, an empty table or row, a negative id, and an absent token before a
    present one.
    """
    rows = np.asarray(candidates)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or 0 in rows.shape:
        raise ValueError(f"{where}: expected a non-empty integer table [C, L], got {rows.dtype} {list(rows.shape)}")
    table: Int64Array = rows.astype(np.int64)
    present = table >= 0
    wrong = (table < ABSENT).any(axis=1) | ~present[:, 0] | (present[:, 1:] & ~present[:, :-1]).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{where}: row {row} is {table[row].tolist()}; an identifier has at least one token, "
            f"and {ABSENT} (absent) stands behind its last one only"
        )
    return table[:, : int(present.sum(axis=1).max())]


def with_end(rows: Int64Array, end_token: int | None) -> Int64Array:
    """The table [C, L + 1] in which every identifier is followed by the end token; [C, L] as it is when None."""
    if end_token is None:
        return rows
    longer = np.pad(rows, ((0, 0), (0, 1)), constant_values=ABSENT)
    longer[np.arange(len(rows)), (rows >= 0).sum(axis=1)] = end_token
    return longer


def pack(candidates: IntArray) -> PackedTree:
    """The tree of a table of identifiers [C, L], -1 = absent; equal rows share one path (see identifier_rows)."""
    rows = identifier_rows(candidates)
    base = int(rows.max()) + 1
    paths = np.full(rows.shape, ABSENT)
    last = np.full(len(rows), ABSENT)  # the step that every identifier has reached
    before, tokens, levels = [], [], []
    n_steps = 0
    for level, column in enumerate(rows.T):
        here = np.flatnonzero(column >= 0)
        keys, inverse = np.unique((last[here] + 1) * base + column[here], return_inverse=True)
        last[here] = paths[here, level] = n_steps + inverse
        before.append(keys // base - 1)
        tokens.append(keys % base)
        levels.append(np.full(len(keys), level + 1))
        n_steps += len(keys)
    step_before, step_tokens, step_depths = (np.concatenate(parts) for parts in (before, tokens, levels))
    inner = np.unique(step_before)  # -1, the root, first; then by level
    step_nodes = np.searchsorted(inner, step_before)
    return PackedTree(
        tokens=np.append(ABSENT, step_tokens[inner[1:]]),
        parents=np.append(0, step_nodes[inner[1:]]),
        depths=np.append(0, step_depths[inner[1:]]),
        step_nodes=step_nodes,
        step_tokens=step_tokens,
        step_before=step_before,
        paths=paths,
    )


class Trie:
    """The trie of a table of identifiers [C, L], -1 = absent; raises ValueError like identifier_rows."""

    def __init__(self, rows: IntArray) -> None:
        self._rows = identifier_rows(rows)
        self._tree = pack(self._rows)
        self._ends = np.unique(self._tree.last_steps())

    def children(self, prefix: Sequence[int]) -> Int64Array:
        """The tokens that may follow the prefix, ascending; none where no identifier goes on from it."""
        step = self._find(prefix)
        return self._tree.step_tokens[self._following(step)] if step is not None else np.zeros(0, dtype=np.int64)

    def contains(self, identifier: Sequence[int]) -> bool:
        """Whether the tokens are a whole identifier of the table."""
        step = self._find(identifier)
        return step is not None and bool(np.isin(step, self._ends))

    def pack(self, candidates: IntArray) -> PackedTree:
        """The tree of some rows of the table, given by their numbers [C]."""
        return pack(self._rows[candidates])

    def _following(self, step: int) -> slice:
        low, high = np.searchsorted(self._tree.step_before, [step, step + 1])
        return slice(int(low), int(high))

    def _find(self, prefix: Sequence[int]) -> int | None:
        step = ABSENT  # the empty prefix
        for token in prefix:
            following = self._following(step)
            tokens = self._tree.step_tokens[following]
            place = int(np.searchsorted(tokens, token))
            if place == len(tokens) or tokens[place] != token:
                return None
            step = following.start + place
        return step

"""Training pairs (user, item) as one sorted key array, and uniform negatives drawn against it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.sorted_keys import Int64Array, contains


@dataclass(frozen=True)
class TrainPairs:
    """Distinct training pairs; a pair is the key user * n_items + index, where index = item_id - 1."""

    keys: Int64Array  # [N], ascending
    n_users: int
    n_items: int

    @staticmethod
    def of(events: pl.DataFrame, n_users: int, n_items: int) -> TrainPairs:
        """The distinct pairs of events (columns user_id, item_id), whatever their order.

        Raises InputError when there are none, or when a user has every item, so that no negative exists.
        """
        user = events["user_id"].cast(pl.Int64).to_numpy()
        item = events["item_id"].cast(pl.Int64).to_numpy()
        pairs = TrainPairs(np.unique(user * n_items + item - 1), n_users, n_items)
        if pairs.keys.size == 0:
            raise InputError("there are no training events of the task that this method learns from.")
        counts = np.bincount(pairs.users, minlength=n_users)
        if counts.max() >= n_items:
            raise InputError(
                f"user {int(counts.argmax())} has all {n_items} items in training, so no negative can be drawn. "
                "Use more items, or leave such users out."
            )
        return pairs

    @cached_property
    def users(self) -> Int64Array:
        """User of each pair, int64 [N]."""
        return self.keys // self.n_items

    @cached_property
    def items(self) -> Int64Array:
        """Item index (item_id - 1) of each pair, int64 [N]."""
        return self.keys % self.n_items

    @cached_property
    def known_users(self) -> npt.NDArray[np.bool_]:
        """Whether a user has a training pair, bool [n_users]."""
        return np.bincount(self.users, minlength=self.n_users) > 0

    def negatives(self, users: Int64Array, rng: np.random.Generator) -> Int64Array:
        """One item index per user, uniform over the catalogue without the user's training items: int64, like users.

        Items of validation and test cases are drawn like any other: leaving them out would give them away.
        """
        items = rng.integers(self.n_items, size=users.shape)
        rejected = np.flatnonzero(contains(self.keys, users * self.n_items + items))
        while rejected.size:
            items[rejected] = rng.integers(self.n_items, size=rejected.size)
            still = contains(self.keys, users[rejected] * self.n_items + items[rejected])
            rejected = rejected[still]
        return items

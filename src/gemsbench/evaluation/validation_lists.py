"""Validation lists of one task, for choosing among models: NDCG@10, and Hit@10 of any part of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.evaluation.metrics import hit, ndcg, rank_positives
from gemsbench.evaluation.ragged import flatten
from gemsbench.evaluation.sorted_keys import Int64Array, contains


@dataclass(frozen=True)
class ValidationLists:
    """Candidates of Q validation cases laid end to end; case q has items[offsets[q]:offsets[q + 1]]."""

    users: Int64Array  # [N] user of each candidate
    items: Int64Array  # [N] item_id
    offsets: Int64Array  # [Q + 1]
    positive: npt.NDArray[np.bool_]  # [N]

    @staticmethod
    def of(cases: pl.DataFrame, candidates: pl.DataFrame, task: str) -> ValidationLists:
        """The task's validation cases with their candidates; raises InputError when there is none."""
        asked = cases.filter((pl.col("split") == "valid") & (pl.col("task") == task)).select("case_id", "user_id")
        lists = asked.join(candidates.select("case_id", "items", "positives"), on="case_id").sort("case_id")
        if lists.is_empty():
            raise InputError(f"there are no validation cases with candidates for task '{task}'; training needs them.")
        items, offsets = flatten(lists["items"])
        positives, positive_offsets = flatten(lists["positives"])
        stride = int(max(items.max(), positives.max(initial=0))) + 1
        owner = np.repeat(np.arange(lists.height), np.diff(offsets))
        positive_owner = np.repeat(np.arange(lists.height), np.diff(positive_offsets))
        positive = contains(np.sort(positive_owner * stride + positives), owner * stride + items)
        users = lists["user_id"].cast(pl.Int64).to_numpy()[owner]
        return ValidationLists(users, items.astype(np.int64), offsets, positive)

    @property
    def n_cases(self) -> int:
        """Number of validation cases."""
        return len(self.offsets) - 1

    def ndcg10(self, scores: npt.NDArray[np.float32]) -> float:
        """Mean NDCG@10 of scores (float32 [N]); ties count against the positive."""
        ranks = rank_positives(scores, self.offsets, self.positive)
        return float(ndcg(ranks.ranks, ranks.offsets, 10).mean())

    def hit10(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Hit@10 of each case, float64 [Q] of 0 and 1."""
        return hit(rank_positives(scores, self.offsets, self.positive).best, 10)

    def positive_in(self, items: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether a positive of the case is one of items (sorted item ids), bool [Q]."""
        found = contains(items, self.items) & self.positive
        any_found: npt.NDArray[np.bool_] = np.logical_or.reduceat(found, self.offsets[:-1])
        return any_found

    def negatives_in(self, items: Int64Array) -> Int64Array:
        """How many negatives of each case are among items (sorted item ids), int64 [Q]."""
        found = contains(items, self.items) & ~self.positive
        counts: Int64Array = np.add.reduceat(found.astype(np.int64), self.offsets[:-1])
        return counts

"""Validation of a generative method while it is trained: NDCG@10 of a fixed subset of the validation cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from gemsbench.methods.generative_scoring import IdentifierRanker
from gemsbench.methods.sorted_keys import Int64Array
from gemsbench.methods.validation import ValidationLists
from gemsbench.training.examples import validation_questions

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

WARM_NEGATIVES = 20  # a case says something about warm items alone when it has at least so many


@dataclass(frozen=True)
class Validation:
    """Questions and candidate lists per task, in the same order of cases."""

    questions: Mapping[str, pl.DataFrame]
    lists: Mapping[str, ValidationLists]

    @staticmethod
    def of(data: TrainingData, tasks: tuple[str, ...], limit: int) -> Validation:
        """At most `limit` cases per task, the same ones for every method and seed; raises InputError when none."""
        asked = {task: validation_questions(data, task, limit) for task in tasks}
        lists = {}
        for task, questions in asked.items():
            chosen = data.cases.join(questions.select("case_id"), on="case_id", how="semi")
            lists[task] = ValidationLists.of(chosen, data.valid_candidates, task)
        return Validation(asked, lists)

    def measure(self, ranker: IdentifierRanker) -> dict[str, float]:
        """Mean NDCG@10 over the tasks, as "criterion" and "valid_ndcg@10", and that of each task."""
        by_task = {
            f"valid_ndcg@10_{task}": lists.ndcg10(np.concatenate(ranker.scores(self.questions[task])))
            for task, lists in self.lists.items()
        }
        mean = float(np.mean(list(by_task.values())))
        return {"criterion": mean, "valid_ndcg@10": mean, **by_task}

    def by_warmth(self, ranker: IdentifierRanker, warm_items: Int64Array) -> dict[str, Any]:
        """Hit@10 per task: of all cases, of cold positives, and of warm positives among WARM_NEGATIVES or more.

        warm_items: ascending ids of the items that a training case contains. None where there is no such case.
        """
        return {task: self._by_warmth(task, ranker, warm_items) for task in self.lists}

    def _by_warmth(self, task: str, ranker: IdentifierRanker, warm_items: Int64Array) -> dict[str, Any]:
        lists = self.lists[task]
        hits = lists.hit10(np.concatenate(ranker.scores(self.questions[task])))
        warm = lists.positive_in(warm_items)
        comparable = warm & (lists.negatives_in(warm_items) >= WARM_NEGATIVES)
        groups = {"all": np.ones_like(warm), "cold positive": ~warm, "warm positive and negatives": comparable}
        return {
            name: {"n_cases": int(group.sum()), "hit@10": float(hits[group].mean()) if group.any() else None}
            for name, group in groups.items()
        }

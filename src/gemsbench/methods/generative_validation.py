"""Validation of a generative method while it is trained: NDCG@10 of a fixed subset of the validation cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gemsbench.evaluation.sorted_keys import Int64Array
from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.methods.contract import ScoreArray
from gemsbench.methods.generative_scoring import Asked, IdentifierRanker
from gemsbench.training.examples import validation_questions

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

WARM_NEGATIVES = 20  # a case says something about warm items alone when it has at least so many


@dataclass
class _Best:
    """Scores of the measurement with the highest criterion so far, the first one of equals."""

    criterion: float = -1.0
    scores: Mapping[str, ScoreArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """Questions made ready for a ranker, and their candidate lists, per task and in the same order of cases."""

    ranker: IdentifierRanker
    asked: Mapping[str, Asked]
    lists: Mapping[str, ValidationLists]
    _best: _Best = field(default_factory=_Best)  # saves scoring the kept weights again

    @staticmethod
    def of(data: TrainingData, tasks: tuple[str, ...], limit: int, ranker: IdentifierRanker) -> Validation:
        """At most `limit` cases per task, the same ones for every method and seed; raises InputError when none."""
        asked, lists = {}, {}
        for task in tasks:
            questions = validation_questions(data, task, limit)
            chosen = data.cases.join(questions.select("case_id"), on="case_id", how="semi")
            asked[task] = ranker.prepare(questions)
            lists[task] = ValidationLists.of(chosen, data.valid_candidates, task)
        return Validation(ranker, asked, lists)

    def measure(self) -> dict[str, float]:
        """Mean NDCG@10 over the tasks, as "criterion" and "valid_ndcg@10", and that of each task."""
        scores = {task: self._scores(task) for task in self.lists}
        by_task = {f"valid_ndcg@10_{task}": lists.ndcg10(scores[task]) for task, lists in self.lists.items()}
        mean = float(np.mean(list(by_task.values())))
        if mean > self._best.criterion:  # as the loop keeps weights: the first of equals
            self._best.criterion, self._best.scores = mean, scores
        return {"criterion": mean, "valid_ndcg@10": mean, **by_task}

    def by_warmth(self, warm_items: Int64Array, criterion: float | None = None) -> dict[str, Any]:
        """Hit@10 per task: of all cases, of cold positives, and of warm positives among WARM_NEGATIVES or more.

        warm_items: ascending ids of the items that a training case contains. criterion: that of the ranker's present
        weights, if all measurements of the training were made here: then these need not be scored again. The figure is
        None where there is no such case.
        """
        known = self._best.scores if self._best.criterion == criterion else {}
        return {
            task: self._by_warmth(task, known[task] if task in known else self._scores(task), warm_items)
            for task in self.lists
        }

    def _scores(self, task: str) -> ScoreArray:
        scores: ScoreArray = np.concatenate(self.ranker.scores(self.asked[task]))
        return scores

    def _by_warmth(self, task: str, scores: ScoreArray, warm_items: Int64Array) -> dict[str, Any]:
        lists = self.lists[task]
        hits = lists.hit10(scores)
        warm = lists.positive_in(warm_items)
        comparable = warm & (lists.negatives_in(warm_items) >= WARM_NEGATIVES)
        groups = {"all": np.ones_like(warm), "cold positive": ~warm, "warm positive and negatives": comparable}
        return {
            name: {"n_cases": int(group.sum()), "hit@10": float(hits[group].mean()) if group.any() else None}
            for name, group in groups.items()
        }

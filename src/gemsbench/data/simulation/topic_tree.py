"""The category tree of the simulated world: departments, product groups, and leaves that are the topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import polars as pl

from gemsbench.data.simulation.wording import singular
from gemsbench.errors import InputError

Vocabulary = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
WORDS_OF_TOPIC = 5  # of the department's vocabulary


@dataclass(frozen=True)
class TopicTree:
    """One row per topic: department, group, leaf, modifier, product (all str), words (list[str])."""

    table: pl.DataFrame

    def column(self, name: str, topic: pl.Series) -> pl.Series:
        """The topic's value of a text column, for each entry of topic."""
        return self.table[name].gather(topic)

    def word(self, topic: pl.Series, rng: np.random.Generator) -> pl.Series:
        """A word of the topic's vocabulary, for each entry of topic."""
        words = self.table["words"].explode(empty_as_null=False)
        return words.gather(topic.to_numpy() * WORDS_OF_TOPIC + rng.integers(WORDS_OF_TOPIC, size=topic.len()))


def make_tree(departments: Vocabulary, modifiers: Sequence[str], topics: int, rng: np.random.Generator) -> TopicTree:
    """Choose topics so that siblings share a group; raises InputError when the vocabulary has fewer leaves."""
    groups = [(department, group) for department, (names, _) in departments.items() for group in names]
    if not 1 <= topics <= len(groups) * len(modifiers):
        raise InputError(f"simulated world: topics is {topics}, must be 1 to {len(groups) * len(modifiers)}.")
    per_group = min(len(modifiers), max(3, ceil(topics / len(groups))))
    rows = []
    for place in rng.permutation(len(groups))[: ceil(topics / per_group)]:
        department, group = groups[place]
        for modifier in rng.permutation(list(modifiers))[:per_group]:
            words = rng.choice(departments[department][1], size=WORDS_OF_TOPIC, replace=False).tolist()
            rows.append((department, group, f"{modifier} {group}", str(modifier), singular(group), words))
    names = ["department", "group", "leaf", "modifier", "product", "words"]
    return TopicTree(pl.DataFrame(rows[:topics], schema=names, orient="row"))

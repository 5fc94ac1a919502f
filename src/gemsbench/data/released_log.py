"""Examples as the released code of arXiv 2601.09496 (Polaris-JZ/GEMS) builds them, before ids become numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class ReleasedLog:
    """What a loader of a released recipe returns: examples with their histories, as that code would hand them on.

    An entry is what that code counts as one item: on Qilin the number 123 and the text "123" are two entries of one
    note. Elsewhere entries are raw ids.

    examples: task ("rec" | "src"), split ("train" | "valid" | "test"), user (str), query (str, "" for rec), timestamp
        (int64 s), targets (list[str], entries; one in train and valid, any number in test, none included), history
        (list[str], entries, not cut, in the order in which that code shows them: on Qilin the newest come first),
        history_tasks (list[int8] beside history: 1 rec, 2 src, 3 where it is not known); in file order.
    corpus: entry (str, unique), raw_id (str), split (the first in which it occurs): what negatives are drawn from.
        The negatives of a split come from its own entries and those of the splits before it.
    items: one row per raw_id of the corpus, columns as in RawLog.items.
    counts: funnel, stage -> count, in order; pinned quantities are keys of it, and so are "Table 4: users",
        "Table 4: items", "Table 4: inter_src", "Table 4: inter_rec" (counted as the paper's table counts).
    max_history: entries of a history that models read, the last ones; 0 for all.
    """

    examples: pl.DataFrame
    corpus: pl.DataFrame
    items: pl.DataFrame
    counts: Mapping[str, int]
    max_history: int = 0
    skipped: tuple[str, ...] = ()
    malformed: int | None = None

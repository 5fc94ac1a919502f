"""What a recipe is: a dataset built in one stated way from raw files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from gemsbench.data.released_log import ReleasedLog


@dataclass(frozen=True)
class RawLog:
    """What a loader returns: the events that the recipe keeps, raw ids still text.

    events: user, item (str), task ("rec" | "src"), query (str, "" for rec), query_source ("" | "synthetic" | "logged"),
        timestamp (int64 s, null without time), pair (str; twins share it), group (str; basket or request, "" unknown),
        rating (float32, null), position (int32; order inside equal times, 0 where the source has none).
    items: raw_id, title, description, brand, text (str, "" missing), category_paths (list[list[str]]),
        queries (list[str], synthesised from the paths; empty elsewhere).
    counts: funnel, stage -> count, in order; pinned quantities of the recipe are keys of it.
    skipped: malformed lines, "file:line: reason"; malformed: their number, where skipped lists only the first of them.
    """

    events: pl.DataFrame
    items: pl.DataFrame
    counts: Mapping[str, int]
    skipped: tuple[str, ...] = ()
    malformed: int | None = None


@dataclass(frozen=True)
class CaseRules:
    """Which cases of a recipe are asked and learned from, beyond what holds for every recipe."""

    min_history: int = 0  # events before the target; a purchase and its search are one entry and two events
    train_share: float = 1.0  # of each user's training cases; the last of them is always kept


@dataclass(frozen=True)
class Recipe:
    """How one dataset is built; the profile may override the fields of `settings`."""

    name: str
    title: str  # as printed in captions
    settings: type  # frozen dataclass with defaults
    load: Callable[[Path, Any], RawLog | ReleasedLog]  # (folder of the first source, settings) -> events and items
    split_unit: Literal["pair", "task"]  # decision: pair where searches are made from purchases
    time_kind: Mapping[str, str]  # task -> exact | day | month | none
    licence: str
    citation: str
    sources: tuple[str, ...] = ()  # of SOURCES in data/sources.py, the raw files; empty for simulated and own data
    simulate: Callable[[Path, Any, int], None] | None = None  # (folder, settings, seed): writes the raw files
    simulated_files: tuple[str, ...] = ()  # what `simulate` writes, below data/simulated/<recipe>/
    pins: Mapping[str, int] = field(default_factory=dict)  # exact values of RawLog.counts
    both_behaviours: bool = True  # invariant S4: every user has both behaviours in train
    k_core: int = 0  # invariant S5: every user and item has at least this many rec events; 0 is no such promise
    min_shares: Mapping[str, float] = field(default_factory=dict)  # invariant X1: column of items -> least share filled
    cases: CaseRules = CaseRules()
    released: bool = False  # True: load returns a ReleasedLog, and none of our rules hold (arXiv 2601.09496's own code)
    paper_row: str = ""  # the dataset's row in Table 4 of arXiv 2601.09496; "" for none

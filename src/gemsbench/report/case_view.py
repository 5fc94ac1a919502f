"""One case as text: what the user did, what was asked, what was offered, and where each method ranks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tabulate import tabulate

from gemsbench.errors import InputError
from gemsbench.evaluation.metrics import pessimistic_order, rank_positives
from gemsbench.evaluation.questions import Questions, questions_of
from gemsbench.evaluation.scores import Scores, align, read_scores
from gemsbench.protocol.pack import Pack

TAGS = {1: "[rec]", 2: "[src]", 3: "[rec+src]"}  # bitmask of hist_tasks
TASK_NAMES = {"rec": "recommendation", "src": "search"}
SHOWN = 10  # ranks shown of every method
TITLE_WIDTH = 60
MARK = "*"


def case_view(pack: Pack, runs: Mapping[str, Path | Scores], case_id: int, shown: int = SHOWN) -> str:
    """Text of one case: history, query, candidates with their rank per method, rank of the positive per method.

    runs: printed name -> score file (or its content); runs without scores for this case are named as such. Candidates
    that no method puts among its first `shown` are left out, positives never are. Raises InputError for a case that
    the pack does not have, and for scores of other candidates.
    """
    case = _case(pack, case_id)
    candidates = pack.candidates(case["split"]).filter(pl.col("case_id") == case_id)
    offered = candidates["items"].list.explode(empty_as_null=False).to_list()
    titles = _Titles(pack.items, [case["target_item"], *case["hist_items"], *offered])
    head, history = _heading(pack, case), _history(pack, case, titles)
    if candidates.is_empty():
        return "\n\n".join(
            [head, history, f"Chosen: {titles(case['target_item'])}\nA training case has no candidates."]
        )
    asked = questions_of(candidates.select("case_id", "items", "positives"))
    scores = {name: _scores_of(run, candidates, pack.fingerprint) for name, run in runs.items()}
    answering = {name: found for name, found in scores.items() if found is not None}
    parts = [head, history, _candidate_table(asked, answering, titles, shown), _rank_table(asked, answering)]
    silent = [name for name in scores if name not in answering]
    if silent:
        parts.append(f"No scores for this case: {', '.join(silent)}.")
    return "\n\n".join(part for part in parts if part)


class _Titles:
    """Item id -> printable title; looks up only the items of one case."""

    def __init__(self, items: pl.DataFrame, wanted: list[int]) -> None:
        rows = items.filter(pl.col("item_id").is_in(wanted)).select("item_id", "title", "raw_id")
        self._title = {item: title.strip() or f"(no title, {raw})" for item, title, raw in rows.iter_rows()}

    def __call__(self, item: int) -> str:
        title = " ".join(self._title.get(item, f"(unknown item {item})").split())
        return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 3] + "..."


def _case(pack: Pack, case_id: int) -> dict[str, Any]:
    cases = pack.cases()
    found = cases.filter(pl.col("case_id") == case_id)
    if found.height == 1:
        return found.row(0, named=True)
    if cases.is_empty():
        raise InputError(f"{pack.folder}: the recipe {pack.recipe} has no cases.")
    test = cases.filter(pl.col("split") == "test")
    among = test if test.height else cases
    close = among.row(int(np.argmin(np.abs(among["case_id"].to_numpy() - case_id))), named=True)
    ids = cases["case_id"].to_numpy()
    raise InputError(
        f"{pack.folder}: no case {case_id}. {pack.recipe} has {len(ids)} cases with ids from {ids.min()} to "
        f"{ids.max()}; the nearest {close['split']} case is {close['case_id']} ({TASK_NAMES[close['task']]}, user "
        f"{close['user_id']})."
    )


def _heading(pack: Pack, case: Mapping[str, Any]) -> str:
    lines = [
        f"Case {case['case_id']} of {pack.recipe}: {TASK_NAMES[case['task']]}, {case['split']}, user {case['user_id']}"
    ]
    if case["query_id"]:
        lines.append(f"Query: {_query(pack, case['query_id'])}")
    return "\n".join(lines)


def _query(pack: Pack, query_id: int) -> str:
    found = pack.queries.filter(pl.col("query_id") == query_id)["text"]
    return str(found[0]) if len(found) else f"(unknown query {query_id})"


def _history(pack: Pack, case: Mapping[str, Any], titles: _Titles) -> str:
    events = list(zip(case["hist_items"], case["hist_tasks"], case["hist_queries"], strict=True))
    if not events:
        return "History: none"
    rows = [
        [number, TAGS[tasks], titles(item), _query(pack, query) if query else ""]
        for number, (item, tasks, query) in enumerate(events, start=1)
    ]
    return "History, oldest first\n" + _table(rows, ["", "behaviour", "item", "query"])


def _scores_of(run: Path | Scores, candidates: pl.DataFrame, fingerprint: str) -> Scores | None:
    """The scores of the one case in candidates; None when the run has none."""
    wanted = int(candidates["case_id"][0])
    if isinstance(run, Scores):
        at = np.flatnonzero(run.case_ids == wanted)
        parts = [run.flat[run.offsets[q] : run.offsets[q + 1]] for q in at]
        flat = np.concatenate(parts) if parts else run.flat[:0]
        run = Scores(run.case_ids[at], flat, np.cumsum([0, *map(len, parts)], dtype=np.int64), run.header)
    else:
        run = read_scores(run, [wanted])
    return align(run, candidates, fingerprint) if len(run.case_ids) else None


def _candidate_table(asked: Questions, scores: Mapping[str, Scores], titles: _Titles, shown: int) -> str:
    ranks = {name: pessimistic_order(run.flat, run.offsets, asked.positive) for name, run in scores.items()}
    n = len(asked.items)
    best = np.min(list(ranks.values()), axis=0) if ranks else np.arange(1, n + 1)
    first = next(iter(ranks.values())) if ranks else best
    kept = [c for c in np.argsort(first, kind="stable") if asked.positive[c] or best[c] <= shown]
    rows = [
        [MARK if asked.positive[c] else "", titles(int(asked.items[c])), *(int(rank[c]) for rank in ranks.values())]
        for c in kept
    ]
    title = f"Candidates ({n}; {MARK} marks what the user chose; rank per method, equal scores: {MARK} last)"
    hidden = f"\n{n - len(kept)} candidates outside everybody's first {shown} are not shown." if len(kept) < n else ""
    return f"{title}\n{_table(rows, ['', 'item', *ranks])}{hidden}"


def _rank_table(asked: Questions, scores: Mapping[str, Scores]) -> str:
    rows = []
    for name, run in scores.items():
        ranks = rank_positives(run.flat, run.offsets, asked.positive)
        tied = int(ranks.negatives_tied.sum())
        rows.append([name, ", ".join(map(str, ranks.ranks)), f"{tied} equal scores among the others" if tied else ""])
    return "Rank of what the user chose\n" + _table(rows, ["method", "rank", ""]) if rows else ""


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True)

"""What is known of a prepared dataset: its sizes beside Table 4 of arXiv 2601.09496, its funnel, leaks, text, chance.

Sizes, funnel and leaks stand in stats.json and are only arranged here; how much of the text a tokenizer knows, and
what a random order of the candidates scores, are computed from the prepared tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench import files
from gemsbench.data.recipe import CaseRules, Recipe
from gemsbench.data.schema import SPLITS, TASKS
from gemsbench.errors import InputError
from gemsbench.evaluation.eval_modes import chance_levels
from gemsbench.evaluation.metrics import CUTOFFS
from gemsbench.report.captions import PAPER
from gemsbench.report.dataset_sections import Column, Section, Value
from gemsbench.report.dataset_sizes import QUANTITIES, counted_in_cases, printed_in_paper
from gemsbench.report.dataset_stages import Published, origin, published_stages
from gemsbench.report.dataset_tokens import SAMPLE, Vocabulary, sample_texts, unknown_tokens

EXCHANGED = {"users": "items", "items": "users"}
ONE_POSITIVE = "one-positive"
_NEEDED = (*QUANTITIES, "in_cases", "cases", "empty_history", "mean_history", "leak_rate", "item_share", "funnel")


def read_statistics(folder: Path, make: str) -> dict[str, Any]:
    """stats.json of a prepared folder; make: the command that writes it. Raises InputError naming what is missing."""
    path = folder / "stats.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make it: {make}")
    values: dict[str, Any] = files.read_json(path)
    missing = [key for key in (*_NEEDED, "stages") if key not in values]
    if missing:
        raise InputError(
            f"{path}: no {', '.join(missing)} in it, so an earlier version wrote it. Make it again: {make}"
        )
    return values


def sizes(recipe: Recipe, statistics: Mapping[str, Any]) -> Section:
    """Measured sizes, and beside them the paper's, as printed and with its users and items exchanged."""
    counted, printed = counted_in_cases(statistics), printed_in_paper(recipe)
    columns = [Column("quantity", "text"), Column("measured", "size"), Column("in_cases", "size", "in cases")]
    if printed is not None:
        columns += [
            Column("paper", "size"),
            Column("measured_to_paper", "ratio", "measured\n/ paper"),
            Column("in_cases_to_paper", "ratio", "in cases\n/ paper"),
            Column("exchanged", "size", "paper,\nexchanged"),
            Column("measured_to_exchanged", "ratio", "measured /\nexchanged"),
            Column("in_cases_to_exchanged", "ratio", "in cases /\nexchanged"),
        ]
    rows: list[tuple[Value, ...]] = []
    for name in QUANTITIES:
        row: list[Value] = [name, statistics[name], counted[name]]
        for other in (name, EXCHANGED.get(name, name)) if printed is not None else ():
            value = printed[other]  # type: ignore[index]
            row += [value, statistics[name] / value, counted[name] / value]
        rows.append(tuple(row))
    notes = ["In cases: users with a case, items in histories or targets, cases per task."]
    if recipe.released:
        notes = ["In cases: counted as the released code's examples; measured: what its items and events are here."]
    if printed is not None:
        notes.append(f"Paper: row {recipe.paper_row} of Table 4, {PAPER}; exchanged: its #User and #Item swapped.")
    return Section("sizes", f"{recipe.name}: {recipe.title}", tuple(columns), tuple(rows), tuple(notes))


def funnel(recipe: Recipe, statistics: Mapping[str, Any]) -> Section:
    """Every stage from raw files to cases, what was removed on the way, and the published number where there is one."""
    counts: Mapping[str, int] = statistics["funnel"]
    stages: Sequence[str] = statistics["stages"]
    known = {stage: told for stage, told in published_stages(recipe.name).items() if stage in counts}
    columns = [
        Column("number", "count", "#"),
        Column("stage", "text"),
        Column("count", "count"),
        Column("of", "count", "of #"),
        Column("share", "share"),
        Column("removed", "count"),
    ]
    if known:
        columns += [Column("published", "count"), Column("ratio", "ratio", "count /\npublished")]
    rows = []
    for number, stage in enumerate(stages, 1):
        row = [number, stage, counts[stage], *_removed(stage, stages, counts)]
        if known:
            value = known[stage].value if stage in known else None
            row += [value, counts[stage] / value if value else None]
        rows.append(tuple(row))
    notes = [
        "Share: of the count in line 'of'. Removed: what the filter took away; empty where nothing was removed.",
        *_sources(known, stages),
    ]
    skipped = statistics.get("skipped", {}).get("lines", 0)
    if skipped:
        notes.append(f"Malformed lines skipped: {skipped:,}; the first are listed in stats.json.")
    return Section("funnel", "The funnel, from raw files to cases", tuple(columns), tuple(rows), tuple(notes))


def _removed(stage: str, stages: Sequence[str], counts: Mapping[str, int]) -> tuple[Value, Value, Value]:
    """Line, share and loss of a stage against the stage it was counted from."""
    known = origin(stage, stages)
    if known is None:
        return None, None, None
    whole = counts[known.of]
    share = counts[stage] / whole if whole else None
    gone = {"left": whole - counts[stage], "lost": counts[stage], "part": None}[known.relation]
    return stages.index(known.of) + 1, share, gone


def _sources(known: Mapping[str, Published], stages: Sequence[str]) -> Iterator[str]:
    """One remark per source of published numbers, with the lines that it stands for."""
    for source in dict.fromkeys(told.source for told in known.values()):
        lines = sorted(stages.index(stage) + 1 for stage, told in known.items() if told.source == source)
        yield f"Published, line {', '.join(map(str, lines))}: {source}."


def cases(recipe: Recipe, statistics: Mapping[str, Any]) -> Section:
    """Cases per task and split, with their histories and the share whose target stands in its own history.

    Targets left out for an empty history are counted only where that is the one reason to leave a target out.
    """
    columns = {
        "cases": Column("cases", "count"),
        "mean_history": Column("mean_history", "mean", "mean\nhistory"),
        "empty_history": Column("empty_history", "count", "targets with an\nempty history"),
        "leak_rate": Column("leak_rate", "share", "target in its\nown history"),
    }
    if recipe.released or recipe.cases != CaseRules():
        del columns["empty_history"]
    rows = tuple(
        (task, split, *(statistics[name].get(task, {}).get(split) for name in columns))
        for task in TASKS
        for split in SPLITS
        if split in statistics["cases"].get(task, {})
    )
    notes = []
    upstream = statistics.get("upstream_leak_rate")
    if upstream:
        shares = ", ".join(f"{share:.2%} ({part})" for part, share in upstream.items())
        notes.append(
            f"Searches whose item a published script (arXiv 2504.05730) would leave in the user's history: {shares}."
        )
    shown = (Column("task", "text"), Column("split", "text"), *columns.values())
    return Section("cases", "Cases and leaks", shown, rows, tuple(notes))


def items(statistics: Mapping[str, Any]) -> Section:
    """Share of items that have each kind of text."""
    shown = statistics["item_share"]
    rows = tuple((name, share) for name, share in shown.items())
    return Section("items", "Items that have", (Column("field", "text"), Column("share", "share")), rows)


def unknown_shares(folder: Path, vocabularies: Sequence[Vocabulary], missing: Sequence[str], seed: int) -> Section:
    """Share of unknown tokens in item texts and queries, and of texts with at least one, per tokenizer.

    A tokenizer that cannot be read is a remark.
    """
    columns = (
        Column("tokenizer", "text"),
        Column("of", "text"),
        Column("texts", "count"),
        Column("tokens_per_text", "mean", "tokens\nper text"),
        Column("unknown_tokens", "share", "unknown\ntokens"),
        Column("texts_with_unknown", "share", "texts with\nan unknown one"),
    )
    rows: list[tuple[Value, ...]] = []
    notes = list(missing)
    if vocabularies and find_spec("tokenizers") is None:
        notes.append("The tokenizers library is not installed. Install it: pip install 'gemsbench[methods]'.")
    elif vocabularies:
        tables = {name: files.read_table(folder / f"{name}.parquet") for name in ("items", "queries")}
        texts = {
            "item texts": sample_texts(tables["items"], "raw_id", "text", seed),
            "queries": sample_texts(tables["queries"], "text", "text", seed),
        }
        for vocabulary in vocabularies:
            try:
                counted = unknown_tokens(vocabulary, texts)
            except InputError as error:
                notes.append(f"{vocabulary.name}: {error}")
                continue
            for kind, found in counted.items():
                per_text, unknown, touched = (
                    part / whole if whole else None
                    for part, whole in (
                        (found.tokens, found.texts),
                        (found.unknown_tokens, found.tokens),
                        (found.texts_with_unknown, found.texts),
                    )
                )
                rows.append((vocabulary.name, kind, found.texts, per_text, unknown, touched))
        notes.append("A run of characters that are not in the vocabulary is one unknown token.")
        if any(table.height > SAMPLE for table in tables.values()):
            notes.append(f"Of more than {SAMPLE:,} texts, {SAMPLE:,} are read, drawn by a seeded hash.")
    elif not missing:
        notes.append("The profile names no backbone (tables.blocks), so there is no tokenizer to try.")
    return Section("unknown_tokens", "Unknown tokens", columns, tuple(rows), tuple(notes))


def chance(recipe: Recipe, folder: Path) -> Section:
    """What a random order of the test candidates scores; for a released recipe in each of that code's averages."""
    metrics = [f"{name}@{k}" for k in CUTOFFS for name in ("hit", "ndcg")]
    columns = (
        Column("task", "text"),
        Column("eval_mode", "text"),
        Column("n", "count"),
        *(Column(name, "metric") for name in metrics),
    )
    test = files.read_table(folder / "cases.parquet", ["case_id", "task", "split"]).filter(pl.col("split") == "test")
    sized = files.read_table(folder / "candidates.parquet", ["case_id", "items", "positives"]).select(
        "case_id", candidates=pl.col("items").list.len(), targets=pl.col("positives").list.len()
    )
    sized = test.join(sized, on="case_id", how="inner")
    rows: list[tuple[Value, ...]] = []
    notes = []
    for task in TASKS:
        of_task = sized.filter(pl.col("task") == task)
        if not of_task["targets"].sum():
            continue
        levels = chance_levels(of_task["targets"].to_numpy(), of_task["candidates"].to_numpy(), CUTOFFS)
        modes = levels if recipe.released else {ONE_POSITIVE: levels["rows"]}
        rows += [(task, mode, int(found["n"]), *(found[name] for name in metrics)) for mode, found in modes.items()]
        if recipe.released:
            rows_of_task, empty = of_task.height, int((of_task["targets"] == 0).sum())
            per_row = int(of_task["targets"].sum()) / rows_of_task
            notes.append(
                f"{task}: {per_row:.3f} targets per test row; {empty / rows_of_task:.2%} of the rows have none."
            )
    return Section("chance", "Chance level: candidates in random order", columns, tuple(rows), tuple(notes))


def dataset_statistics(
    recipe: Recipe,
    statistics: Mapping[str, Any],
    folder: Path,
    vocabularies: Sequence[Vocabulary] = (),
    missing: Sequence[str] = (),
) -> list[Section]:
    """Every section of a prepared recipe; folder: its prepared tables; missing: a line per tokenizer not found.

    Never fails where numbers differ from published ones, nor for a tokenizer that it cannot read. Raises InputError for
    such tables.
    """
    return [
        sizes(recipe, statistics),
        funnel(recipe, statistics),
        cases(recipe, statistics),
        items(statistics),
        unknown_shares(folder, vocabularies, missing, int(statistics["seed"])),
        chance(recipe, folder),
    ]

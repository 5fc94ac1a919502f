"""Raw files to everything that is asked: canonical tables, split, cases, candidates, all checked, one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data import schema
from gemsbench.data.canonical import CanonicalTables, canonical_tables
from gemsbench.data.invariants import SHOWN, Violation, core_violations, pin_violations, structure_violations
from gemsbench.data.recipe import CaseRules, RawLog, Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.data.statistics import table_statistics
from gemsbench.errors import CheckError, InputError
from gemsbench.files import atomic_path, sha256_file, table_sha256, write_json, write_table
from gemsbench.protocol.both_behaviours import users_with_both
from gemsbench.protocol.candidate_invariants import false_negative_share
from gemsbench.protocol.candidates import NEGATIVES, build_candidates
from gemsbench.protocol.case_rules import apply_case_rules, check_length
from gemsbench.protocol.case_statistics import case_statistics, upstream_leak_rate
from gemsbench.protocol.fingerprint import protocol_fingerprint
from gemsbench.protocol.histories import build_cases
from gemsbench.protocol.invariants import protocol_violations
from gemsbench.protocol.pack import FORMAT_VERSION, STATS
from gemsbench.protocol.released import released_tables
from gemsbench.protocol.released_invariants import released_violations
from gemsbench.protocol.splits import split_interactions


def prepare(
    recipe: Recipe,
    settings: Any,
    raw_folder: Path,
    out: Path,
    *,
    seed: int,
    history_length: int,
    negatives: int = NEGATIVES,
) -> dict[str, Any]:
    """Write items, queries, users, interactions, cases, candidates (parquet) and stats.json to out; return the stats.

    history_length: entries of a history; a released recipe has its own (stats: 0 where it cuts none). The folder
    appears whole or not at all. Raises CheckError listing the broken invariants with rows, InputError for
    raw files that cannot be read.
    """
    check_length(recipe.cases, history_length, recipe.name)
    log = recipe.load(raw_folder, settings)
    if isinstance(log, ReleasedLog):
        made = _released(log, recipe, seed, negatives)
    else:
        made = _ours(log, recipe, seed, history_length, negatives)
    asked = {"seed": seed, "negatives": negatives}
    statistics = {**_statistics(recipe, made), **asked, "history_length": made.history_length}
    with atomic_path(out) as folder:
        folder.mkdir()
        for name, table in made.tables.items():
            write_table(folder / f"{name}.parquet", table)
        statistics["files"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        write_json(folder / STATS, statistics)
    return statistics


@dataclass(frozen=True)
class _Made:
    """The six tables of a recipe and what is said of them; events: the interactions before the split drops any."""

    tables: Mapping[str, pl.DataFrame]
    events: pl.DataFrame
    counts: Mapping[str, int]
    skipped: tuple[str, ...]
    malformed: int | None
    history_length: int


def _ours(log: RawLog, recipe: Recipe, seed: int, history_length: int, negatives: int) -> _Made:
    canonical = canonical_tables(log, recipe, seed)
    # Before anybody is taken out or split: that is where a k-core is a k-core.
    _stop_if(recipe, core_violations(canonical.users, canonical.items, canonical.interactions, recipe.k_core))
    if recipe.both_behaviours:
        canonical = users_with_both(canonical)
    tables, counts = _protocol_tables(canonical, recipe, seed, history_length, negatives)
    counts = {**canonical.counts, **counts}
    _stop_if(recipe, structure_violations(tables, recipe, counts))
    _stop_if(recipe, protocol_violations(tables, recipe, seed, negatives=negatives))
    return _Made(tables, canonical.interactions, counts, canonical.skipped, canonical.malformed, history_length)


def _released(log: ReleasedLog, recipe: Recipe, seed: int, negatives: int) -> _Made:
    broken = pin_violations(log.counts, recipe)
    if broken:
        raise CheckError(f"{recipe.name}: " + " ".join(violation.message for violation in broken))
    tables, counts = released_tables(log, recipe, seed, negatives)
    _stop_if(recipe, released_violations(tables, recipe, negatives, log=log))
    counts = {**log.counts, **counts}
    return _Made(tables, tables["interactions"], counts, log.skipped, log.malformed, log.max_history)


def _stop_if(recipe: Recipe, broken: list[Violation]) -> None:
    if broken:
        raise CheckError(
            f"{recipe.name}: {len(broken)} invariants do not hold, nothing was written.\n{_listed(broken)}"
        )


def _statistics(recipe: Recipe, made: _Made) -> dict[str, Any]:
    """What stats.json says of the data; the dataset as it is: what the split takes away stands in the funnel."""
    tables = made.tables
    whole = {**tables, "interactions": made.events}
    return {
        **table_statistics(whole, made.counts, made.skipped, made.malformed),
        **case_statistics(tables, complete=not recipe.released and recipe.cases == CaseRules()),
        **({} if recipe.released else {"upstream_leak_rate": upstream_leak_rate(made.events)}),
        "false_negative_share": false_negative_share(tables),
        "format_version": FORMAT_VERSION,
        "recipe": recipe.name,
        "title": recipe.title,
        "licence": recipe.licence,
        "citation": recipe.citation,
        "n_users": tables["users"].height,
        "n_items": tables["items"].height,
        "fingerprint": protocol_fingerprint(tables["cases"], tables["candidates"]),
        "train_events": table_sha256(tables["interactions"].filter(pl.col("split") == "train")),
    }


def _protocol_tables(
    canonical: CanonicalTables, recipe: Recipe, seed: int, history_length: int, negatives: int
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    split = split_interactions(canonical.interactions, recipe.split_unit, both_behaviours=recipe.both_behaviours)
    events = split.interactions
    ruled = apply_case_rules(
        build_cases(events, history_length),
        {"users": canonical.users, "items": canonical.items, "queries": canonical.queries},
        recipe.cases,
        seed=seed,
        recipe=recipe.name,
    )
    cases = ruled.cases
    if cases.filter(pl.col("split") == "test").is_empty():
        raise InputError(
            f"{recipe.name}: there is nobody to ask: no user has three events and something before the last. "
            "Use a recipe with longer histories."
        )
    candidates = build_candidates(
        cases, events, canonical.users, canonical.items.height, seed=seed, recipe=recipe.name, negatives=negatives
    )
    tables = {
        "items": _with_train_counts(canonical.items, events),
        "queries": _with_item_counts(canonical.queries, canonical.items, events),
        "users": _with_event_counts(canonical.users, events),
        "interactions": events,
        "cases": cases,
        "candidates": candidates,
    }
    counts = {**{f"split: {name}": number for name, number in split.counts.items()}, **ruled.counts}
    return {name: schema.conform(table, schema.TABLES[name], name) for name, table in tables.items()}, counts


def _with_train_counts(items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    train = events.filter(pl.col("split") == "train").group_by("item_id").agg(n_train=pl.len().cast(pl.Int32))
    joined = items.drop("n_train").join(train, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("n_train").fill_null(0))


def _with_item_counts(queries: pl.DataFrame, items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """n_items without validation and test searches: a query with one item would name the answer."""
    searched = events.filter(pl.col("split") == "train", pl.col("query_id") > 0).select("query_id", "item_id")
    made = items.select(query_id="query_ids", item_id="item_id").explode("query_id", empty_as_null=False)
    pairs = pl.concat([searched, made]).unique()
    counted = pairs.group_by("query_id").agg(n_items=pl.len().cast(pl.Int32))
    joined = queries.drop("n_items").join(counted, on="query_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("n_items").fill_null(0))


def _with_event_counts(users: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    counted = events.group_by("user_id").agg(
        n_src=(pl.col("task") == "src").sum().cast(pl.Int32), n_rec=(pl.col("task") == "rec").sum().cast(pl.Int32)
    )
    joined = users.drop("n_src", "n_rec").join(counted, on="user_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("n_src", "n_rec").fill_null(0))


def _listed(broken: list[Violation]) -> str:
    with pl.Config(tbl_cols=-1, tbl_rows=SHOWN, tbl_width_chars=240):
        return "\n".join(f"{violation.invariant}: {violation.message}\n{violation.rows}" for violation in broken)

"""Raw files to everything that is asked: canonical tables, split, cases, candidates, all checked, one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data import schema
from gemsbench.data.canonical import CanonicalTables, canonical_tables
from gemsbench.data.invariants import SHOWN, Violation, core_violations, structure_violations
from gemsbench.data.recipe import Recipe
from gemsbench.data.statistics import table_statistics
from gemsbench.errors import CheckError, InputError
from gemsbench.files import atomic_path, sha256_file, table_sha256, write_json, write_table
from gemsbench.protocol.both_behaviours import users_with_both
from gemsbench.protocol.candidate_invariants import false_negative_share
from gemsbench.protocol.candidates import NEGATIVES, build_candidates
from gemsbench.protocol.case_statistics import case_statistics, upstream_leak_rate
from gemsbench.protocol.fingerprint import protocol_fingerprint
from gemsbench.protocol.histories import build_cases
from gemsbench.protocol.invariants import protocol_violations
from gemsbench.protocol.pack import FORMAT_VERSION, STATS
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

    The folder appears whole or not at all. Raises CheckError listing the broken invariants with rows, InputError for
    raw files that cannot be read.
    """
    canonical = canonical_tables(recipe.load(raw_folder, settings), recipe, seed)
    # Before anybody is taken out or split: that is where a k-core is a k-core.
    _stop_if(recipe, core_violations(canonical.users, canonical.items, canonical.interactions, recipe.k_core))
    if recipe.both_behaviours:
        canonical = users_with_both(canonical)
    tables, split_counts = _protocol_tables(canonical, recipe, seed, history_length, negatives)
    counts = {**canonical.counts, **{f"split: {name}": number for name, number in split_counts.items()}}
    _stop_if(recipe, structure_violations(tables, recipe, counts))
    _stop_if(recipe, protocol_violations(tables, recipe, seed, negatives=negatives))
    asked = {"seed": seed, "history_length": history_length, "negatives": negatives}
    statistics = {**_statistics(recipe, canonical, tables, counts), **asked}
    with atomic_path(out) as folder:
        folder.mkdir()
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
        statistics["files"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        write_json(folder / STATS, statistics)
    return statistics


def _stop_if(recipe: Recipe, broken: list[Violation]) -> None:
    if broken:
        raise CheckError(
            f"{recipe.name}: {len(broken)} invariants do not hold, nothing was written.\n{_listed(broken)}"
        )


def _statistics(
    recipe: Recipe, canonical: CanonicalTables, tables: Mapping[str, pl.DataFrame], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What stats.json says of the data; the dataset as it is: what the split takes away stands in the funnel."""
    whole = {**tables, "interactions": canonical.interactions}
    return {
        **table_statistics(whole, counts, canonical.skipped, canonical.malformed),
        **case_statistics(tables),
        "upstream_leak_rate": upstream_leak_rate(canonical.interactions),
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
) -> tuple[dict[str, pl.DataFrame], Mapping[str, int]]:
    split = split_interactions(canonical.interactions, recipe.split_unit, both_behaviours=recipe.both_behaviours)
    events = split.interactions
    cases = build_cases(events, history_length)
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
    return {name: schema.conform(table, schema.TABLES[name], name) for name, table in tables.items()}, split.counts


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

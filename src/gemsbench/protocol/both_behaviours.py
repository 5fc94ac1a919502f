"""Recipes of users who both search and are recommended to: everyone else is taken out before the split."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from gemsbench.data.canonical import CanonicalTables


def users_with_both(tables: CanonicalTables) -> CanonicalTables:
    """The same tables without users that have only one behaviour; the others are numbered 0..n-1 again, in order.

    A user with both who has too few events to be asked stays (splits.py): there is something to learn from them.
    """
    kinds = tables.interactions.group_by("user_id").agg(pl.col("task").n_unique())
    both = kinds.filter(pl.col("task") == 2).select("user_id")
    kept = tables.users.join(both, on="user_id", how="semi", maintain_order="left")
    number = kept.select("user_id", new=pl.int_range(pl.len(), dtype=pl.Int32))
    events = tables.interactions.join(number, on="user_id", how="inner", maintain_order="left")
    return replace(
        tables,
        users=kept.with_columns(user_id=number["new"]),
        interactions=events.with_columns(user_id="new").drop("new"),
        counts={**tables.counts, "users with one behaviour only (removed)": tables.users.height - kept.height},
    )

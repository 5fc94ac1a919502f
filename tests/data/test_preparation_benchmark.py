"""The plain script of benchmarks/preparation.py does the same as the recipe: equal counts on a small world."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import polars as pl
import pytest

from gemsbench.data.simulation.amazon_files import write_amazon
from gemsbench.data.simulation.world import WorldSettings


@pytest.mark.parametrize(("users", "seed"), [(300, 1), (150, 2)])
def test_the_plain_script_counts_what_the_recipe_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, users: int, seed: int
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import preparation

    world = dataclasses.replace(WorldSettings(), users=users, items=400, listed_items=440, topics=30)
    write_amazon(tmp_path, world, seed, core=5)
    ours = preparation.electronics(tmp_path, tmp_path / "ours")
    (tmp_path / "plain").mkdir()
    plain = preparation.plain(tmp_path, tmp_path / "plain")
    assert ours["training cases"] > users
    assert {name: plain[name] for name in ours} == ours
    lists = pl.read_parquet(tmp_path / "plain" / "candidates.parquet")
    assert (
        lists.select((pl.col("items").list.n_unique() == 100) & pl.col("items").list.contains(pl.col("target")))
        .to_series()
        .all()
    )
    assert lists.height == sum(ours["cases"].values())
    for name in ("preparation", "preparation_peer", "preparation_files"):
        sys.modules.pop(name, None)

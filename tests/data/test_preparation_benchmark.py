"""The plain script of benchmarks/preparation.py does the same as the recipe: equal counts on a small world."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench import files
from gemsbench.data.simulation.amazon_files import write_amazon
from gemsbench.data.simulation.world import WorldSettings


@pytest.fixture
def preparation(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import preparation as module

    yield module
    for name in ("preparation", "preparation_peer", "preparation_files"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("users", "seed"), [(300, 1), (150, 2)])
def test_the_plain_script_counts_what_the_recipe_counts(
    preparation: Any, tmp_path: Path, users: int, seed: int
) -> None:
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


RECORD = {"seconds": 2.0, "cpu": 1.0, "peak_gib": 0.1, "bytes": {}}


@pytest.mark.parametrize(
    ("arguments", "written"), [((), True), (("--scale", "0.5"), False), (("--peer-scale", "0.1"), False)]
)
def test_only_a_run_at_true_size_is_recorded(
    preparation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], written: bool
) -> None:
    """What is measured is left out here; compare and main are what runs."""
    monkeypatch.setattr(preparation, "measure", lambda name, folder, out: dict(RECORD))
    monkeypatch.setattr(preparation, "OUTPUT", tmp_path / "preparation.json")
    files.write_json(preparation.OUTPUT, {"kept": True})
    monkeypatch.setattr(sys, "argv", ["preparation.py", *arguments])
    preparation.main()
    record = files.read_json(preparation.OUTPUT)
    assert ("kept" in record) != written
    if written:
        assert set(record["ratios"]) == {"plain / ours", "plain / ours, cpu", "whole / half", "whole / half, cpu"}


def test_the_docstring_has_the_numbers_of_the_record(preparation: Any) -> None:
    ratios = files.read_json(preparation.OUTPUT)["ratios"]
    assert f": {ratios['plain / ours']:.1f} on two cores" in preparation.__doc__
    assert f"processor times: {ratios['plain / ours, cpu']:.1f}." in preparation.__doc__
    assert "whole / half" in ratios

"""Captions and cells say which runs were ended by their cap of epochs, and on which backbone each row ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench import files
from gemsbench.profile import Profile, Run, TableSettings, runs
from gemsbench.report import write_tables
from gemsbench.report.table import Table
from gemsbench.report.tables import build_tables

Write = Callable[[Profile], Path]
AT_CAP = "Training stopped at its cap of epochs or steps, not by validation: "
QILIN, AMAZON = "simulated-qilin", "simulated-amazon"


def end(folder: Path, stopped: str, *ended: Run) -> None:
    """Say in the header of these runs what ended their training."""
    for run in ended:
        path = run.folder(folder) / "ranks.parquet"
        files.write_table(path, pl.read_parquet(path), metadata=files.read_header(path) | {"stopped": stopped})


def tables(profile: Profile, folder: Path) -> dict[str, Table]:
    return {table.name: table for table in build_tables(profile, folder)}


def both_seeds(recipe: str, backbone: str, method: str) -> tuple[Run, Run]:
    return Run(recipe, backbone, method, 1), Run(recipe, backbone, method, 2)


def cells(folder: Path, table: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {(row["block"], row["name"]): row["cells"] for row in files.read_json(folder / f"{table}.json")["rows"]}


def test_runs_that_their_cap_ended_are_named_in_their_own_table(with_gems: Profile, write_results: Write) -> None:
    folder = write_results(with_gems)
    end(folder, "patience", *(run for run in runs(with_gems) if run.backbone != "none"))
    assert not any(AT_CAP in table.caption for table in tables(with_gems, folder).values())
    end(folder, "epochs", *both_seeds(AMAZON, "t5-mini", "bsr"), *both_seeds(QILIN, "t5-mini", "bsr"))
    end(folder, "epochs", *both_seeds(AMAZON, "t5-mini", "gems"))
    found = tables(with_gems, folder)
    assert f"{AT_CAP}BSR (Qilin, Amazon); Ours (Amazon). " in found["table1"].caption
    assert AT_CAP not in found["table2"].caption
    named = "BSR with t5-mini (simulated-qilin, simulated-amazon); Ours with t5-mini (simulated-amazon). "
    assert f"{AT_CAP}{named}" in found["sanity"].caption


def test_a_cap_in_some_seeds_is_counted(with_gems: Profile, write_results: Write) -> None:
    folder = write_results(with_gems)
    end(folder, "epochs", Run(QILIN, "qwen-mini", "bsr", 2))
    found = tables(with_gems, folder)
    assert f"{AT_CAP}BSR (Qilin in 1 of 2 seeds). " in found["table2"].caption
    assert AT_CAP not in found["table1"].caption


def test_a_run_that_says_nothing_is_not_accused(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(with_gems)
    assert not any(AT_CAP in table.caption for table in tables(with_gems, folder).values())
    write_tables(with_gems, folder, tmp_path)
    assert not any("stopped" in cell for row in cells(tmp_path, "table1").values() for cell in row)
    assert "training stopped" not in (tmp_path / "index.html").read_text()


def test_cells_carry_what_ended_their_runs(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(with_gems)
    bsr, gems = both_seeds(AMAZON, "t5-mini", "bsr"), both_seeds(AMAZON, "t5-mini", "gems")
    end(folder, "epochs", bsr[0], *gems)
    end(folder, "patience", bsr[1])
    write_tables(with_gems, folder, tmp_path)
    table = cells(tmp_path, "table1")
    assert table["Search", "BSR"][7]["stopped"] == ["epochs", "patience"]
    assert table["Search", "Ours"][7]["stopped"] == ["epochs", "epochs"]
    assert cells(tmp_path, "sanity")[f"{AMAZON}, search", "Ours (t5-mini)"][0]["stopped"] == ["epochs", "epochs"]
    page = (tmp_path / "table1.html").read_text()
    assert "training stopped by its cap of epochs in 1 of 2 seeds; training stopped by validation in 1 of 2" in page
    assert "training stopped by its cap of epochs; " in page


def test_a_cap_of_steps_is_named_too(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(with_gems)
    end(folder, "steps", *both_seeds(AMAZON, "t5-mini", "bsr"))
    assert f"{AT_CAP}BSR (Amazon). " in tables(with_gems, folder)["table1"].caption
    write_tables(with_gems, folder, tmp_path)
    assert "training stopped by its cap of steps; " in (tmp_path / "table1.html").read_text()


def test_rows_with_fewer_seeds_are_named(with_gems: Profile, write_results: Write) -> None:
    methods = {key: dataclasses.replace(s, seeds=(2,) if key == "bsr" else ()) for key, s in with_gems.methods.items()}
    fewer = dataclasses.replace(with_gems, methods=methods)
    found = tables(fewer, write_results(fewer))
    assert "Fewer seeds: BSR (seed 2). " in found["table1"].caption
    assert "Fewer seeds: BSR with t5-mini, BSR with qwen-mini (seed 2). " in found["sanity"].caption
    assert "Fewer seeds" not in found["table4"].caption


def measured(folder: Path, run: Run) -> Mapping[str, Any]:
    values: Mapping[str, Any] = files.read_json(run.folder(folder) / "metrics.json")
    return values


@pytest.mark.parametrize("swapped", [False, True])
def test_each_table_shows_the_numbers_of_its_own_backbone(
    with_gems: Profile, write_results: Write, tmp_path: Path, swapped: bool
) -> None:
    blocks = {"T5-base": "t5-mini", "Qwen-3B": "qwen-mini"}
    if swapped:
        blocks = {"Qwen-3B": "t5-mini", "T5-base": "qwen-mini"}
    profile = dataclasses.replace(with_gems, tables=TableSettings(columns=with_gems.tables.columns, blocks=blocks))
    folder = write_results(profile)
    write_tables(profile, folder, tmp_path)
    printed: dict[str, list[float]] = {}
    for table, block in (("table1", "T5-base"), ("table2", "Qwen-3B")):
        for task, label in (("rec", "Recommendation"), ("src", "Search")):
            for name, method in (("BSR", "bsr"), ("Ours", "gems")):
                row = cells(tmp_path, table)[label, name]
                wanted = [
                    sum(measured(folder, run)[task]["ndcg@10"] for run in both_seeds(r, blocks[block], method)) / 2
                    for r in (QILIN, AMAZON)
                ]
                assert [row[3]["value"], row[7]["value"]] == pytest.approx(wanted)
                printed.setdefault(table, []).extend(wanted)
    assert all(a != b for a, b in zip(printed["table1"], printed["table2"], strict=True))


def test_methods_without_a_backbone_stand_in_table_1_only(
    with_gems: Profile, write_results: Write, tmp_path: Path
) -> None:
    write_tables(with_gems, write_results(with_gems), tmp_path)
    assert {cell["backbone"] for cell in cells(tmp_path, "table1")["Recommendation", "NCF"]} == {"none"}
    assert ("Recommendation", "NCF") not in cells(tmp_path, "table2")


def test_the_appendix_has_a_row_per_backbone(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(with_gems)
    write_tables(with_gems, folder, tmp_path)
    table = cells(tmp_path, "sanity")
    names = [name for block, name in table if block == f"{AMAZON}, search"]
    rows = ["BSR (t5-mini)", "BSR (qwen-mini)", "Ours (t5-mini)", "Ours (qwen-mini)"]
    assert names == ["Random", "Popularity", "BM25", "Category match", "bsr+plain", *rows]
    for backbone in ("t5-mini", "qwen-mini"):
        wanted = sum(measured(folder, r)["src"]["hit@10"] for r in both_seeds(AMAZON, backbone, "bsr")) / 2
        assert table[f"{AMAZON}, search", f"BSR ({backbone})"][1]["value"] == pytest.approx(wanted)
    assert "A method on a backbone has it in parentheses." in tables(with_gems, folder)["sanity"].caption


def test_without_a_backbone_the_appendix_explains_none(profile: Profile, write_results: Write) -> None:
    assert "parentheses" not in tables(profile, write_results(profile))["sanity"].caption

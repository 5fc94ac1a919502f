"""The whole step: run folders in, all files out; missing, mixed and impossible numbers are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from gemsbench import files
from gemsbench.data.schema import TASK
from gemsbench.errors import CheckError, InputError
from gemsbench.evaluation.metrics import hit, ndcg
from gemsbench.profile import Profile, Run, TableSettings
from gemsbench.report import write_tables
from gemsbench.report.tables import build_tables

Write = Callable[[Profile], Path]
FILES = {
    f"{name}.{suffix}"
    for name in ("table1", "table2", "table4", "sanity", "identifiers")
    for suffix in ("tex", "md", "html", "json")
}


def cells(folder: Path, table: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(block, row name) -> cells of the JSON file."""
    return {(row["block"], row["name"]): row["cells"] for row in files.read_json(folder / f"{table}.json")["rows"]}


def test_every_format_of_every_table_is_written(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    written = write_tables(profile, write_results(profile), tmp_path / "out")
    assert (
        {path.name for path in written}
        == {path.name for path in (tmp_path / "out").iterdir()}
        == FILES | {"index.html"}
    )


def test_numbers_marks_and_tests_match_the_ranks(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(with_gems)
    write_tables(with_gems, folder, tmp_path)
    table = cells(tmp_path, "table1")
    ours, bsr = table["Search", "Ours"], table["Search", "BSR"]
    values: dict[str, list[np.ndarray]] = {"gems": [], "bsr": []}
    for method, collected in values.items():
        for seed in (1, 2):
            path = Run("simulated-amazon", "t5-mini", method, seed).folder(folder) / "ranks.parquet"
            ranks = pl.read_parquet(path).filter(pl.col("task") == "src")["rank"].to_numpy()
            collected.append(ndcg(ranks, np.arange(len(ranks) + 1), 10))
    means = {method: np.mean(collected, axis=0) for method, collected in values.items()}
    cell = ours[7]  # Amazon, NDCG@10
    assert (cell["recipe"], cell["metric"], cell["n"], cell["seeds"]) == ("simulated-amazon", "ndcg@10", 400, [1, 2])
    assert cell["value"] == pytest.approx(means["gems"].mean(), abs=1e-12)
    assert cell["printed"] == f"{means['gems'].mean():.4f}"
    assert cell["per_seed"] == pytest.approx([part.mean() for part in values["gems"]])
    assert cell["sd"] == pytest.approx(np.std(cell["per_seed"], ddof=1))
    assert cell["runs"] == [f"runs/simulated-amazon/t5-mini/gems/{seed}" for seed in (1, 2)]
    assert means["gems"].mean() > means["bsr"].mean()
    p = stats.ttest_rel(means["gems"], means["bsr"]).pvalue
    assert cell["p_best_vs_second"] == pytest.approx(p)
    assert (cell["mark"], cell["star"]) == ("best", bool(p < 0.01))
    assert bsr[7]["mark"] == "second"
    assert "p_best_vs_second" not in bsr[7]


def test_star_appears_in_every_format(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    write_tables(with_gems, write_results(with_gems), tmp_path)
    starred = [cell["printed"] for row in cells(tmp_path, "table1").values() for cell in row if cell["star"]]
    assert starred, "the drawn ranks must give at least one significant difference"
    texts = {suffix: (tmp_path / f"table1.{suffix}").read_text() for suffix in ("tex", "md", "html")}
    for number in starred:
        assert rf"\textbf{{{number}*}}" in texts["tex"]
        assert rf"**{number}\***" in texts["md"]
        assert f'<strong>{number}<span class="star">*</span></strong>' in texts["html"]


def test_rows_not_in_the_profile_print_two_dashes(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    write_tables(profile, write_results(profile), tmp_path)
    table = cells(tmp_path, "table1")
    assert [cell["printed"] for cell in table["Recommendation", "Ours"]] == ["--"] * 8
    assert all(cell["printed"] != "--" for cell in table["Recommendation", "NCF"])
    assert all(cell["mark"] == "" for cell in table["Recommendation", "NCF"])  # alone in its column
    assert {cell["printed"] for row in cells(tmp_path, "table2").values() for cell in row} == {"--"}


def test_tables_1_and_2_read_their_own_backbone(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    write_tables(with_gems, write_results(with_gems), tmp_path)
    for table, backbone in (("table1", "t5-mini"), ("table2", "qwen-mini")):
        assert {cell["backbone"] for cell in cells(tmp_path, table)["Search", "Ours"]} == {backbone}


def test_any_number_of_recipes_as_columns(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    more = dataclasses.replace(
        profile,
        recipes={**profile.recipes, "journey-small": {}},
        tables=dataclasses.replace(profile.tables, extra_columns={"Journey": "journey-small"}),
    )
    write_tables(more, write_results(more), tmp_path)
    assert len(cells(tmp_path, "table1")["Recommendation", "NCF"]) == 12
    assert r"\multicolumn{4}{c}{Journey (journey-small)}" in (tmp_path / "table1.tex").read_text()
    assert ("", "Journey (journey-small)") in cells(tmp_path, "table4")


def test_sanity_rows_show_both_tie_rules_and_the_methods_without_a_row(
    profile: Profile, write_results: Write, tmp_path: Path
) -> None:
    folder = write_results(profile)
    run = Run("simulated-amazon", "none", "category-match", 1).folder(folder) / "metrics.json"
    metrics = files.read_json(run)
    metrics["src"] |= {"hit@10_exp": 0.7654, "tie_rate": 0.25}
    files.write_json(run, metrics)
    write_tables(profile, folder, tmp_path)
    table = cells(tmp_path, "sanity")
    row = table["simulated-amazon, search", "Category match"]
    assert [cell["printed"] for cell in row[4:]][1] == "0.7654"
    assert [row[8]["printed"], row[9]["printed"]] == ["0.2500", "400"]
    assert ("simulated-amazon, recommendation", "Category match") not in table
    assert ("simulated-qilin, search", "Category match") not in table
    assert ("simulated-qilin, search", "bsr+plain") in table
    assert ("simulated-qilin, recommendation", "NCF") in table


def test_dataset_table_prints_measured_and_printed_rows(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    write_tables(profile, write_results(profile), tmp_path)
    rows = files.read_json(tmp_path / "table4.json")["rows"]
    assert "26.0% of Amazon (simulated-amazon); here none" in (tmp_path / "table4.md").read_text()
    assert [(row["name"], row["printed_in_paper"]) for row in rows] == [
        ("Qilin (simulated-qilin)", False),
        ("Qilin (printed in the paper)", True),
        ("Amazon (simulated-amazon)", False),
        ("Amazon (printed in the paper)", True),
    ]
    assert [cell["printed"] for cell in rows[0]["cells"]] == ["1,234", "567", "8,901", "23,456", "1.27213%", "3.35234%"]
    assert [cell["printed"] for cell in rows[1]["cells"]] == [
        "3,816",
        "275,515",
        "16,626",
        "101,085",
        "0.00158%",
        "0.00962%",
    ]
    latex = (tmp_path / "table4.tex").read_text()
    assert r"\textcolor{gray}{275,515}" in latex
    assert r"\textcolor{gray}{567}" not in latex


def test_only_runs_of_the_profile_are_read(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    write_tables(profile, folder, tmp_path / "before")
    stray = Run("simulated-amazon", "none", "ncf", 99).folder(folder)
    stray.mkdir(parents=True)
    (stray / "metrics.json").write_text("not even JSON")
    write_tables(profile, folder, tmp_path / "after")
    for name in FILES:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


@pytest.mark.parametrize("name", ["metrics.json", "ranks.parquet"])
def test_a_missing_run_is_named_with_its_command(
    profile: Profile, write_results: Write, tmp_path: Path, name: str
) -> None:
    folder = write_results(profile)
    run = Run("simulated-amazon", "none", "ncf", 2).folder(folder)
    (run / name).unlink()
    with pytest.raises(InputError) as caught:
        write_tables(profile, folder, tmp_path / "out")
    assert str(run / name) in str(caught.value)
    assert f"snakemake --cores all --configfile <profile> -- {run / 'metrics.json'}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_the_old_files_alone(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    write_tables(profile, folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (folder / "prepared" / "simulated-amazon" / "stats.json").unlink()
    with pytest.raises(InputError, match=r"stats\.json"):
        write_tables(profile, folder, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def change_metrics(folder: Path, run: Run, change: Mapping[str, Any], task: str = "rec") -> None:
    path = run.folder(folder) / "metrics.json"
    metrics = files.read_json(path)
    files.write_json(path, metrics | {task: metrics[task] | change})


NCF = Run("simulated-amazon", "none", "ncf", 1)


def test_numbers_of_different_questions_are_refused(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    ranks = NCF.folder(folder) / "ranks.parquet"
    files.write_table(ranks, pl.read_parquet(ranks), metadata={"fingerprint": "another"})
    with pytest.raises(InputError, match=r"different questions.*another"):
        write_tables(profile, folder, tmp_path)


def test_methods_of_different_questions_are_refused(one_seed: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(one_seed)
    ranks = NCF.folder(folder) / "ranks.parquet"
    files.write_table(ranks, pl.read_parquet(ranks), metadata={"fingerprint": "another"})
    with pytest.raises(InputError, match=r"simulated-amazon: numbers of different questions.*another"):
        write_tables(one_seed, folder, tmp_path)


def test_another_number_of_cases_is_refused(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    change_metrics(folder, NCF, {"n": 399})
    with pytest.raises(InputError, match=r"number of rec cases is 400 .* and 399"):
        write_tables(profile, folder, tmp_path)


def test_impossible_numbers_fail_the_check(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    change_metrics(folder, NCF, {"ndcg@5": 0.9})
    with pytest.raises(CheckError, match="not possible with one positive"):
        write_tables(profile, folder, tmp_path)


def test_an_incomplete_metrics_file_is_named(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    folder = write_results(profile)
    path = NCF.folder(folder) / "metrics.json"
    metrics = files.read_json(path)
    del metrics["rec"]["ndcg@10"]
    files.write_json(path, metrics)
    with pytest.raises(InputError, match=r"metrics.json: no rec.ndcg@10 in it"):
        write_tables(profile, folder, tmp_path)
    files.write_json(path, {})
    with pytest.raises(InputError, match=r"metrics.json: no rec in it"):
        write_tables(profile, folder, tmp_path)


def test_metrics_that_do_not_belong_to_the_ranks_fail_the_check(
    with_gems: Profile, write_results: Write, tmp_path: Path
) -> None:
    folder = write_results(with_gems)
    gems, bsr = (Run("simulated-amazon", "t5-mini", key, 1).folder(folder) for key in ("gems", "bsr"))
    (gems / "metrics.json").write_bytes((bsr / "metrics.json").read_bytes())
    with pytest.raises(CheckError, match="not of one evaluation"):
        write_tables(with_gems, folder, tmp_path)


def test_several_positives_per_case_are_exempt_from_the_identities_and_tested_on_all_of_them(
    with_gems: Profile, write_results: Write, tmp_path: Path
) -> None:
    folder = write_results(with_gems)
    stream = np.random.default_rng(5)
    for key, worst in (("gems", 6), ("bsr", 30)):
        for seed in (1, 2):
            path = Run("simulated-qilin", "t5-mini", key, seed).folder(folder)
            ranks = np.sort(stream.integers(1, worst, (400, 2)) * 2 - [1, 0], axis=1)
            offsets = np.arange(0, 801, 2)
            values = {"hit@5": hit(ranks[:, 0], 5), "hit@10": hit(ranks[:, 0], 10)}
            values |= {f"ndcg@{k}": ndcg(ranks.ravel(), offsets, k) for k in (5, 10)}
            old = pl.read_parquet(path / "ranks.parquet").filter(pl.col("task") == "rec")
            lists = pl.Series("ranks", ranks.astype(np.uint8)).arr.to_list()
            several = old.with_columns(
                lists, pl.Series("rank", ranks[:, 0], dtype=pl.UInt8), pl.lit("src").cast(TASK).alias("task")
            )
            single = old.with_columns(pl.concat_list("rank").alias("ranks"))
            files.write_table(
                path / "ranks.parquet",
                pl.concat([single, several.select(single.columns)]),
                files.read_header(path / "ranks.parquet"),
            )
            change_metrics(
                folder,
                Run("simulated-qilin", "t5-mini", key, seed),
                {name: float(v.mean()) for name, v in values.items()},
                "src",
            )
    write_tables(with_gems, folder, tmp_path)
    cell = cells(tmp_path, "table1")["Search", "Ours"][3]
    assert (cell["recipe"], cell["metric"], cell["mark"], cell["star"]) == ("simulated-qilin", "ndcg@10", "best", True)


def test_one_seed_is_said(one_seed: Profile, profile: Profile, write_results: Write) -> None:
    captions = {table.name: table.caption for table in build_tables(one_seed, write_results(one_seed))}
    for name in ("table1", "table2", "sanity"):
        assert "One training seed (1)" in captions[name]
    captions = {table.name: table.caption for table in build_tables(profile, write_results(profile))}
    for name in ("table1", "table2", "sanity"):
        assert "Mean over 2 training seeds (1, 2)." in captions[name]
    assert "Methods without random choices ran once (bm25, category-match, popularity)." in captions["sanity"]


def test_captions_name_what_was_really_run(profile: Profile, write_results: Write) -> None:
    table1, table2, *_ = build_tables(profile, write_results(profile))
    for words in (
        "t5-mini, in the place of T5-base",
        "Profile tiny",
        "Qilin is recipe simulated-qilin",
        "Qilin 400 recommendation and 400 search",
        "p < 0.01",
        "-- means not built yet or not run",
    ):
        assert words in table1.caption
    assert "qwen-mini, in the place of Qwen-3B" in table2.caption


def test_only_comparable_profiles_lose_the_warning(profile: Profile, write_results: Write) -> None:
    warning = "not comparable with the paper's"
    folder = write_results(profile)
    tables = {table.name: table.caption for table in build_tables(profile, folder)}
    assert all(warning in tables[name] for name in ("table1", "table2", "sanity"))
    assert "The measured data are not the paper's." in tables["table4"]
    comparable = build_tables(dataclasses.replace(profile, comparable_with_paper=True), folder)
    assert not any("not comparable" in table.caption or "not the paper's" in table.caption for table in comparable)


def test_a_profile_without_the_block_prints_dashes(with_gems: Profile, write_results: Write, tmp_path: Path) -> None:
    only_t5 = dataclasses.replace(
        with_gems, tables=TableSettings(columns=with_gems.tables.columns, blocks={"T5-base": "t5-mini"})
    )
    write_tables(only_t5, write_results(only_t5), tmp_path)
    assert {cell["printed"] for row in cells(tmp_path, "table2").values() for cell in row} == {"--"}
    assert "Qwen-3B, which this profile does not run" in (tmp_path / "table2.md").read_text()


def test_json_is_strict_and_index_holds_every_table(profile: Profile, write_results: Write, tmp_path: Path) -> None:
    write_tables(profile, write_results(profile), tmp_path)
    for name in ("table1", "table2", "table4", "sanity"):
        json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
    page = (tmp_path / "index.html").read_text()
    for name in ("table1", "table2", "table4", "sanity", "table1-printed", "table2-printed"):
        assert page.count(f'id="{name}"') == 1
    assert "<script" not in page
    assert "http" not in page  # nothing is loaded from elsewhere

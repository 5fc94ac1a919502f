"""Snakemake and DVC agree: in both orders, in a fresh clone, after an edit, and after going back."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

CLEAN = "Data and pipelines are up to date."


def test_snakemake_after_dvc_repro_does_nothing(finished: Any) -> None:
    assert finished.pending() == {}
    assert finished.dvc("status").stdout.strip() == CLEAN


def test_dvc_repro_after_snakemake_takes_over_what_is_there(finished: Any) -> None:
    for path in ("dvc.lock", ".dvc/cache", ".dvc/tmp"):
        finished.run("rm", "-r", path)
    before = finished.result_times()
    finished.dvc("repro")
    assert finished.result_times() == before
    assert finished.dvc("status").stdout.strip() == CLEAN


def test_a_fresh_clone_needs_sync_and_then_nothing(pulled: Any) -> None:
    assert not (pulled.root / "data/simulated").exists()
    kept = {path.name for path in (pulled.root / "results/mini/backbones/t5-mini").iterdir()}
    assert kept == {"log.jsonl", "provenance.json"}, "weights are not versioned"
    kept = {path.name for path in (pulled.root / "results/mini/basis").iterdir()}
    assert kept == {"t5-mini.provenance.json"}, "nor are bases"
    assert "0 out of date, 0 not there yet" in pulled.gemsbench("sync").stdout
    assert pulled.pending() == {}
    before = pulled.result_times()
    assert "Nothing to be done" in (done := pulled.snakemake()).stdout + done.stderr
    assert pulled.dvc("repro").stdout.strip().endswith(CLEAN)
    assert pulled.dvc("status").stdout.strip() == CLEAN
    assert pulled.result_times() == before
    assert pulled.gemsbench("sync").stdout.startswith("sync: 23 jobs in order, 0 stamped")


def test_dvc_repro_first_in_a_fresh_clone_does_nothing_either(pulled: Any) -> None:
    before = pulled.result_times()
    assert pulled.dvc("repro").stdout.strip().endswith(CLEAN)
    assert pulled.result_times() == before
    pulled.gemsbench("sync")
    assert pulled.pending() == {}


def test_after_an_edit_in_a_clone_exactly_its_rows_run(pulled: Any) -> None:
    scores = pulled.root / "results/mini/runs/simulated-amazon/none"
    before = {method: (scores / method / "1/provenance.json").read_bytes() for method in ("random", "popularity")}
    pulled.edit("src/gemsbench/methods/random_order.py", "import", "import  ")
    pulled.gemsbench("sync")
    assert pulled.pending() == {"train": 1, "evaluate": 1, "tables": 1, "figures": 1}
    pulled.git("checkout", "--quiet", "src")
    pulled.edit("config/mini.yaml", "popularity: {}", "popularity: {tasks: [rec]}")
    pulled.dvc("repro")  # calls sync, which finds the edit of random taken back
    assert (scores / "random/1/provenance.json").read_bytes() == before["random"]
    assert (scores / "popularity/1/provenance.json").read_bytes() != before["popularity"]
    assert pulled.pending() == {}
    assert pulled.dvc("status").stdout.strip() == CLEAN


REPORT = {"tables": 1, "figures": 1}
QWEN = {"fetch_simulated_encyclopedia": 1, "backbone_qwen_mini": 1, "train": 1, "evaluate": 1, **REPORT}
GEMS = {"fetch_simulated_encyclopedia": 1, "backbone_t5_mini": 1, "basis": 1, "train": 1, "evaluate": 1, **REPORT}
BACKBONES = {**QWEN, **GEMS, "train": 4, "evaluate": 4}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("src/gemsbench/tuners/lora.py", '"""', '"""Edited. ', QWEN),
        ("config/mini.yaml", "*smallest", "{width: 16}", QWEN),
        ("src/gemsbench/tuners/gems.py", '"""', '"""Edited. ', GEMS),
        ("config/mini.yaml", "documents: 20", "documents: 25", GEMS),
        ("src/gemsbench/backbones/stand_ins.py", '"""', '"""Edited. ', BACKBONES),
        ("config/mini.yaml", "words: 3000", "words: 4000", BACKBONES),
    ],
)
def test_in_a_clone_a_change_of_missing_weights_is_noticed(
    pulled: Any, file: str, old: str, new: str, expected: Any
) -> None:
    text = (pulled.root / file).read_text(encoding="utf-8")
    (pulled.root / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    jobs = f"{sum(expected.values())} jobs to run"
    assert jobs in pulled.gemsbench("plan").stdout
    pulled.gemsbench("sync")
    assert pulled.pending() == expected


def test_weights_made_again_in_a_clone_are_the_same_and_change_no_row(pulled: Any) -> None:
    record = pulled.root / "results/mini/runs/simulated-amazon/t5-mini/bsr/1/provenance.json"
    before = record.read_bytes()
    pulled.gemsbench("data", "fetch", "simulated-encyclopedia", "--quiet")
    pulled.gemsbench("backbone", "t5-mini", "--quiet")
    pulled.gemsbench("sync")
    assert pulled.pending() == {"figures": 1}  # the new log has other times in it
    pulled.dvc("repro")
    assert record.read_bytes() == before
    assert pulled.dvc("status").stdout.strip() == CLEAN


def test_going_back_to_an_earlier_commit_brings_its_results_back(finished: Any) -> None:
    finished.git("add", "dvc.lock")
    finished.git("commit", "--quiet", "--message", "first")
    first = finished.result_times()
    finished.edit("config/mini.yaml", "popularity: {}", "popularity: {tasks: [rec]}")
    finished.snakemake()
    finished.dvc("commit", "--quiet", "--force")
    finished.git("commit", "--quiet", "--all", "--message", "second")
    finished.git("checkout", "--quiet", "HEAD~1")
    finished.dvc("checkout", "--quiet")
    assert finished.pending() != {}, "Snakemake still remembers the files of the second commit; only sync knows better"
    finished.gemsbench("sync")
    assert finished.pending() == {}
    assert finished.dvc("repro").stdout.strip().endswith(CLEAN)
    assert finished.result_times().keys() == first.keys()

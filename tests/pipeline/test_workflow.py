"""The Snakefile on a profile that runs in seconds: what runs, what does not, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPORT = {"tables": 1, "figures": 1}
POPULARITY = {"train": 1, "evaluate": 1, **REPORT}
ROW = POPULARITY
ROWS = {"train": 4, "evaluate": 4, **REPORT}  # with a backbone: two of BSR, one of GEMS and of TIGER
ATOMIC = {"identifiers": 1, "train": 3, "evaluate": 3, **REPORT}
SEMANTIC = {"identifiers": 1, **ROW}
VECTORS = {"encoder": 1, **SEMANTIC}
BACKBONES = {"backbone_t5_mini": 1, "backbone_qwen_mini": 1, "basis": 1, **ROWS}
KNOWLEDGE = {"basis": 1, **ROW}
SYNCED = {  # these are also judged by `sync`, which must agree
    "config/mini.yaml",
    "src/gemsbench/encoders/tf_idf.py",
    "src/gemsbench/identifiers/quantiser_training.py",
    "src/gemsbench/tuners/lora.py",
    "src/gemsbench/protocol/prepare.py",
}


def test_after_a_run_there_is_nothing_to_do_and_nothing_left_over(finished: Any) -> None:
    assert finished.pending() == {}
    assert "Nothing to run" in finished.gemsbench("plan").stdout
    assert finished.gemsbench("prune").stdout == "0 files to remove.\n"
    assert not list(finished.root.rglob("*.tmp"))


def test_the_rules_write_exactly_what_the_jobs_declare(finished: Any) -> None:
    summary = finished.snakemake("--summary").stdout
    rows = list(csv.DictReader(summary[summary.index("output_file\t") :].splitlines(), delimiter="\t"))
    assert {row["status"] for row in rows} == {"ok"} and {row["plan"] for row in rows} == {"no update"}
    program = (
        "import json; from pathlib import Path; from gemsbench.profile import load_profile;"
        "from gemsbench.pipeline.jobs import all_jobs;"
        "jobs = all_jobs(load_profile(Path('config/mini.yaml')));"
        "print(json.dumps(sorted(str(path) for job in jobs for path in job.all_outputs)))"
    )
    declared = json.loads(finished.run("python", "-c", program).stdout)
    assert sorted(row["output_file"] for row in rows) == declared


def test_the_report_is_one_page_with_the_tables(finished: Any) -> None:
    finished.snakemake("--report", "report.html")
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert "table1.html" in page and "Training logs" in page and "training.svg" in page
    assert "results/mini/backbones/t5-mini/log.jsonl" in page


# Edits of a backbone's settings, its text and the documents of a basis are made in test_versions.py, in a clone.
@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("src/gemsbench/methods/popularity.py", '"""', '"""Edited. ', POPULARITY),
        ("config/mini.yaml", "popularity: {}", "popularity: {tasks: [rec]}", POPULARITY),
        # A second seed of random and of the four rows with a backbone.
        ("config/mini.yaml", "seeds: [1]", "seeds: [1, 2]", {"train": 5, "evaluate": 5, **REPORT}),
        ("src/gemsbench/tuners/gems.py", '"""', '"""Edited. ', ROW),
        ("src/gemsbench/training/knowledge.py", '"""', '"""Edited. ', KNOWLEDGE),
        ("src/gemsbench/identifiers/atomic.py", '"""', '"""Edited. ', ATOMIC),
        ("src/gemsbench/identifiers/quantiser_training.py", '"""', '"""Edited. ', SEMANTIC),
        ("config/mini.yaml", "epochs: 3", "epochs: 4", SEMANTIC),
        ("src/gemsbench/encoders/tf_idf.py", '"""', '"""Edited. ', VECTORS),
        ("src/gemsbench/methods/tiger.py", '"""', '"""Edited. ', ROW),
        ("src/gemsbench/backbones/stand_ins.py", '"""', '"""Edited. ', BACKBONES),
        ("src/gemsbench/registry.py", '"""', '"""Edited. ', {}),
        (
            "src/gemsbench/protocol/prepare.py",
            '"""',
            '"""Edited. ',
            {"prepare": 1, "encoder": 1, "identifiers": 2, "train": 6, "evaluate": 6, **REPORT},
        ),
    ],
)
def test_an_edit_reruns_exactly_what_depends_on_it(finished: Any, file: str, old: str, new: str, expected: Any) -> None:
    text = (finished.root / file).read_text(encoding="utf-8")
    (finished.root / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert finished.pending() == expected
    if file in SYNCED:
        finished.gemsbench("sync")
        assert finished.pending() == expected


def test_an_edit_taken_back_reruns_nothing(finished: Any) -> None:
    finished.edit("config/mini.yaml", "history_length: 5", "history_length: 6")
    assert finished.pending()["prepare"] == 1
    finished.edit("config/mini.yaml", "history_length: 6", "history_length: 5")
    assert finished.pending() == {}


def test_a_run_after_an_edit_leaves_the_other_runs_alone(finished: Any) -> None:
    before = finished.result_times()
    finished.edit("config/mini.yaml", "popularity: {}", "popularity: {tasks: [rec]}")
    assert "4 jobs to run" in finished.gemsbench("plan").stdout
    finished.snakemake()
    after = finished.result_times()
    assert {path for path in before if "/random/" in path and after[path] != before[path]} == set()
    assert all(after[path] != before[path] for path in before if "/popularity/" in path)
    assert finished.pending() == {}


def test_a_deleted_or_altered_score_file_is_made_again(finished: Any) -> None:
    scores = finished.root / "results/mini/runs/simulated-amazon/none/random/1/scores.parquet"
    original = scores.read_bytes()
    scores.unlink()
    assert finished.pending() == POPULARITY
    scores.write_bytes(original[:-1] + b"x")
    plan = finished.gemsbench("plan", "--why").stdout
    assert "scores was altered" in plan
    finished.gemsbench("sync")
    finished.snakemake()
    assert scores.read_bytes() == original  # the same scores, bit for bit


def test_a_method_taken_out_leaves_files_that_prune_removes(finished: Any) -> None:
    results = finished.root / "results/mini"
    finished.edit("config/mini.yaml", "  popularity: {}\n", "")
    listed = finished.gemsbench("prune").stdout
    assert "results/mini/runs/simulated-amazon/none/popularity/1/scores.parquet" in listed
    assert (results / "runs/simulated-amazon/none/popularity").is_dir()
    finished.gemsbench("prune", "--yes")
    assert not (results / "runs/simulated-amazon/none/popularity").exists()
    assert (results / "runs/simulated-amazon/none/random/1/scores.parquet").is_file()
    assert finished.pending() == REPORT


def test_another_config_file_is_never_merged_with_the_default_one(checkout: Any) -> None:
    text = (checkout.root / "config/mini.yaml").read_text(encoding="utf-8")
    other = text.replace("profile: mini", "profile: other").replace("  popularity: {}\n", "")
    (checkout.root / "config/other.yaml").write_text(other, encoding="utf-8")
    for path in ("config/other.yaml", str(checkout.root / "config/other.yaml")):
        done = checkout.snakemake("--dry-run", "--printshellcmds", "--configfile", path)
        assert "results/other/runs/simulated-amazon/none/random/1/scores.parquet" in done.stdout
        assert "popularity" not in done.stdout and "results/mini" not in done.stdout
        assert "--config config/other.yaml " in done.stdout
    assert not (checkout.root / "results/mini").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "history_length=9"], "a profile is one file"),
        (["--configfile", "config/mini.yaml", "config/mini-real.yaml"], "one file is needed"),
        (["--configfile", "config/wrong-key.yaml"], "Did you mean 'history_length'?"),
        (["--configfile", "config/wrong-type.yaml"], "seeds"),
        (["--configfile", "config/wrong-recipe.yaml"], "Did you mean 'simulated-amazon'?"),
    ],
)
def test_wrong_settings_stop_before_any_job(checkout: Any, arguments: list[str], message: str) -> None:
    text = (checkout.root / "config/mini.yaml").read_text(encoding="utf-8")
    wrong = {
        "wrong-key": text.replace("history_length", "history_lenght"),
        "wrong-type": text.replace("seeds: [1]", "seeds: ['1']"),
        "wrong-recipe": text.replace("simulated-amazon", "simulated-amazn"),
    }
    for name, changed in wrong.items():
        (checkout.root / f"config/{name}.yaml").write_text(changed, encoding="utf-8")
    done = checkout.snakemake(*arguments, check=False)
    assert done.returncode == 1 and message in done.stdout + done.stderr
    assert not (checkout.root / "data").exists()


def test_settings_files_change_only_with_their_content(finished: Any) -> None:
    folder: Path = finished.root / "results/mini/settings"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    finished.edit("config/mini.yaml", "popularity: {}", "popularity: {tasks: [rec]}")
    finished.snakemake("--dry-run")
    changed = {str(path.relative_to(folder)) for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"train/simulated-amazon/none/popularity/1.json", "tables/all.json", "figures/all.json"}


def test_a_second_profile_of_the_same_recipe_leaves_the_first_alone(finished: Any) -> None:
    text = (finished.root / "config/mini.yaml").read_text(encoding="utf-8")
    other = finished.root / "config/other.yaml"
    other.write_text(text.replace("profile: mini", "profile: other"), encoding="utf-8")
    finished.snakemake("--configfile", "config/other.yaml", "--", "prepared")
    assert finished.pending() == {}


def test_another_tie_rule_makes_every_number_anew(finished: Any) -> None:
    finished.edit("src/gemsbench/protocol/fingerprint.py", '"pessimistic"', '"optimistic"')
    finished.gemsbench("sync")
    finished.snakemake("--", "prepared")
    finished.gemsbench("sync")
    assert finished.pending() == {"train": 6, "evaluate": 6, **REPORT}


@pytest.mark.parametrize("file", ["envs/requirements.lock", "envs/torch.txt"])
def test_another_library_version_trains_anew(finished: Any, file: str) -> None:
    path = finished.root / file
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert finished.pending()["train"] == 6


def test_prune_waits_for_a_running_workflow(finished: Any) -> None:
    lock = finished.root / ".snakemake" / "locks" / "0.input.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("")
    done = finished.gemsbench("prune", "--yes", check=False)
    assert done.returncode == 1
    assert "another run is at work" in done.stderr

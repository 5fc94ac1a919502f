"""The jobs of a profile as data."""

from __future__ import annotations

import importlib
import inspect
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gemsbench import registry
from gemsbench.backbones.corpus import text_file
from gemsbench.errors import InputError
from gemsbench.files import write_json, write_text
from gemsbench.pipeline import schema
from gemsbench.pipeline.backbone_jobs import backbone_job
from gemsbench.pipeline.data_jobs import prepare_job
from gemsbench.pipeline.environment import job_environment
from gemsbench.pipeline.job import RULES, Job
from gemsbench.pipeline.jobs import all_jobs, train_job
from gemsbench.pipeline.plan import plan
from gemsbench.pipeline.prune import unclaimed
from gemsbench.pipeline.resources import benchmark_path, expected, needs
from gemsbench.pipeline.settings_files import settings_path, write_settings
from gemsbench.profile import CorpusSettings, MethodSettings, Profile, Run, load_profile, method_entry

PROFILES = ("mini", "mini-real")


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def profile(name: str = "mini") -> Profile:
    """A committed profile with BSR alone on the backbones; bases, encoders and schemes have tests of their own."""
    chosen = load_profile(Path(f"config/{name}.yaml"))
    kept = {key: s for key, s in chosen.methods.items() if key == "bsr" or not method_entry(chosen, key).backbones}
    return replace(chosen, methods=kept)


def whole(name: str) -> Profile:
    """A committed profile with the row that needs a knowledge basis."""
    chosen = load_profile(Path(f"config/{name}.yaml"))
    return replace(chosen, methods={"gems": MethodSettings(), **chosen.methods})


def code_of(job: Job) -> set[str]:
    return {path.relative_to(Path.cwd()).as_posix() for path in job.source_files()}


@pytest.mark.parametrize("name", PROFILES)
def test_jobs_come_after_what_they_read_and_no_file_has_two_writers(name: str) -> None:
    written: set[Path] = set()
    jobs = list(all_jobs(whole(name)))
    for job in jobs:
        made = {path for path in job.inputs.values() if path.parts[0] in ("results", "data")}
        made = {path for path in made if path.parts[:2] != ("results", "published")}
        assert made <= written, f"{job.rule} {job.name} reads what nothing before it writes"
        assert written.isdisjoint(job.all_outputs)
        assert all(path.is_relative_to(job.folder) for path in job.all_outputs)
        written.update(job.all_outputs)
    assert len({(job.rule, job.name) for job in jobs}) == len(jobs)
    assert {job.rule for job in jobs} == set(RULES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_method_file_concerns_only_its_own_runs(name: str) -> None:
    for job in all_jobs(whole(name)):
        sees = code_of(job)
        concerned = job.rule == "train" and "/popularity/" in job.name
        assert ("src/gemsbench/methods/popularity.py" in sees) is concerned, f"{job.rule} {job.name}"
        assert not any(path.startswith(("src/gemsbench/cli", "src/gemsbench/pipeline")) for path in sees)
        assert sees.isdisjoint({"src/gemsbench/registry.py", "src/gemsbench/profile.py"})


def test_a_recipe_file_concerns_its_own_data_and_the_report() -> None:
    for job in all_jobs(profile()):
        sees = "src/gemsbench/data/qilin.py" in code_of(job)
        own = job.rule in ("fetch", "prepare") and job.name == "simulated-qilin"
        assert sees is (own or job.rule in ("tables", "figures")), f"{job.rule} {job.name}"


REPORT = {"tables all", "figures all"}


def made_of(backbone: str) -> set[str]:
    """A backbone and the runs that tune it."""
    return {f"backbone {backbone}", *(f"train {recipe}/{backbone}/bsr/1" for recipe in profile().recipes)}


def seeing(file: str, chosen: Profile | None = None) -> set[str]:
    """The jobs that an edit of a source file concerns."""
    path = f"src/gemsbench/{file}"
    return {f"{job.rule} {job.name}" for job in all_jobs(chosen or profile()) if path in code_of(job)}


def test_each_part_of_a_generative_method_concerns_exactly_its_rows() -> None:
    t5, qwen = made_of("t5-mini"), made_of("qwen-mini")
    rows = {name for name in t5 | qwen if name.startswith("train")}
    assert seeing("methods/bsr.py") == rows
    assert seeing("identifiers/atomic.py") == {f"identifiers {recipe}/atomic" for recipe in profile().recipes}
    for file in ("decoding/exact.py", "decoding/t5_tree.py", "training/objective.py"):
        assert seeing(file) == rows, file
    assert seeing("tuners/lora.py") == rows & qwen
    assert seeing("tuners/full.py") == rows & t5
    for file in ("backbones/stand_ins.py", "backbones/catalogue.py", "training/pretraining.py"):
        assert seeing(file) == t5 | qwen, file
    assert seeing("data/encyclopedia.py") == t5 | qwen | {"fetch simulated-encyclopedia"}


def test_a_tuner_named_by_the_profile_takes_the_place_of_the_default() -> None:
    config = {"tuners": {"t5": {"name": "lora"}}}
    changed = replace(profile(), methods={**profile().methods, "bsr": replace(profile().methods["bsr"], config=config)})
    rows = {name for name in made_of("t5-mini") | made_of("qwen-mini") if name.startswith("train")}
    assert seeing("tuners/lora.py", changed) == rows
    assert seeing("tuners/full.py", changed) == set()


def test_a_backbone_that_no_run_tunes_is_not_made() -> None:
    methods = {key: settings for key, settings in profile().methods.items() if key != "bsr"}
    without = replace(profile(), methods=methods, corpus=CorpusSettings())
    assert {job.rule for job in all_jobs(without)} == set(RULES) - {"backbone", "basis", "encoder", "identifiers"}
    assert not any("backbones" in str(path) for job in all_jobs(without) for path in job.inputs.values())
    assert "fetch simulated-encyclopedia" not in {f"{job.rule} {job.name}" for job in all_jobs(without)}


def test_a_stand_in_without_a_corpus_and_a_wrong_setting_are_named() -> None:
    with pytest.raises(InputError, match=r"t5-mini is pre-trained on plain text.*Add `corpus: {name: "):
        list(all_jobs(replace(profile(), corpus=CorpusSettings())))
    with pytest.raises(InputError, match=r"backbones: t5-mini: unknown key 'widht'. Did you mean 'width'"):
        list(all_jobs(replace(profile(), backbones={"t5-mini": {"widht": 8}})))


def test_a_hub_model_needs_no_corpus_and_its_revision_is_part_of_its_rows() -> None:
    blocks = {"T5-base": "flan-t5-base"}
    paper = replace(profile(), corpus=CorpusSettings(), tables=replace(profile().tables, blocks=blocks))
    job = backbone_job(paper, "flan-t5-base")
    assert job.inputs == {} and "model.safetensors" in job.outputs
    assert code_of(job) == set()  # no edit downloads it again
    assert job.settings["repository"] == "google/flan-t5-base" and len(job.settings["revision"]) == 40
    assert set(job.settings["files"]) == set(job.outputs)
    row = train_job(paper, Run("simulated-amazon", "flan-t5-base", "bsr", 1))
    assert row.settings["backbone_made_with"] == job.settings
    assert "backbone/model.safetensors" in row.inputs and row.makers == (job,)
    assert not any(job.rule == "fetch" and job.name in ("wikitext-2",) for job in all_jobs(paper))


def test_the_weights_of_a_run_are_inputs_but_not_the_log_of_how_they_were_made() -> None:
    row = train_job(profile(), Run("simulated-amazon", "t5-mini", "bsr", 1))
    read = {path.name for name, path in row.inputs.items() if name.startswith("backbone/")}
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= read
    assert read.isdisjoint({"log.jsonl", "backbone.json"})  # seconds differ from one time to the next
    assert set(row.replaceable) == {f"backbone/{name}" for name in read}


@pytest.mark.parametrize(
    ("table", "name", "rules"),
    [
        ("TUNERS", "full", {"train"}),
        ("BACKBONES", "t5-mini", {"backbone", "train"}),
        ("CORPORA", "simulated-encyclopedia", {"fetch", "backbone", "train"}),
    ],
)
def test_a_name_that_stands_for_another_object_reruns_what_uses_it(
    table: str, name: str, rules: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the other object lies in the same file, so that the code is the same."""
    before = {(job.rule, job.name): job.settings for job in all_jobs(profile())}
    entries = dict(getattr(registry, table))
    target = getattr(entries[name], "target", entries[name])
    other = target.replace(":", ":OTHER_")
    module = importlib.import_module(target.partition(":")[0])
    monkeypatch.setattr(module, other.partition(":")[2], registry.resolve(target), raising=False)
    entries[name] = replace(entries[name], target=other) if table == "BACKBONES" else other
    monkeypatch.setattr(registry, table, entries)
    changed = {key for job in all_jobs(profile()) if job.settings != before[key := (job.rule, job.name)]}
    assert {rule for rule, _ in changed} == rules
    tuned = {job for rule, job in changed if rule == "train"}
    assert tuned and all(("/t5-mini/" in job) or table == "CORPORA" for job in tuned)


def test_how_documents_become_the_text_of_a_backbone_is_part_of_its_code() -> None:
    job = backbone_job(profile(), "t5-mini")
    assert Path(inspect.getfile(inspect.unwrap(text_file))) in job.source_files()


def test_the_folder_of_backbones_is_there_in_a_profile_without_any(tmp_path: Path) -> None:
    """A DVC stage fails without its outputs."""
    stage = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["results"]
    made = [command for command in stage["cmd"] if command.startswith("mkdir")]
    for command in made:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    absent = [path for out in stage["outs"] for path in out if not (tmp_path / path).is_dir()]
    assert absent == ["results/mini/runs"]  # every profile has runs


def test_a_setting_changes_the_jobs_that_use_it() -> None:
    def settings(changed: Profile) -> dict[str, object]:
        return {f"{job.rule} {job.name}": job.settings for job in all_jobs(changed)}

    def differing(changed: Profile) -> set[str]:
        before, after = settings(profile()), settings(changed)
        return {name for name in after if after[name] != before.get(name)}

    ncf = {**profile().methods, "ncf": replace(profile().methods["ncf"], config={"seed_of_nothing": 1})}
    runs = {"train simulated-amazon/none/ncf/1", "train simulated-qilin/none/ncf/1"}
    assert differing(replace(profile(), methods=ncf)) == {*runs, *REPORT}
    recipes = {"prepare simulated-amazon", "prepare simulated-qilin"}
    assert differing(replace(profile(), history_length=6)) == {*recipes, *REPORT}
    raw = {"fetch simulated-amazon", "fetch simulated-qilin"}
    corpus = {"fetch simulated-encyclopedia", *made_of("t5-mini"), *made_of("qwen-mini")}
    codes = {f"identifiers {recipe}/atomic" for recipe in profile().recipes}
    assert differing(replace(profile(), data_seed=1)) == {*raw, *recipes, *corpus, *codes, *REPORT}
    assert differing(replace(profile(), comparable_with_paper=True)) == REPORT
    smaller = replace(profile(), corpus=CorpusSettings("simulated-encyclopedia", {"words": 1000}))
    assert differing(smaller) == {*corpus, *REPORT}
    wider = replace(profile(), backbones={"t5-mini": {"width": 32}})
    assert differing(wider) == {*made_of("t5-mini"), *REPORT}


def test_the_length_of_histories_is_no_setting_of_a_released_recipe() -> None:
    chosen = load_profile(Path("config/paper.yaml"))
    made = {name: prepare_job(chosen, name).settings for name in chosen.recipes}
    released = {name for name in made if registry.resolve(registry.RECIPES[name]).released}
    assert released and released != set(made)
    longer = replace(chosen, history_length=chosen.history_length + 1)
    assert {name for name in made if prepare_job(longer, name).settings == made[name]} == released


def test_the_stages_of_dvc_depend_on_all_that_their_jobs_read(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    rules = {
        "prepare": ("fetch", "prepare"),
        "results": ("backbone", "basis", "train", "evaluate"),
        "tables": ("tables", "figures"),
    }
    outputs = [Path(next(iter(out))) for stage in stages.values() for out in stage["outs"]]
    for name, stage in stages.items():
        depends = [Path(path) for path in stage["deps"]]
        jobs = [job for job in all_jobs(whole("mini")) if job.rule in rules[name]]
        own = [Path(next(iter(out))) for out in stage["outs"]]
        read = {path for job in jobs for path in job.inputs.values()} | {Path(p) for job in jobs for p in code_of(job)}
        read = {path for path in read if path.parts[0] != "data"}  # simulated raw files are made by the stage itself
        missing = {str(path) for path in read if not any(path.is_relative_to(root) for root in (*depends, *own))}
        assert not missing, f"stage {name} does not depend on {sorted(missing)}"
        assert all(out[str(path)] == {"persist": True} for out, path in zip(stage["outs"], own, strict=True))
    assert not any(a != b and a.is_relative_to(b) for a in outputs for b in outputs)


def test_settings_files_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = list(all_jobs(profile()))
    monkeypatch.chdir(tmp_path)  # those of raw files, which all profiles share, lie below data/
    with_settings = [job for job in jobs if settings_path(tmp_path, job)]
    assert len(write_settings(tmp_path, jobs)) == len(with_settings) > 0
    assert write_settings(tmp_path, jobs) == ()
    changed = settings_path(tmp_path, jobs[0])
    assert changed is not None
    write_text(changed, "{ not JSON")
    assert write_settings(tmp_path, jobs) == (changed,)


def test_the_schema_file_is_that_of_the_code(repository: Path) -> None:
    text = (repository / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    assert text == schema.schema_text(), "run `make schema`"
    assert schema.profile_schema()["additionalProperties"] is False


def test_resources_name_every_rule_and_profiles_override_single_keys(tmp_path: Path) -> None:
    assert {rule: needs(rule, "mini").threads > 0 for rule in RULES} == dict.fromkeys(RULES, True)
    path = tmp_path / "resources.yaml"
    write_text(path, "train:\n  default: {threads: 2, mem_mb: 5}\n  big: {mem_mb: 7}\n")
    assert (needs("train", "small", path).mem_mb, needs("train", "big", path).mem_mb) == (5, 7)
    assert needs("train", "big", path).threads == 2
    with pytest.raises(InputError, match="evaluate"):
        needs("evaluate", "big", path)
    write_text(path, "train: {default: {memory: 5}}\n")
    with pytest.raises(InputError, match="unknown key 'memory'"):
        needs("train", "big", path)


def test_the_plan_uses_what_earlier_runs_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Path("workflow/resources.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "workflow/resources.yaml", resources)
    before = plan(profile_in(tmp_path), cores=2)
    assert [rule.rule for rule in before.rules] == [
        rule for rule in RULES if rule not in ("backbone", "basis", "encoder", "identifiers")
    ]
    assert all(rule.to_run == rule.jobs and rule.source == "upper limit" for rule in before.rules)
    job = next(job for job in all_jobs(profile_in(tmp_path)) if job.rule == "prepare")
    path = benchmark_path(Path("results/mini"), job)
    write_text(path, "s\th:m:s\tmax_rss\n1.5\t0:00:01\t120.0\n")
    cost = expected(job, Path("results/mini"), needs("prepare", "mini"))
    assert (cost.seconds, cost.memory_mb, cost.measured) == (1.5, 120.0, True)
    assert plan(profile_in(tmp_path), cores=2).seconds < before.seconds


def profile_in(folder: Path) -> Profile:
    path = folder / "config.yaml"
    if not path.exists():
        write_text(
            path,
            "profile: mini\nseeds: [1]\nhistory_length: 5\nrecipes: {simulated-amazon: {}}\n"
            "methods: {random: {}}\ntables: {columns: {Amazon: simulated-amazon}}\n",
        )
    return load_profile(path)


def test_only_files_that_no_job_writes_are_unclaimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = {"T5-base": "t5-mini"}
    tuned = {"random": MethodSettings(), "bsr": MethodSettings(), "gems": MethodSettings()}
    plain = profile_in(tmp_path)
    chosen = replace(
        plain,
        methods=tuned,
        corpus=CorpusSettings("simulated-encyclopedia"),
        tables=replace(plain.tables, blocks=blocks),
    )
    for job in all_jobs(chosen):
        for path in (*job.outputs.values(), benchmark_path(Path("results/mini"), job)):
            write_json(path, {})
        for folder in job.unversioned.values():
            write_json(folder / "any/file.json", {})
            write_json(folder.with_name("model.checkpoint") / "state.json", {})
    write_json(tmp_path / "results/mini/backbones/t5-mini.checkpoint/state.json", {})
    assert unclaimed(chosen) == []
    strays = [Path("results/mini/runs/gone/scores.parquet"), Path("results/mini/tables/.table1.tex.0.tmp")]
    for stray in strays:
        write_json(stray, {})
    assert unclaimed(chosen) == sorted(strays)


def test_jobs_run_with_this_source_and_these_commands() -> None:
    made = job_environment(Path("/here/src"), {"PYTHONPATH": "/x:/here/src", "PATH": "/bin", "HF_HUB_OFFLINE": "0"})
    assert made["PYTHONPATH"] == "/here/src:/x" and made["PATH"].endswith(":/bin")
    assert made["PYTHONHASHSEED"] == "0" and made["HF_HUB_OFFLINE"] == "0" and made["TRANSFORMERS_OFFLINE"] == "1"

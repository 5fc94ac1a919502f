"""The jobs that collect knowledge bases: which runs need one, of which side, and what makes them anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemsbench.errors import InputError
from gemsbench.files import write_text
from gemsbench.pipeline.backbone_jobs import BASIS, backbone_job, basis_job
from gemsbench.pipeline.job import Job
from gemsbench.pipeline.jobs import all_jobs, train_job
from gemsbench.pipeline.state import judge, standing, states
from gemsbench.pipeline.tuner_settings import basis_side
from gemsbench.profile import CorpusSettings, KnowledgeSettings, MethodSettings, Profile, Run, load_profile
from gemsbench.provenance import recording

T5 = Run("simulated-amazon", "t5-mini", "gems", 1)
QWEN = Run("simulated-amazon", "qwen-mini", "gems", 1)
CORPUS = "simulated-encyclopedia"


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def profile(methods: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any) -> Profile:
    """mini with these method keys (base gems: config), BSR, and no other."""
    own = {} if methods is None else dict(methods)
    keys = {key: MethodSettings(base="gems", config=config) for key, config in (own or {"gems": {}}).items()}
    chosen = load_profile(Path("config/mini.yaml"))
    return replace(chosen, methods={"bsr": MethodSettings(), **keys}, knowledge=KnowledgeSettings(), **changes)


def tuned(kind: str, **config: Any) -> dict[str, Any]:
    return {"tuners": {kind: {"config": config}}}


def names(chosen: Profile, rule: str = "basis") -> list[str]:
    return [job.name for job in all_jobs(chosen) if job.rule == rule]


def test_a_run_of_gems_reads_the_basis_of_its_backbone_and_others_do_not() -> None:
    chosen = profile()
    assert names(chosen) == ["t5-mini", "qwen-mini"]
    row = train_job(chosen, T5)
    assert row.inputs[BASIS] == Path("results/mini/basis/t5-mini.safetensors")
    assert BASIS in row.replaceable and [job.rule for job in row.makers] == ["backbone", "basis"]
    other = train_job(chosen, replace(T5, method="bsr"))
    assert BASIS not in other.inputs and "basis_made_with" not in other.settings
    assert [job.rule for job in other.makers] == ["backbone"]


def test_a_basis_reads_the_text_and_the_weights_but_not_how_they_were_made() -> None:
    job = basis_job(profile(), "t5-mini")
    read = set(job.inputs)
    assert {"corpus/encyclopedia.txt", "backbone/model.safetensors", "requirements", "torch"} <= read
    assert read.isdisjoint({"backbone/log.jsonl", "backbone/backbone.json"})
    assert set(job.replaceable) == read - {"requirements", "torch"}
    assert job.provenance_path == Path("results/mini/basis/t5-mini.provenance.json")
    assert job.raw_folder == Path("data/simulated/simulated-encyclopedia")


@pytest.mark.parametrize(
    ("config", "side"),
    [
        ({}, "input"),
        (tuned("t5", null_space=False), None),
        (tuned("qwen2", null_space=False), "input"),
        (tuned("t5", null_space_side="output"), "output"),
        (tuned("t5", preset="reference"), "output"),
        ({"initial": "random"}, None),
        ({"tuners": {"t5": {"name": "full"}}}, None),
    ],
)
def test_the_settings_of_a_run_decide_which_basis_it_needs(config: dict[str, Any], side: str | None) -> None:
    chosen = profile({"x": config})
    run = replace(T5, method="x")
    assert basis_side(chosen, run) == side
    suffix = {"input": "t5-mini", "output": "t5-mini-output", None: ""}[side]
    read = train_job(chosen, run).inputs.get(BASIS)
    assert (read.stem if read else "") == suffix
    assert [name for name in names(chosen) if name.startswith("t5-mini")] == ([suffix] if suffix else [])


def test_each_basis_is_made_once_for_all_rows_that_read_it() -> None:
    side = tuned("t5", null_space_side="output")
    chosen = profile({"gems": {}, "gems+uniform": tuned("t5", gate="uniform"), "gems+output": side, "gems+o2": side})
    assert sorted(names(chosen)) == ["qwen-mini", "t5-mini", "t5-mini-output"]
    assert basis_job(chosen, "t5-mini", "output").settings["side"] == "output"


def test_a_wrong_setting_of_the_tuner_or_the_basis_is_named_before_anything_runs() -> None:
    with pytest.raises(InputError, match=r"methods\.gems\.config\.tuners\.t5\.config: unknown key 'null_spce'"):
        list(all_jobs(profile({"gems": tuned("t5", null_spce=False)})))
    where = r"profile 'mini', methods\.gems\.config\.tuners\.t5\.config"
    for initial in ({}, {"initial": "random"}):
        with pytest.raises(InputError, match=where + ": gems: rank is 0; it must be at least 1"):
            list(all_jobs(profile({"gems": tuned("t5", rank=0) | initial})))
    wrong = replace(profile(), knowledge=KnowledgeSettings(settings={"k": "n/1"}))
    with pytest.raises(InputError, match="knowledge: k: k = n/1: nothing would be left"):
        list(all_jobs(wrong))
    with pytest.raises(InputError, match=r"knowledge\.settings: unknown key 'document'"):
        list(all_jobs(replace(profile(), knowledge=KnowledgeSettings(settings={"document": 1}))))
    hub = profile(corpus=CorpusSettings(), tables=replace(profile().tables, blocks={"T5-base": "flan-t5-base"}))
    with pytest.raises(
        InputError, match="the knowledge basis of flan-t5-base is collected on plain text, and no corpus"
    ):
        list(all_jobs(hub))


def test_the_released_code_s_settings_are_refused_on_a_backbone_that_it_does_not_know() -> None:
    reference = tuned("qwen2", preset="reference", null_space=False)
    with pytest.raises(InputError, match=r"tuners\.qwen2\.config\.preset: .*Limit .* by methods\.gems\.backbones"):
        list(all_jobs(profile({"gems": reference})))
    limited = profile({"gems": reference})
    methods = {**limited.methods, "gems": replace(limited.methods["gems"], backbones=("t5-mini",))}
    assert names(replace(limited, methods=methods)) == ["t5-mini"]


def test_jobs_are_listed_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from gemsbench.pipeline.jobs import all_jobs\n"
        "from gemsbench.profile import load_profile; list(all_jobs(load_profile(Path('config/mini.yaml'))))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_setting_of_the_basis_changes_it_and_the_rows_that_read_it() -> None:
    before = {(job.rule, job.name): job.settings for job in all_jobs(profile())}
    smaller = replace(profile(), knowledge=KnowledgeSettings(settings={"documents": 7}))
    changed = {key for job in all_jobs(smaller) if job.settings != before[key := (job.rule, job.name)]}
    gems = {("train", f"{recipe}/{b}/gems/1") for recipe in profile().recipes for b in ("t5-mini", "qwen-mini")}
    bases = {("basis", "t5-mini"), ("basis", "qwen-mini")}
    assert changed == gems | bases | {("tables", "all"), ("figures", "all")}
    wider = {(job.rule, job.name) for job in all_jobs(replace(profile(), backbones={"t5-mini": {"width": 32}}))
             if job.settings != before[(job.rule, job.name)]}  # fmt: skip
    assert ("basis", "t5-mini") in wider and ("basis", "qwen-mini") not in wider


def seeing(file: str) -> set[str]:
    path = Path.cwd() / "src/gemsbench" / file
    return {f"{job.rule} {job.name}" for job in all_jobs(profile()) if path in job.source_files()}


def test_an_edit_reruns_the_bases_and_the_rows_that_read_them() -> None:
    recipes = profile().recipes
    gems = {f"train {recipe}/{backbone}/gems/1" for recipe in recipes for backbone in ("t5-mini", "qwen-mini")}
    bases = {"basis t5-mini", "basis qwen-mini"}
    for file in ("training/knowledge.py", "optim/nystroem.py", "optim/input_groups.py"):
        assert seeing(file) == bases | gems, file
    assert seeing("tuners/gems.py") == gems
    assert "train simulated-amazon/t5-mini/bsr/1" in seeing("training/pretraining.py") > bases


def test_a_corpus_of_its_own_is_fetched_and_a_sample_of_the_hub_never_again_for_an_edit() -> None:
    own = KnowledgeSettings(CorpusSettings("wikipedia", {"documents": 100}))
    jobs = {(job.rule, job.name): job for job in all_jobs(replace(profile(), knowledge=own))}
    fetched = jobs[("fetch", "wikipedia")]
    assert fetched.outputs == {"documents.parquet": Path("data/sampled/wikipedia/documents.parquet")}
    assert fetched.source_files() == () and len(fetched.settings["settings"]["revision"]) == 40
    basis = jobs[("basis", "t5-mini")]
    assert basis.inputs["corpus/documents.parquet"] == fetched.outputs["documents.parquet"]
    assert basis.settings["corpus"]["settings"]["documents"] == 100
    assert "corpus/documents.parquet" in basis.replaceable
    assert ("fetch", CORPUS) in jobs  # the stand-ins are still made of the profile's


def test_pinned_text_of_a_corpus_is_judged_by_its_pin() -> None:
    chosen = replace(profile(), knowledge=KnowledgeSettings(CorpusSettings("wikitext-2")))
    job = basis_job(chosen, "t5-mini")
    assert set(job.pins) == {"corpus/valid.txt", "corpus/test.txt"}
    assert set(job.replaceable).isdisjoint(job.pins)


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Job]]:
    """Text, backbone, basis and a run that reads it, as a clone has them: results, and records of what is not kept."""
    for name in ("requirements.lock", "torch.txt"):
        write_text(tmp_path / "envs" / name, "x")
    write_text(tmp_path / "prepared.txt", "x")
    chosen = profile()
    names = ("fetch", "backbone", "basis", "train")
    text = next(job for job in all_jobs(chosen) if (job.rule, job.name) == ("fetch", CORPUS))
    row = train_job(chosen, T5)
    made = (Path("results/mini/prepared"), Path("results/mini/identifiers"))
    data = {name: path for name, path in row.inputs.items() if any(path.is_relative_to(folder) for folder in made)}
    row = replace(row, inputs={k: Path("prepared.txt") if k in data else v for k, v in row.inputs.items()})
    jobs = [text, backbone_job(chosen, "t5-mini"), basis_job(chosen, "t5-mini"), row]
    assert tuple(job.rule for job in jobs) == names
    monkeypatch.chdir(tmp_path)
    for job in jobs:
        with recording(job.folder, job):
            for name, path in job.outputs.items():
                write_text(path, f"{job.name} {name}")
    for path in (*text.outputs.values(), *jobs[2].outputs.values()):
        path.unlink()
    for name, path in jobs[1].outputs.items():
        if name != "log.jsonl":
            path.unlink()
    return tmp_path / "results/mini", jobs


def running(jobs: list[Job], results: Path) -> list[str]:
    return [state.job.rule for state in states(jobs, results) if state.runs]


def test_a_row_whose_basis_is_not_there_is_judged_by_what_it_was_made_with(pulled: tuple[Path, list[Job]]) -> None:
    results, jobs = pulled
    assert running(jobs, results) == []
    text, backbone, basis, row = jobs
    assert judge(row) == ("current", "")
    assert ("train", row.name) in standing(jobs, results)
    other = replace(basis, settings={**basis.settings, "side": "output"})
    assert judge(replace(row, settings={**row.settings, "basis_made_with": other.settings}))[1] == "other settings"
    edited = [text, backbone, basis, replace(row, settings={**row.settings, "seed": 2})]
    assert running(edited, results) == ["fetch", "backbone", "basis", "train"]  # all that it needs is made again


def test_a_row_is_stale_when_the_record_names_another_basis(pulled: tuple[Path, list[Job]]) -> None:
    results, jobs = pulled
    path = jobs[2].provenance_path
    assert path is not None
    text = path.read_text(encoding="utf-8")
    made = next(line for line in text.splitlines() if f'"{BASIS}": "' in line)
    write_text(path, text.replace(made, f'    "{BASIS}": "00"'))
    assert judge(jobs[3]) == ("stale", "other inputs")
    assert running(jobs, results) == ["fetch", "backbone", "basis", "train"]


def test_another_basis_in_its_place_makes_the_row_stale(pulled: tuple[Path, list[Job]]) -> None:
    _, jobs = pulled
    path = jobs[2].outputs[BASIS]
    write_text(path, f"{jobs[2].name} {BASIS}")
    assert judge(jobs[3]) == ("current", "")
    write_text(path, "of another machine")
    assert judge(jobs[3]) == ("stale", "other inputs")


def test_a_basis_named_on_the_command_line_is_what_is_recorded() -> None:
    row = train_job(profile(), T5, basis=Path("mine.safetensors"))
    assert row.inputs[BASIS] == Path("mine.safetensors")

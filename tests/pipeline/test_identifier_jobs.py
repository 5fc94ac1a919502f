"""The jobs that make item vectors and identifiers: which runs need which, and what an edit of each part reruns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gemsbench import registry
from gemsbench.errors import InputError
from gemsbench.files import write_json, write_text
from gemsbench.pipeline.identifier_jobs import encoder_job, identifiers_job
from gemsbench.pipeline.jobs import all_jobs, train_job
from gemsbench.pipeline.prune import unclaimed
from gemsbench.profile import MethodSettings, Profile, Run, SchemeSettings, load_profile

RECIPE = "simulated-amazon"
METHODS = {"bsr": "atomic", "tiger": "rqvae", "letter": "letter", "sem-bsr": "sem"}


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def profile(methods: Mapping[str, MethodSettings] | None = None, **changes: object) -> Profile:
    """mini on one recipe and one backbone with these method keys: one of each scheme unless named."""
    chosen = load_profile(Path("config/mini.yaml"))
    tables = replace(chosen.tables, columns={"Amazon": RECIPE}, blocks={"T5-base": "t5-mini"})
    kept = dict(methods) if methods is not None else {key: MethodSettings() for key in METHODS}
    return replace(chosen, recipes={RECIPE: {}}, tables=tables, methods=kept, **{"identifiers": {}, **changes})


def names(chosen: Profile, rule: str) -> set[str]:
    return {job.name.removeprefix(f"{RECIPE}/") for job in all_jobs(chosen) if job.rule == rule}


def seeing(file: str, chosen: Profile | None = None) -> set[str]:
    path = Path.cwd() / "src/gemsbench" / file
    return {f"{job.rule} {job.name}" for job in all_jobs(chosen or profile()) if path in job.source_files()}


@pytest.mark.parametrize(
    ("method", "encoders"),
    [("bsr", set()), ("tiger", {"item-text"}), ("letter", {"item-text", "sasrec"}), ("sem-bsr", {"bi-encoder"})],
)
def test_a_method_brings_its_identifiers_and_the_vectors_behind_them(method: str, encoders: set[str]) -> None:
    chosen = profile({method: MethodSettings()})
    assert names(chosen, "identifiers") == {METHODS[method]}
    assert names(chosen, "encoder") == encoders
    row = train_job(chosen, Run(RECIPE, "t5-mini", method, 1))
    folder = Path("results/mini/identifiers") / RECIPE / METHODS[method]
    assert row.inputs["identifiers/codes.parquet"] == folder / "codes.parquet"
    assert row.inputs["identifiers/codes.json"] == folder / "codes.json"
    assert row.settings["scheme"] == METHODS[method]
    read = {name for name in identifiers_job(chosen, RECIPE, METHODS[method]).inputs if name.startswith("vectors/")}
    assert read == {f"vectors/{name}" for name in encoders}


def test_a_method_that_writes_no_identifiers_brings_none() -> None:
    chosen = profile({"ncf": MethodSettings(), "sasrec": MethodSettings()})
    assert names(chosen, "identifiers") == names(chosen, "encoder") == set()
    assert "scheme" not in train_job(chosen, Run(RECIPE, "none", "sasrec", 1)).settings


def test_vectors_and_identifiers_are_made_once_for_all_rows_that_read_them() -> None:
    variants = {"gems+sem": MethodSettings(base="gems", scheme="sem", config={"tuners": {"t5": {"name": "full"}}})}
    chosen = profile({"sem-bsr": MethodSettings(), **variants})
    assert names(chosen, "identifiers") == {"sem"} and names(chosen, "encoder") == {"bi-encoder"}
    rows = [
        train_job(chosen, Run(RECIPE, "t5-mini", key, 1)).inputs["identifiers/codes.parquet"] for key in chosen.methods
    ]
    assert len(set(rows)) == 1


def test_a_variant_of_a_scheme_is_its_own_key_and_folder() -> None:
    variant = {"rqvae+small": SchemeSettings(base="rqvae", config={"quantiser": {"levels": 2}})}
    methods = {"tiger": MethodSettings(), "tiger+small": MethodSettings(base="tiger", scheme="rqvae+small")}
    chosen = profile(methods, identifiers=variant)
    assert names(chosen, "identifiers") == {"rqvae", "rqvae+small"} and names(chosen, "encoder") == {"item-text"}
    job = identifiers_job(chosen, RECIPE, "rqvae+small")
    assert job.folder == Path("results/mini/identifiers") / RECIPE / "rqvae+small"
    assert job.settings["target"] == registry.SCHEMES["rqvae"].target
    assert job.settings["config"] == {"quantiser": {"levels": 2}}


def test_an_edit_reruns_exactly_what_is_made_with_the_part() -> None:
    def ids(*schemes: str) -> set[str]:
        return {f"identifiers {RECIPE}/{scheme}" for scheme in schemes}

    def rows(*methods: str) -> set[str]:
        return {f"train {RECIPE}/t5-mini/{method}/1" for method in methods}

    def vectors(*encoders: str) -> set[str]:
        return {f"encoder {RECIPE}/{encoder}" for encoder in encoders}

    assert seeing("identifiers/atomic.py") == ids("atomic")
    assert seeing("identifiers/rqvae.py") == ids("rqvae")
    assert seeing("identifiers/residual_quantiser.py") == ids("rqvae", "letter")
    assert seeing("identifiers/collaborative_alignment.py") == ids("letter")
    assert seeing("identifiers/sem.py") == ids("sem")
    assert seeing("identifiers/k_means.py") == ids("rqvae", "letter", "sem")
    assert seeing("encoders/item_text.py") == seeing("encoders/tf_idf.py") == vectors("item-text")
    assert seeing("encoders/sasrec_model.py") == vectors("sasrec")
    assert seeing("encoders/contrastive.py") == vectors("bi-encoder")
    for method, file in (("tiger", "tiger"), ("letter", "letter"), ("sem-bsr", "sem_bsr"), ("bsr", "bsr")):
        assert seeing(f"methods/{file}.py") == rows(method)
    assert seeing("training/objective.py") >= rows(*METHODS)


def test_settings_of_an_encoder_or_scheme_change_it_and_nothing_before_it() -> None:
    before = {(job.rule, job.name): job.settings for job in all_jobs(profile())}

    def changed(chosen: Profile) -> set[str]:
        found = {(job.rule, job.name) for job in all_jobs(chosen) if job.settings != before[(job.rule, job.name)]}
        return {f"{rule} {name}" for rule, name in found} - {"tables all", "figures all"}

    other = {**profile().encoders, "sasrec": {"epochs": 3}}
    assert changed(profile(encoders=other)) == {f"encoder {RECIPE}/sasrec"}
    wider = {"sem": SchemeSettings(config={"levels": 4})}
    assert changed(profile(identifiers=wider)) == {f"identifiers {RECIPE}/sem"}


def test_how_answers_are_judged_is_no_input_of_vectors_and_identifiers() -> None:
    for job in all_jobs(profile()):
        if job.rule in ("encoder", "identifiers"):
            assert "manifest" not in job.inputs
    assert set(identifiers_job(profile(), RECIPE, "atomic").inputs) == {"items", "requirements", "torch"}


def test_files_of_the_user_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "codes.index.json"
    mine = {"official": SchemeSettings(base="imported", config={"index": str(index)})}
    chosen = profile({"tiger+official": MethodSettings(base="tiger", scheme="official")}, identifiers=mine)
    write_text(index, "{}")
    own = {name: path for name, path in identifiers_job(chosen, RECIPE, "official").inputs.items() if "files/" in name}
    assert own == {"files/index": index}
    write_text(tmp_path / "codes.item2id", "")
    own = {name: path for name, path in identifiers_job(chosen, RECIPE, "official").inputs.items() if "files/" in name}
    assert own == {"files/index": index, "files/item2id": tmp_path / "codes.item2id"}


def test_a_model_of_the_user_is_an_input_of_its_encoder(tmp_path: Path) -> None:
    write_text(tmp_path / "model/modules.json", "[]")
    write_text(tmp_path / "model/0/model.safetensors", "x")
    chosen = profile(encoders={"item-text": {"folder": str(tmp_path / "model")}, "bi-encoder": {}})
    read = encoder_job(chosen, RECIPE, "item-text").inputs
    assert read["folder/0/model.safetensors"] == tmp_path / "model/0/model.safetensors"
    assert "folder/modules.json" in read
    assert not any(name.startswith("folder/") for name in encoder_job(chosen, RECIPE, "bi-encoder").inputs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoders: {item-txt: {}}", "unknown encoder in .*: 'item-txt'|unknown encoder in .* 'item-txt'.*'item-text'"),
        ("identifiers: {rqvea: {}}", "'rqvea'.*'rqvae'"),
        ("identifiers: {sem: {base: rqvae}}", "'sem' is a scheme itself. Give the variant another key"),
        ("identifiers: {../x: {base: sem}}", "names a folder"),
        ("identifiers: {sem: {levels: 2}}", "unknown key 'identifiers.sem.levels'"),
        ("methods: {tiger: {scheme: sme}}", "'sme'.*'sem'"),
        ("methods: {random: {scheme: sem}}", r"methods\.random\.scheme: random writes no identifiers"),
        ("methods: {tiger: {seeds: [7]}}", r"methods\.tiger\.seeds: \[7\] are not some of the profile's"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    base = "profile: x\nseeds: [1]\nhistory_length: 5\nrecipes: {simulated-amazon: {}}\n"
    base += "tables: {columns: {Amazon: simulated-amazon}, blocks: {T5-base: t5-mini}}\n"
    methods = "" if text.startswith("methods") else "methods: {random: {}}\n"
    write_text(tmp_path / "x.yaml", f"{base}{methods}{text}\n")
    with pytest.raises(InputError, match=message):
        load_profile(tmp_path / "x.yaml")


def test_a_wrong_recipe_or_name_on_the_command_line_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown encoder 'bi-encodr'\. Did you mean 'bi-encoder'"):
        encoder_job(profile(), RECIPE, "bi-encodr")
    with pytest.raises(InputError, match="unknown recipe of the profile 'simulated-amazn'"):
        identifiers_job(profile(), "simulated-amazn", "sem")
    with pytest.raises(InputError, match=r"unknown scheme of the profile 'rqvea'\. Did you mean 'rqvae'"):
        identifiers_job(profile(), RECIPE, "rqvea")


def test_a_checkpoint_of_an_unfinished_job_is_not_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = profile()
    jobs = [job for job in all_jobs(chosen) if job.rule in ("encoder", "identifiers")]
    monkeypatch.chdir(tmp_path)
    for job in jobs:
        write_json(job.folder.with_name(f"{job.folder.name}.checkpoint") / "state.json", {})
    stray = Path("results/mini/identifiers") / RECIPE / "gone/codes.json"
    write_json(stray, {})
    monkeypatch.setattr("gemsbench.pipeline.prune.all_jobs", lambda _: jobs)
    assert unclaimed(chosen) == [stray]

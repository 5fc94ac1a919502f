"""Profiles: what is committed loads, what is wrong is named before any job starts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from gemsbench.errors import InputError
from gemsbench.profile import (
    INITIAL,
    TUNER_FIELDS,
    Run,
    backbones_in_use,
    chosen_run,
    corpora,
    load_profile,
    method_entry,
    runs,
    tuner_name,
)

MINIMAL: dict[str, Any] = {
    "profile": "p",
    "seeds": [1, 2],
    "history_length": 5,
    "recipes": {"simulated-amazon": {}, "simulated-qilin": {}},
    "methods": {"popularity": {}, "ncf": {"recipes": ["simulated-qilin"]}},
    "tables": {"columns": {"Qilin": "simulated-qilin"}},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("name", ["mini", "mini-real"])
def test_committed_profiles_load(repository: Path, name: str) -> None:
    profile = load_profile(repository / "config" / f"{name}.yaml")
    assert profile.profile == name
    listed = list(runs(profile))
    assert len(set(listed)) == len(listed) > 0


def test_runs_cover_seeds_only_where_they_matter(tmp_path: Path) -> None:
    listed = list(runs(load_profile(write(tmp_path))))
    assert listed == [
        Run("simulated-amazon", "none", "popularity", 1),
        Run("simulated-qilin", "none", "popularity", 1),
        Run("simulated-qilin", "none", "ncf", 1),
        Run("simulated-qilin", "none", "ncf", 2),
    ]
    assert listed[0].folder(Path("r")) == Path("r/runs/simulated-amazon/none/popularity/1")


def test_a_variant_is_its_own_key(tmp_path: Path) -> None:
    methods = {"ncf+wide": {"base": "ncf", "config": {"factors": 16}}, "mine": {"target": "a.b:C", "tasks": ["src"]}}
    profile = load_profile(write(tmp_path, methods=methods))
    assert method_entry(profile, "ncf+wide").target == "gemsbench.methods.ncf:NCF"
    assert method_entry(profile, "mine").tasks == ("src",)


BLOCKS = {"columns": {"Qilin": "simulated-qilin"}, "blocks": {"T5-base": "t5-mini", "Qwen-3B": "qwen-mini"}}


def test_a_method_with_backbones_runs_once_per_block(tmp_path: Path) -> None:
    methods = {"popularity": {}, "bsr": {"recipes": ["simulated-qilin"]}}
    profile = load_profile(write(tmp_path, methods=methods, tables=BLOCKS))
    tuned = [run for run in runs(profile) if run.method == "bsr"]
    assert [(run.backbone, run.seed) for run in tuned] == [
        ("t5-mini", 1),
        ("t5-mini", 2),
        ("qwen-mini", 1),
        ("qwen-mini", 2),
    ]
    assert backbones_in_use(profile) == ("t5-mini", "qwen-mini")
    assert backbones_in_use(load_profile(write(tmp_path, tables=BLOCKS))) == ()


def test_a_method_may_keep_to_one_backbone(tmp_path: Path) -> None:
    methods = {"bsr": {"backbones": ["qwen-mini"]}}
    profile = load_profile(write(tmp_path, methods=methods, tables=BLOCKS, seeds=[1]))
    assert {run.backbone for run in runs(profile)} == {"qwen-mini"}
    with pytest.raises(InputError, match=r"no run with backbone 't5-mini'\. Use qwen-mini\.$"):
        chosen_run(profile, Run("simulated-qilin", "t5-mini", "bsr", 1))
    with pytest.raises(InputError, match=r"methods\.bsr 'qwen-mimi'\. Did you mean 'qwen-mini'"):
        load_profile(write(tmp_path, methods={"bsr": {"backbones": ["qwen-mimi"]}}, tables=BLOCKS))


def test_a_method_may_have_a_tuner_of_its_own_which_its_config_may_replace(tmp_path: Path) -> None:
    methods = {"gems": {}, "gems+lora": {"base": "gems", "config": {"tuners": {"qwen2": {"name": "lora"}}}}, "bsr": {}}
    profile = load_profile(write(tmp_path, methods=methods, tables=BLOCKS))
    names = {(key, kind): tuner_name(profile, key, kind) for key in methods for kind in ("t5", "qwen2")}
    assert names[("gems", "t5")] == names[("gems", "qwen2")] == names[("gems+lora", "t5")] == "gems"
    assert (names[("gems+lora", "qwen2")], names[("bsr", "t5")], names[("bsr", "qwen2")]) == ("lora", "full", "lora")


def test_knowledge_is_collected_on_the_profiles_corpus_or_one_of_its_own(tmp_path: Path) -> None:
    own = {"name": "simulated-encyclopedia", "settings": {"words": 9}}
    assert list(corpora(load_profile(write(tmp_path)))) == []
    assert list(corpora(load_profile(write(tmp_path, corpus=own)))) == ["simulated-encyclopedia"]
    both = load_profile(write(tmp_path, corpus=own, knowledge={"corpus": {"name": "wikitext-2"}}))
    assert set(corpora(both)) == {"simulated-encyclopedia", "wikitext-2"}
    same = load_profile(write(tmp_path, corpus=own, knowledge={"corpus": {"name": "simulated-encyclopedia"}}))
    assert corpora(same)["simulated-encyclopedia"].settings == {"words": 9}
    with pytest.raises(InputError, match=r"knowledge\.corpus\.settings: the text is that of `corpus`"):
        load_profile(write(tmp_path, corpus=own, knowledge={"corpus": {"settings": {"words": 7}}}))
    with pytest.raises(InputError, match="Did you mean 'wikipedia'"):
        load_profile(write(tmp_path, knowledge={"corpus": {"name": "wikipeda"}}))


def test_what_a_profile_checks_of_a_tuned_method_is_what_its_settings_have() -> None:
    from gemsbench.methods.generative import GenerativeSettings, TunerChoice  # loads torch

    assert {field.name for field in fields(TunerChoice)} == set(TUNER_FIELDS)
    assert get_args(get_type_hints(GenerativeSettings)["initial"]) == INITIAL


def test_two_blocks_with_one_backbone_share_its_runs(tmp_path: Path) -> None:
    tables = BLOCKS | {"blocks": {"T5-base": "t5-mini", "Qwen-3B": "t5-mini"}}
    profile = load_profile(write(tmp_path, methods={"bsr": {}}, tables=tables, seeds=[1]))
    assert [(run.recipe, run.backbone) for run in runs(profile)] == [
        ("simulated-amazon", "t5-mini"),
        ("simulated-qilin", "t5-mini"),
    ]
    with pytest.raises(InputError, match=r"Use t5-mini\.$"):
        chosen_run(profile, Run("simulated-qilin", "none", "bsr", 1))


def test_a_tuner_is_named_in_the_config_or_the_default_of_its_kind(tmp_path: Path) -> None:
    config = {"tuners": {"t5": {"name": "lora"}, "qwen2": {"config": {"rank": 2}}}}
    methods = {"bsr": {}, "bsr+lora": {"base": "bsr", "config": config}}
    profile = load_profile(write(tmp_path, methods=methods, tables=BLOCKS))
    assert [tuner_name(profile, "bsr", kind) for kind in ("t5", "qwen2")] == ["full", "lora"]
    assert [tuner_name(profile, "bsr+lora", kind) for kind in ("t5", "qwen2")] == ["lora", "lora"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "unknown key 'seed'. Did you mean 'seeds'"),
        ({"seeds": []}, "seeds: name at least one"),
        ({"seeds": [1, 1]}, "seeds: name at least one, each once"),
        ({"history_length": 0}, "history_length: 0 is below 1"),
        ({"recipes": {}}, "recipes: name at least one"),
        ({"profile": "published"}, "names the folder"),
        ({"profile": ".."}, "names the folder"),
        ({"profile": ""}, "names the folder"),
        ({"methods": {"mine": {"target": ":X"}}}, "as package.module:Name"),
        ({"methods": {"popularity": {}, "bm25": {"tasks": ["rec"]}}}, "bm25 answers only src"),
        ({"tables": {"columns": {}, "blocks": {"T5-bas": "t5-mini"}}}, "Did you mean 'T5-base'"),
        ({"tables": {"columns": {}, "blocks": {"T5-base": "t5-min"}}}, "Did you mean 't5-mini'"),
        ({"tables": BLOCKS, "backbones": {"t5-minni": {}}}, "table blocks.*Did you mean 't5-mini'"),
        ({"backbones": {"t5-mini": {}}}, "not among the profile's table blocks"),
        ({"corpus": {"name": "wikitext-3"}}, "unknown corpus.*Did you mean 'wikitext-2'"),
        ({"corpus": {"nam": "wikitext-2"}}, r"unknown key 'corpus\.nam'. Did you mean 'name'"),
        ({"methods": {"bsr": {"config": {"tuners": {"t6": {}}}}}}, "unknown kind of backbone.*Known: qwen2, t5"),
        ({"methods": {"bsr": {"config": {"tuners": {"t5": {"name": 5}}}}}}, "unknown tuner.*'5'"),
        ({"methods": {"bsr": {"config": {"tuners": {"t5": {"name": "fulll"}}}}}}, "Did you mean 'full'"),
        ({"methods": {"bsr": {"config": {"tuners": {"t5": "full"}}}}}, r"write it as {t5: {name: full}}"),
        (
            {"methods": {"gems": {"config": {"tuners": None}}}},
            r"methods\.gems\.config\.tuners: write.*{t5: {name: gems}}",
        ),
        (
            {"methods": {"gems": {"config": {"tuners": {"t5": {"cofig": {}}}}}}},
            r"tuners\.t5 'cofig'. Did you mean 'config'",
        ),
        ({"methods": {"gems": {"config": {"initial": "rnadom"}}}}, r"methods\.gems\.config\.initial.*mean 'random'"),
        ({"methods": {"ncf": {"backbones": ["t5-mini"]}}, "tables": BLOCKS}, r"methods\.ncf\.backbones: ncf tunes no"),
        ({"methods": {"bsr": {}}}, r"methods\.bsr tunes a backbone.*Add one, e\.g\. `blocks: {T5-base: t5-mini}`"),
        ({"seeds": ["1"]}, r"seeds\.0: Input should be a valid integer"),
        ({"recipes": {"simulated-amzon": {}}}, "Did you mean 'simulated-amazon'"),
        ({"methods": {"ncff": {}}}, "unknown method 'ncff'. Did you mean 'ncf'"),
        ({"methods": {"ncf": {"receipes": []}}}, r"unknown key 'methods\.ncf\.receipes'. Did you mean 'recipes'"),
        ({"methods": {"ncf": {"tasks": ["search"]}}}, "tasks: unknown 'search'"),
        ({"methods": {"ncf": {"recipes": ["movielens-small"]}}}, "not among the profile's recipes"),
        ({"tables": {"columns": {"Qilin": "lastfm-small"}}}, "not among the profile's recipes"),
    ],
)
def test_wrong_profiles_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_profile(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run("simulated-amazon", "none", "ncf", 1), "ncf runs only on simulated-qilin"),
        (Run("simulated-qilin", "t5-mini", "ncf", 1), "ncf has no run with backbone 't5-mini'"),
        (Run("movielens-small", "none", "popularity", 1), "unknown recipe of the profile"),
        (Run("simulated-qilin", "none", "bm25", 1), "unknown method of the profile"),
    ],
)
def test_a_run_that_the_profile_does_not_have_is_refused(tmp_path: Path, run: Run, message: str) -> None:
    profile = load_profile(write(tmp_path))
    assert chosen_run(profile, Run("simulated-qilin", "none", "ncf", 77)).seed == 77
    with pytest.raises(InputError, match=message):
        chosen_run(profile, run)

"""Profiles: what is committed loads, what is wrong is named before any job starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gemsbench.errors import InputError
from gemsbench.profile import Run, load_profile, method_entry, runs

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "unknown key 'seed'. Did you mean 'seeds'"),
        ({"seeds": []}, "seeds: name at least one"),
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

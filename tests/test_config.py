"""Settings: every value is typed, every unknown key names the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gemsbench.config import load_settings, read_yaml, settings_dict
from gemsbench.errors import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    name: str
    seeds: tuple[int, ...] = (1,)
    inner: Inner = field(default_factory=Inner)
    table: Mapping[str, Inner] = field(default_factory=dict)


def test_values_become_frozen_dataclasses() -> None:
    loaded = load_settings(Outer, {"name": "x", "seeds": [3, 4], "inner": {"rate": 1}}, "a.yaml")
    assert loaded == Outer("x", (3, 4), Inner(1.0))
    assert load_settings(Outer, settings_dict(loaded), "again") == loaded


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "seed": [1]}, r"a\.yaml: unknown key 'seed'. Did you mean 'seeds'\?"),
        ({"name": "x", "inner": {"rat": 1}}, r"unknown key 'inner\.rat'. Did you mean 'rate'\?"),
        ({"name": "x", "table": {"a": {"rte": 1}}}, r"unknown key 'table\.a\.rte'. Did you mean 'rate'\?"),
        ({"name": "x", "zzz": 1}, "unknown key 'zzz'. Known: inner, name, seeds, table"),
        ({}, "name: Field required"),
        ({"name": 1}, "name: Input should be a valid string"),
        ({"name": "x", "seeds": ["1"]}, r"seeds\.0: Input should be a valid integer"),
        ({"name": "x", "inner": 3}, "'inner' must be a mapping"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_settings(Outer, values, "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "must be a mapping"), ("a: !!python/object:os.system x", "not valid YAML")],
)
def test_yaml_is_read_safely(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / "b.yaml")


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seeds: [1]\nname: x\nseeds: [2]\n")
    with pytest.raises(InputError, match="repeated key seeds"):
        read_yaml(tmp_path / "a.yaml")


def test_a_mapping_may_take_over_another_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 1, "y": 3}
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 3, y: 4}\n")
    with pytest.raises(InputError, match="repeated key y"):
        read_yaml(tmp_path / "a.yaml")

"""The record beside a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file, write_text
from gemsbench.provenance import Identity, _threads, declared_threads, read_record, recording


@dataclass(frozen=True)
class SmallJob:
    folder: Path
    known: Identity | None
    outputs: Mapping[str, Path]
    inputs: Mapping[str, Path] = field(default_factory=lambda: {"in": Path("absent/in.txt")})
    rule: str = "train"
    name: str = "a/b"
    seeds: Mapping[str, int] = field(default_factory=lambda: {"seed": 3})
    provenance: str = "provenance.json"

    def identity(self) -> Identity | None:
        return self.known


IDENTITY = Identity("train", {"x": 1}, {"in": "00"}, "ff")


def job(folder: Path, **changes: Any) -> SmallJob:
    return SmallJob(**{"folder": folder, "known": IDENTITY, "outputs": {"out": folder / "out.txt"}, **changes})


def test_a_record_names_what_went_in_and_what_came_out(tmp_path: Path) -> None:
    with recording(tmp_path, job(tmp_path)) as notes:
        write_text(tmp_path / "out.txt", "result")
        notes["epochs"] = 4
    record = read_json(tmp_path / "provenance.json")
    assert record["identity"] == {"rule": "train", "settings": {"x": 1}, "inputs": {"in": "00"}, "code": "ff"}
    assert record["run_id"] == IDENTITY.run_id
    assert record["outputs"] == {"out": sha256_file(tmp_path / "out.txt")}
    assert record["seeds"] == {"seed": 3} and record["notes"] == {"epochs": 4} and record["device"] == "cpu"
    assert record["packages"]["polars"] and record["python"].count(".") == 2
    assert record["machine"]["type"] and record["threads"] >= 1
    assert record["wall_seconds"] >= 0 and record["peak_memory_mib"] > 10
    assert record["started"] <= record["finished"]
    assert set(record["code"]) == {"commit", "dirty"}


@pytest.mark.parametrize(
    "other",
    [
        Identity("train", {"x": 2}, {"in": "00"}, "ff"),
        Identity("train", {"x": 1}, {"in": "01"}, "ff"),
        Identity("train", {"x": 1}, {"in": "00"}, "fe"),
        Identity("score", {"x": 1}, {"in": "00"}, "ff"),
    ],
)
def test_every_part_of_the_identity_changes_the_run_id(other: Identity) -> None:
    assert other.run_id != IDENTITY.run_id


def test_the_run_id_does_not_depend_on_the_order_of_keys() -> None:
    one = Identity("train", {"a": 1, "b": {"c": 1, "d": 2}}, {"i": "0", "j": "1"}, "ff")
    two = Identity("train", {"b": {"d": 2, "c": 1}, "a": 1}, {"j": "1", "i": "0"}, "ff")
    assert one.run_id == two.run_id


def test_a_failed_block_leaves_no_record_not_even_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError), recording(tmp_path, job(tmp_path)):
        raise RuntimeError
    assert read_record(tmp_path / "provenance.json") is None


def test_outputs_are_looked_for_in_the_folder_that_was_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with recording(elsewhere, job(tmp_path / "usual")):
        write_text(elsewhere / "out.txt", "result")
    assert read_json(elsewhere / "provenance.json")["outputs"]["out"] == sha256_file(elsewhere / "out.txt")


def test_a_missing_input_stops_the_job_before_it_starts(tmp_path: Path) -> None:
    remedy = r"`snakemake --cores all --configfile config/own\.yaml -- absent/in\.txt`"
    expected = pytest.raises(InputError, match=rf"absent/in\.txt: missing, and train reads it.*{remedy}")
    with expected, recording(tmp_path, job(tmp_path, known=None), Path("config/own.yaml")):
        pytest.fail("the block ran")


@dataclass(frozen=True)
class Loop:
    steps: int = 2
    threads: int = 7


@dataclass(frozen=True)
class Nested:
    width: int = 4
    loop: Loop = field(default_factory=Loop)


@pytest.mark.parametrize(("settings", "number"), [(Loop(threads=3), 3), (Nested(), 7), (IDENTITY, None), (None, None)])
def test_the_threads_of_a_job_are_those_that_its_settings_name(
    settings: object, number: int | None, tmp_path: Path
) -> None:
    assert declared_threads(settings) == number
    with recording(tmp_path, job(tmp_path)) as notes:
        write_text(tmp_path / "out.txt", "result")
        notes["threads"] = number
    record = read_json(tmp_path / "provenance.json")
    assert record["threads"] == (number or _threads()) and record["notes"] == {}


def test_pinned_downloads_keep_no_record(tmp_path: Path) -> None:
    with recording(tmp_path, job(tmp_path, known=None, provenance="")) as notes:
        notes["x"] = 1
    assert list(tmp_path.iterdir()) == []

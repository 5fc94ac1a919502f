"""Is a result still that of the present settings, inputs and code?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data.dvc_pins import Pin, write_pin
from gemsbench.data.hub_listing import FETCHED, LISTING
from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file, write_json, write_text
from gemsbench.pipeline.data_jobs import source_job
from gemsbench.pipeline.job import MD5, Job, content_hash
from gemsbench.pipeline.resources import benchmark_path
from gemsbench.pipeline.state import judge, standing, states
from gemsbench.pipeline.sync import _drop_untrue_notes, _refuse_altered_downloads
from gemsbench.provenance import recording


def small_jobs(root: Path) -> tuple[Job, Job]:
    first = Job("prepare", "a", root / "a", {"x": 1}, {"in": root / "in.txt"}, {"out": root / "a/out.txt"})
    second = Job("train", "b", root / "b", {"y": 1}, {"in": root / "a/out.txt"}, {"out": root / "b/out.txt"})
    return first, second


def run(job: Job, text: str = "result") -> None:
    with recording(job.folder, job):
        write_text(job.outputs["out"], text)


def test_a_job_is_current_until_something_of_it_changes(tmp_path: Path) -> None:
    first, second = small_jobs(tmp_path)
    write_text(tmp_path / "in.txt", "input")
    assert [state.verdict for state in states([first, second], tmp_path)] == ["missing", "missing"]
    run(first)
    run(second)
    assert [state.runs for state in states([first, second], tmp_path)] == [False, False]
    assert judge(replace(first, settings={"x": 2})) == ("stale", "other settings")
    assert judge(replace(first, code=("gemsbench.errors",))) == ("stale", "other code")
    write_text(tmp_path / "in.txt", "another input")
    later = states([first, second], tmp_path)
    assert [(state.verdict, state.follows) for state in later] == [("stale", False), ("current", True)]
    write_text(second.outputs["out"], "altered")
    assert judge(second) == ("stale", "out was altered")
    (second.folder / "provenance.json").unlink()
    assert judge(second)[0] == "stale"


def test_missing_raw_files_count_only_when_something_needs_them(tmp_path: Path) -> None:
    raw = Job("fetch", "r", tmp_path / "raw", {"x": 1}, {}, {"out": tmp_path / "raw/out.txt"})
    run(raw)
    prepare = Job(
        "prepare",
        "a",
        tmp_path / "a",
        {"x": 1},
        dict(raw.outputs),
        {"out": tmp_path / "a/out.txt"},
        replaceable=("out",),
    )
    run(prepare)
    raw.outputs["out"].unlink()
    assert [state.runs for state in states([raw, prepare], tmp_path)] == [False, False]
    assert [state.runs for state in states([raw, replace(prepare, settings={"x": 2})], tmp_path)] == [True, True]
    assert judge(replace(prepare, replaceable=())) == ("stale", "an input is missing")


@dataclass
class Chain:
    """A corpus, a backbone made of it, two runs that tune it, and a figure of the backbone's log; all of it done."""

    root: Path
    code: tuple[str, ...] = ("gemsbench.errors",)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def jobs(self) -> list[Job]:
        """The jobs with the present settings and code."""
        root, made = self.root, dict(self.settings)
        raw = Job("fetch", "c", root / "raw", made, {}, {"text": root / "raw/text.txt"}, code=self.code)
        files = {"weights": root / "b/weights", "log": root / "b/log"}
        text = dict(raw.outputs)
        backbone = Job("backbone", "b", root / "b", made, text, files, code=self.code, replaceable=("text",))
        weights = {"weights": files["weights"]}
        rows = [
            Job(
                "train",
                name,
                root / name,
                {"backbone": made, "row": name},
                weights,
                {"out": root / name / "out"},
                code=self.code,
                replaceable=("weights",),
                makers=(backbone,),
            )
            for name in ("one", "two")
        ]
        figure = Job("figures", "f", root / "f", {}, {"log": files["log"]}, {"out": root / "f/out"})
        return [raw, backbone, *rows, figure]

    def make(self) -> None:
        """Run every job."""
        for job in self.jobs():
            with recording(job.folder, job):
                for name, path in job.outputs.items():
                    write_text(path, f"{job.name} {name} {job.settings}")

    def running(self, jobs: Sequence[Job] | None = None) -> list[str]:
        """The names of the jobs that would run."""
        return [state.job.name for state in states(jobs or self.jobs(), self.root) if state.runs]


@pytest.fixture
def pulled(tmp_path: Path) -> Chain:
    """The chain as a clone has it: results, and of the backbone only the log."""
    chain = Chain(tmp_path)
    chain.make()
    (tmp_path / "raw/text.txt").unlink()
    (tmp_path / "b/weights").unlink()
    return chain


def test_missing_weights_count_by_what_they_were_made_with(pulled: Chain) -> None:
    assert pulled.running() == []
    everything = ["c", "b", "one", "two", "f"]
    assert Chain(pulled.root, settings={"steps": 2}).running() == everything
    assert Chain(pulled.root, code=("gemsbench.files",)).running() == everything


def test_a_row_that_needs_missing_weights_leaves_the_other_rows_alone(pulled: Chain) -> None:
    raw, backbone, one, two, figure = pulled.jobs()
    changed = [raw, backbone, replace(one, settings={"x": 2}), two, figure]
    assert pulled.running(changed) == ["c", "b", "one", "f"]
    assert standing(changed, pulled.root) == {("train", "two")}
    assert standing([raw, backbone, one, two], pulled.root) == {
        ("fetch", "c"),
        ("backbone", "b"),
        ("train", "one"),
        ("train", "two"),
    }


def test_a_row_that_snakemake_ran_here_notices_that_its_weights_were_gone(pulled: Chain) -> None:
    """It is known there with this input, which is younger than its results once it is made again."""
    raw, backbone, one, two, figure = pulled.jobs()
    write_text(benchmark_path(pulled.root, two), "s\n1.0\n")
    assert pulled.running([raw, backbone, replace(one, settings={"x": 2}), two, figure]) == [
        "c",
        "b",
        "one",
        "two",
        "f",
    ]
    assert pulled.running() == []


def test_weights_made_again_do_not_age_the_rows_that_stand(pulled: Chain) -> None:
    write_text(pulled.root / "raw/text.txt", "c text {}")
    write_text(pulled.root / "b/weights", "b weights {}")
    assert {("train", "one"), ("train", "two")} <= standing(pulled.jobs(), pulled.root)
    write_text(pulled.root / "b/weights", "of another machine")
    assert not {("train", "one"), ("train", "two")} & standing(pulled.jobs(), pulled.root)


def test_nothing_stands_without_its_inputs_while_they_are_there(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.make()
    assert standing(chain.jobs(), tmp_path) == frozenset()


def test_a_figure_needs_the_log_and_not_the_weights(pulled: Chain) -> None:
    raw, backbone, one, two, figure = pulled.jobs()
    assert pulled.running([raw, backbone, one, two, replace(figure, settings={"x": 2})]) == ["f"]
    (pulled.root / "b/log").unlink()
    assert pulled.running() == ["c", "b", "f"]


def test_other_weights_make_the_rows_stale(pulled: Chain) -> None:
    write_text(pulled.root / "raw/text.txt", "c text {}")
    write_text(pulled.root / "b/weights", "b weights {}")  # made again, the same
    assert pulled.running() == []
    write_text(pulled.root / "b/weights", "of another machine")
    assert pulled.running() == ["b", "one", "two", "f"]


def test_missing_weights_are_those_that_the_record_of_the_backbone_names(pulled: Chain) -> None:
    """A clone may hold the rows of one backbone and the record of another one, made again with the same settings."""
    record = read_json(pulled.root / "b/provenance.json")
    record["outputs"]["weights"] = "00"
    write_json(pulled.root / "b/provenance.json", record)
    assert [judge(row) for row in pulled.jobs()[2:4]] == [("stale", "other inputs")] * 2
    assert pulled.running() == ["c", "b", "one", "two", "f"]
    record["identity"]["settings"] = {"steps": 9}  # the record says nothing of the present backbone
    write_json(pulled.root / "b/provenance.json", record)
    assert [judge(row) for row in pulled.jobs()[2:4]] == [("current", "")] * 2


def test_pinned_files_are_judged_by_their_pin(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    write_text(path, "content")
    job = Job("fetch", "r", tmp_path, outputs={"raw.csv": path}, provenance="", pins={"raw.csv": sha256_file(path)})
    assert judge(job) == ("current", "")
    write_text(path, "contenT")
    assert judge(job) == ("stale", "raw.csv is not the pinned file")


def test_a_file_known_by_md5_is_judged_and_named_by_it(tmp_path: Path) -> None:
    """The same identity with and without the file, so that a clone without raw files keeps what was made of them."""
    path = tmp_path / "raw.gz"
    write_text(path, "content")
    pins = {"raw.gz": MD5 + content_hash(path, "md5")}
    fetch = Job("fetch", "r", tmp_path, outputs={"raw.gz": path}, provenance="", pins=pins)
    prepare = Job("prepare", "a", tmp_path / "a", {}, {"raw.gz": path}, {"out": tmp_path / "a/out"}, pins=pins)
    there = prepare.identity()
    assert judge(fetch) == ("current", "") and there is not None and there.inputs == pins
    run(prepare)
    path.unlink()
    assert prepare.identity() == there
    assert [state.runs for state in states([fetch, prepare], tmp_path)] == [False, False]
    write_text(path, "contenT")
    assert judge(fetch) == ("stale", "raw.gz is not the pinned file")
    assert judge(prepare) == ("stale", "other inputs")


def test_garbage_in_the_place_of_a_download_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file's md5 is published, that of the other is recorded in its .dvc file when it first comes."""
    monkeypatch.chdir(tmp_path)
    reviews, metadata = source_job("kindle-2014").outputs.values()
    write_text(metadata, "whatever came first")
    assert list(source_job("kindle-2014").pins) == [reviews.name]
    write_pin(metadata, Pin(content_hash(metadata, "md5"), 19))
    assert list(source_job("kindle-2014").pins) == [reviews.name, metadata.name]
    write_text(reviews, "garbage")
    assert judge(source_job("kindle-2014")) == ("stale", f"{reviews.name} is not the pinned file")
    known = replace(source_job("kindle-2014"), pins={metadata.name: source_job("kindle-2014").pins[metadata.name]})
    assert judge(known) == ("current", "")
    write_text(metadata, "garbage")
    assert judge(known) == ("stale", f"{metadata.name} is not the pinned file")


def hub_files(folder: Path) -> Path:
    """The listing of a small Qilin and its files, all of which have come."""
    configs = ("notes", "user_feat", "recommendation_train", "recommendation_test", "search_train", "search_test")
    files = []
    for config in configs:
        write_text(folder / f"{config}.parquet", config)
        files.append({"name": f"{config}.parquet", "path": "", "size": len(config), "sha256": ""})
    listing = {"repository": "THUIR/Qilin", "revision": "", "files": files}
    for name in (LISTING, FETCHED):
        write_json(folder / name, listing)
    return folder / "notes.parquet"


def test_the_files_behind_a_hubs_note_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notes = hub_files(Path("data/raw/qilin"))
    fetch = source_job("qilin")
    reader = Job("prepare", "q", tmp_path / "q", {}, dict(fetch.outputs), {"out": tmp_path / "q/out"}, pins=fetch.pins)
    run(reader)
    assert [state.runs for state in states([fetch, reader], tmp_path)] == [False, False]

    write_text(notes, "longer than listed")
    (state,) = states([fetch], tmp_path)
    assert (state.verdict, state.reason) == ("stale", "notes.parquet has 18 bytes, not the listed 5")
    with pytest.raises(InputError, match=r"qilin: notes\.parquet has 18 bytes.*Delete that file"):
        _refuse_altered_downloads([state])

    notes.unlink()
    assert judge(fetch) == ("missing", f"{notes} is missing")
    assert [state.runs for state in states([fetch, reader], tmp_path)] == [False, False]
    again = [fetch, replace(reader, settings={"x": 2})]
    assert [state.runs for state in states(again, tmp_path)] == [True, True]
    _drop_untrue_notes(again)
    assert not fetch.outputs[FETCHED].exists() and reader.outputs["out"].exists()
    assert [state.runs for state in states([fetch, reader], tmp_path)] == [False, False]


def test_another_listing_than_that_of_the_files_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listing = hub_files(Path("data/raw/qilin")).with_name(LISTING)
    changed = read_json(listing)
    changed["files"][0]["sha256"] = "0" * 64
    write_json(listing, changed)
    assert judge(source_job("qilin")) == ("stale", f"{FETCHED} is not the pinned file")
    listing.unlink()
    assert judge(source_job("qilin")) == ("missing", f"{listing} is missing")

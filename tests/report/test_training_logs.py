"""Logs become curves: the right stage, the right tasks, the right best epoch; a damaged log is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gemsbench.errors import InputError
from gemsbench.profile import Profile, Run
from gemsbench.report.training_logs import BOTH, Curve, pretraining_curves, run_curves

WriteLogs = Callable[[Profile], Path]
NCF = Run("simulated-amazon", "none", "ncf", 1)
BSR = Run("simulated-amazon", "t5-mini", "bsr", 2)


def curve_of(profile: Profile, folder: Path, run: Run) -> Curve:
    return next(curve for curve in run_curves(profile, folder) if curve.run == run)


def rewrite(folder: Path, run: Run, change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> None:
    path = run.folder(folder) / "log.jsonl"
    lines = change([json.loads(text) for text in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_run_with_epochs_has_a_curve_and_no_other(with_gems: Profile, write_logs: WriteLogs) -> None:
    curves = run_curves(with_gems, write_logs(with_gems))
    assert {curve.run.method for curve in curves} == {"ncf", "bsr", "gems"}
    assert len(curves) == 2 * 2 + 2 * 2 * 2 * 2  # NCF: recipes x seeds; the others also methods x backbones


def test_a_language_model_is_read_per_task_up_to_its_kept_step(with_gems: Profile, write_logs: WriteLogs) -> None:
    curve = curve_of(with_gems, write_logs(with_gems), BSR)
    assert set(curve.points) == {(name, task) for name in ("loss", "valid_ndcg@10") for task in ("rec", "src")}
    assert [epoch for epoch, _ in curve.points["valid_ndcg@10", "src"]] == [float(epoch) for epoch in range(9)]
    assert [epoch for epoch, _ in curve.points["loss", "rec"]] == [float(epoch) for epoch in range(1, 9)]
    assert curve.points["loss", "rec"][0][1] > curve.points["loss", "src"][0][1]
    assert (curve.best, curve.stopped, curve.in_stages) == (4.0, "epochs", False)


def test_the_logged_best_step_wins_over_the_largest_value(with_gems: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(with_gems)
    rewrite(folder, BSR, lambda lines: [*lines[:-1], lines[-1] | {"best_step": 20}])
    assert curve_of(with_gems, folder, BSR).best == 2.0
    rewrite(folder, BSR, lambda lines: lines[:-1])
    unended = curve_of(with_gems, folder, BSR)
    assert (unended.best, unended.stopped) == (4.0, None)


def test_tasks_that_the_log_does_not_tell_apart_stand_together(with_gems: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(with_gems)
    kept = ("stage", "step", "epoch", "loss", "valid_ndcg@10")
    rewrite(folder, BSR, lambda lines: [{key: line[key] for key in kept if key in line} for line in lines])
    assert set(curve_of(with_gems, folder, BSR).points) == {("loss", BOTH), ("valid_ndcg@10", BOTH)}


def test_ncf_shows_the_final_stage_that_was_kept(profile: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(profile)
    curve = curve_of(profile, folder, NCF)
    assert set(curve.points) == {("loss", "rec"), ("valid_ndcg@10", "rec")}
    assert 0.5 <= max(value for _, value in curve.points["valid_ndcg@10", "rec"]) < 0.6  # not GMF, not from scratch
    assert (curve.best, curve.in_stages) == (2.0, True)
    worse = {"neumf": 0.3}
    rewrite(folder, NCF, lambda lines: [line | {"valid_ndcg@10": worse.get(str(line["stage"]), 0.4)} for line in lines])
    assert curve_of(profile, folder, NCF).points["valid_ndcg@10", "rec"][0][1] == 0.4


def test_a_diverged_value_leaves_its_point_out(with_gems: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(with_gems)
    rewrite(folder, BSR, lambda lines: [lines[0], lines[1] | {"loss_rec": float("nan")}, *lines[2:]])
    points = curve_of(with_gems, folder, BSR).points
    assert points["loss", "rec"][0][0] == 2.0
    assert points["loss", "src"][0][0] == 1.0


def test_other_lines_are_no_stage(with_gems: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(with_gems)
    before = curve_of(with_gems, folder, BSR)
    memory: dict[str, object] = {"stage": "memory", "step": 3, "epoch": 0.3, "micro_batch_size": 8}
    rewrite(folder, BSR, lambda lines: [lines[0], memory, *lines[1:]])
    assert curve_of(with_gems, folder, BSR) == before


def test_only_runs_of_the_profile_are_read(profile: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(profile)
    before = run_curves(profile, folder)
    stray = dataclasses.replace(NCF, seed=99).folder(folder)
    stray.mkdir()
    (stray / "log.jsonl").write_text("not even JSON")
    assert run_curves(profile, folder) == before


def test_a_missing_log_is_named_with_its_command(profile: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(profile)
    path = NCF.folder(folder) / "log.jsonl"
    path.unlink()
    with pytest.raises(InputError) as caught:
        run_curves(profile, folder)
    assert f"Make it: snakemake --cores all --configfile <profile> -- {path}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "utf-8"),
        (b'{"stage": "fit"}\n{"stage": "tr', "line 2: not JSON"),
        (b"[1]", "line 1: not a line of a training log"),
        (b'{"epoch": 1}', "which has a stage"),
        (b'{"stage": "neumf", "epoch": "1"}', "epoch must be a number"),
        (b'{"stage": "neumf", "epoch": null}', "epoch must be a number"),
        (b'{"stage": "neumf", "epoch": NaN}', "epoch must be a number"),
        (b'{"stage": "neumf", "epoch": 1, "valid_ndcg@10": true}', "valid_ndcg@10 must be a number"),
        (b'{"stage": "neumf", "epoch": 1, "loss_rec": "low"}', "loss_rec must be a number"),
    ],
)
def test_a_damaged_log_is_refused(profile: Profile, write_logs: WriteLogs, content: bytes, said: str) -> None:
    folder = write_logs(profile)
    path = NCF.folder(folder) / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        run_curves(profile, folder)
    assert str(path) in str(caught.value)
    assert "Delete the file and make it again: snakemake" in str(caught.value)


def test_backbones_in_use_are_read_where_they_were_pretrained(
    profile: Profile, with_gems: Profile, write_logs: WriteLogs
) -> None:
    folder = write_logs(with_gems)
    curves = pretraining_curves(with_gems, folder)
    assert [curve.backbone for curve in curves] == ["t5-mini", "qwen-mini"]
    assert (curves[0].heldout[-1], curves[0].loss[0], curves[0].unigram) == ((100.0, 7 / 6), (0.0, 6.0), 6.25)
    (folder / "backbones" / "t5-mini" / "log.jsonl").unlink()
    assert [curve.backbone for curve in pretraining_curves(with_gems, folder)] == ["qwen-mini"]
    assert pretraining_curves(profile, folder) == []


def test_a_downloaded_backbone_has_no_curve(with_gems: Profile, write_logs: WriteLogs) -> None:
    folder = write_logs(with_gems)
    (folder / "backbones/t5-mini/log.jsonl").write_text('{"stage": "fetch", "seconds": 3.5}\n')
    assert [curve.backbone for curve in pretraining_curves(with_gems, folder)] == ["qwen-mini"]


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"stage": "pretrain", "step": 1}', "heldout_loss"), ('{"stage": "pretrain", "step": "1"}', "step must be")],
)
def test_a_damaged_log_of_a_backbone_is_refused(
    with_gems: Profile, write_logs: WriteLogs, line: str, said: str
) -> None:
    folder = write_logs(with_gems)
    path = folder / "backbones" / "t5-mini" / "log.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=said) as caught:
        pretraining_curves(with_gems, folder)
    assert str(path) in str(caught.value)

"""Training of NCF: stages, random numbers of an epoch, what it learns, and going on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.methods import ncf_training
from gemsbench.methods.ncf import NCF
from gemsbench.methods.ncf_training import STAGES, NCFSettings, Problem, Training, start_stage, train_epoch
from gemsbench.methods.train_pairs import TrainPairs

SHORT = NCFSettings(epochs=3, batch_size=128, factors=4, checkpoint_seconds=0.0)


class KilledError(Exception):
    """Stands for a kill between two epochs."""


def _problem(world: Any, fingerprint: str = "a") -> Problem:
    data = world.data
    pairs = TrainPairs.of(data.events.filter(pl.col("task") == "rec"), data.n_users, data.n_items)
    return Problem(pairs, ValidationLists.of(data.cases, data.valid_candidates, "rec"), 1, fingerprint)


def _silent(done: int, text: str) -> None:
    assert text


def _without_seconds(log: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


def _assert_same_training(first: Training, second: Training) -> None:
    assert _without_seconds(first.log) == _without_seconds(second.log)
    for stage, result in first.finished.items():
        assert result.summary() == second.finished[stage].summary()
        for name, tensor in result.params.items():
            assert torch.equal(tensor, second.finished[stage].params[name]), (stage, name)


def test_every_epoch_has_fresh_negatives_that_depend_on_seed_stage_and_epoch_only(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = _problem(world)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def record(model: Any, optimizers: Any, users: Any, items: Any, labels: Any, l2: float) -> torch.Tensor:
        seen.append((torch.stack([users, items]).numpy().copy(), labels.numpy().copy()))
        return torch.zeros(())

    monkeypatch.setattr(ncf_training, "train_step", record)
    settings = replace(SHORT, batch_size=10**6)
    for stage, epoch in (("gmf", 1), ("gmf", 2), ("mlp", 1), ("gmf", 1)):
        train_epoch(start_stage(problem, settings, stage, {}), problem, settings, epoch)
    first, second, other_stage, again = seen
    np.testing.assert_array_equal(first[0], again[0])
    for other in (second, other_stage):
        assert not np.array_equal(first[0], other[0])
    for rows, labels in seen:
        assert labels.sum() * (1 + settings.negatives) == len(labels)
        positives = np.sort(rows[0, labels == 1] * problem.pairs.n_items + rows[1, labels == 1])
        np.testing.assert_array_equal(positives, problem.pairs.keys)  # each positive exactly once
        assert not np.isin(rows[0, labels == 0] * problem.pairs.n_items + rows[1, labels == 0], positives).any()
        per_user = np.bincount(rows[0, labels == 0], minlength=problem.pairs.n_users)
        np.testing.assert_array_equal(per_user, settings.negatives * np.bincount(problem.pairs.users, minlength=30))


def test_neumf_starts_as_the_ensemble_of_its_parts(world: Any, tmp_path: Path) -> None:
    problem = _problem(world)
    training = Training(problem, SHORT, tmp_path)
    done = training.run(_silent)
    model = start_stage(problem, SHORT, "neumf", done).model
    users, items = problem.validation.users, problem.validation.items
    parts = []
    for stage in ("gmf", "mlp"):
        part = start_stage(problem, SHORT, stage, {}).model
        part.load_state_dict(done[stage].params)
        parts.append(part.scores(users, items))
    np.testing.assert_allclose(model.scores(users, items), 0.5 * parts[0] + 0.5 * parts[1], rtol=1e-5, atol=1e-6)
    start = [line for line in training.log if line["stage"] == "neumf" and line["epoch"] == 0]
    assert start[0]["valid_ndcg@10"] == problem.validation.ndcg10(model.scores(users, items))
    assert done["neumf"].ndcg10 >= start[0]["valid_ndcg@10"]  # the start is a candidate


def test_best_epoch_is_kept_and_patience_stops(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.3, 0.2, 0.3, 0.25] + [0.0, 0.5] + [0.0] * 20)
    monkeypatch.setattr(ValidationLists, "ndcg10", lambda self, scores: next(values))
    settings = replace(SHORT, epochs=20, patience=3)
    training = Training(_problem(world), settings, tmp_path)
    monkeypatch.setattr(ncf_training, "STAGES", {"gmf": STAGES["gmf"]})
    results = training.run(_silent)
    assert (results["gmf"].best_epoch, results["gmf"].ndcg10, results["gmf"].epochs) == (1, 0.3, 4)
    reference = start_stage(_problem(world), settings, "gmf", {})
    train_epoch(reference, _problem(world), settings, 1)
    for name in ("embeddings.item_gmf", "head.output.weight"):
        assert torch.equal(results["gmf"].params[name], reference.model.state_dict()[name])


def test_l2_shrinks_the_rows_of_the_batches_only(world: Any) -> None:
    problem = _problem(world)
    tables = []
    for l2 in (0.0, 1e-2):
        run = start_stage(problem, SHORT, "mlp", {})
        for epoch in (1, 2, 3):
            train_epoch(run, problem, replace(SHORT, l2=l2), epoch)
        tables.append(run.model.embeddings["user_mlp"].detach())
    assert tables[1][1:].norm() < 0.9 * tables[0][1:].norm()
    assert torch.equal(tables[1][0], tables[0][0])  # user 0 has no recommendation event, so no row of a batch


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 9, 12, 15])
def test_a_stopped_training_goes_on_bit_by_bit(world: Any, tmp_path: Path, stop_after: int) -> None:
    problem, reports = _problem(world), []

    def stop(done: int, text: str) -> None:
        reports.append(text)
        if len(reports) == stop_after:
            raise KilledError

    with pytest.raises(KilledError):
        Training(problem, SHORT, tmp_path / "stopped").run(stop)
    resumed = Training(problem, SHORT, tmp_path / "stopped")
    assert 0 < len(resumed.log) + 1 >= stop_after  # the epoch of the kill itself is lost, no more
    resumed.run(_silent)
    whole = Training(problem, SHORT, tmp_path / "whole")
    whole.run(_silent)
    assert len(whole.log) == len(STAGES) * (SHORT.epochs + 1)
    _assert_same_training(whole, resumed)


def test_a_checkpoint_of_another_problem_is_not_used(world: Any, tmp_path: Path) -> None:
    Training(_problem(world), SHORT, tmp_path).run(_silent)
    assert Training(_problem(world), SHORT, tmp_path).finished
    assert not Training(_problem(world, fingerprint="b"), SHORT, tmp_path).finished


def test_a_damaged_checkpoint_is_not_used(world: Any, tmp_path: Path) -> None:
    Training(_problem(world), SHORT, tmp_path).run(_silent)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert not Training(_problem(world), SHORT, tmp_path).finished


KILLED_FIT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
from gemsbench.methods.ncf import NCF, NCFSettings
settings = NCFSettings(epochs=30, patience=30, factors=4, checkpoint_seconds=0.0)
NCF().fit(settings, conftest.small_world().data, None, 1, Path(sys.argv[2]))
"""


def _epochs_in(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    with safe_open(checkpoint, framework="pt") as handle:
        return len(json.loads(handle.metadata()["state"])["log"])


@pytest.mark.slow
def test_a_killed_fit_continues_and_ends_with_the_same_bytes(
    world: Any, tmp_path: Path, subprocess_environment: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_FIT, str(Path(__file__).parent), str(tmp_path / "killed")],
        env=subprocess_environment(),
    )
    checkpoint = tmp_path / "killed.checkpoint" / "state.safetensors"
    deadline = time.monotonic() + 120
    while _epochs_in(checkpoint) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()  # nothing half-written where the model belongs

    trained: list[tuple[str, int]] = []
    plain = ncf_training.train_epoch

    def counting(run: Any, problem: Any, settings: Any, epoch: int) -> float:
        trained.append((run.stage, epoch))
        return plain(run, problem, settings, epoch)

    monkeypatch.setattr(ncf_training, "train_epoch", counting)
    settings = NCFSettings(epochs=30, patience=30, factors=4, checkpoint_seconds=0.0)
    NCF().fit(settings, world.data, None, 1, tmp_path / "killed")
    continued = len(trained)
    NCF().fit(settings, world.data, None, 1, tmp_path / "whole")
    assert continued < len(trained) - continued  # it went on, it did not start again
    assert not checkpoint.parent.exists()
    for name in ("model.safetensors", "diagnostics.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    logs = [(tmp_path / which / "log.jsonl").read_text().splitlines() for which in ("killed", "whole")]
    assert _without_seconds(map(json.loads, logs[0])) == _without_seconds(map(json.loads, logs[1]))

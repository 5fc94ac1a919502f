"""The loop: one step is one step however it is cut, the best weights win, a killed run ends with the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gemsbench.checkpoint import delete_checkpoint
from gemsbench.errors import InputError
from gemsbench.training import loop
from gemsbench.training.batches import MicroBatch
from gemsbench.training.loop import LoopSettings, Problem, TrainingResult, train
from gemsbench.training.objective import identifier_loss

STEPS = 3  # of an epoch, in the fixture's problems
SHORT = LoopSettings(epochs=2, patience=9, warmup=0.2, checkpoint_seconds=0.0)


class KilledError(Exception):
    """Stands for a kill between two steps."""


def _silent(done: int, text: str) -> None:
    assert done
    assert text


def _weights(problem: Problem) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in problem.model.named_parameters()}


def _without_seconds(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


def _same_training(first: tuple[Problem, TrainingResult], second: tuple[Problem, TrainingResult]) -> None:
    assert _without_seconds(first[1].log) == _without_seconds(second[1].log)
    assert replace(first[1], log=[]) == replace(second[1], log=[])
    for name, tensor in _weights(first[0]).items():
        assert torch.equal(tensor, _weights(second[0])[name]), name


def _trained(problem: Problem, settings: LoopSettings, folder: Path) -> tuple[Problem, TrainingResult]:
    return problem, train(problem, settings, folder, _silent)


def test_it_learns(tiny: Any, tmp_path: Path) -> None:
    problem = tiny.problem(dropout=0.0)
    batches = problem.step(0, 0)
    settings = replace(SHORT, epochs=12, patience=90)
    learned = replace(problem, step=lambda epoch, step: batches, evaluate=lambda: {"criterion": _fit(problem, batches)})
    result = train(learned, settings, tmp_path, _silent)
    assert result.log[-2]["loss"] < 0.7 * result.log[1]["loss"]


def _fit(problem: Problem, batches: Sequence[MicroBatch]) -> float:
    return -sum(float(problem.loss(problem.model, batch.tensors)) for batch in batches)


# --- one step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
def test_accumulated_micro_batches_are_one_big_batch(tiny: Any, tmp_path: Path, rows: int) -> None:
    whole = tiny.problem(dropout=0.0)
    cut = tiny.problem(dropout=0.0)
    parts = replace(cut, step=lambda e, s: [part for batch in cut.step(e, s) for part in batch.split(rows)])
    pair = [_plain_descent(problem) for problem in (whole, parts)]
    settings = replace(SHORT, max_grad_norm=1e6)
    results = [train(problem, settings, tmp_path / str(n), _silent) for n, problem in enumerate(pair)]
    for name, tensor in _weights(whole).items():
        torch.testing.assert_close(_weights(parts)[name], tensor, rtol=1e-3, atol=1e-5)
    for first, second in zip(results[0].log[1:-1], results[1].log[1:-1], strict=True):
        for key in ("loss", "loss_rec", "loss_src", "heldout_loss"):
            assert first[key] == pytest.approx(second[key], rel=1e-5)


def _plain_descent(problem: Problem) -> Problem:
    """Adam would hide a gradient of the wrong size."""
    return replace(problem, optimizer=torch.optim.SGD(problem.model.parameters(), lr=0.1))


def test_the_first_step_is_that_of_a_bare_loop(tiny: Any, tmp_path: Path) -> None:
    """Loss, gradient, clipping, rate and step of one step, written out."""
    problem, bare = (_plain_descent(tiny.problem(dropout=0.0)) for _ in range(2))
    settings = LoopSettings(epochs=1, warmup=0.0, max_grad_norm=0.3)
    once = replace(problem, steps_per_epoch=1, evaluate=_rising())
    result = train(once, settings, tmp_path, _silent)
    batches = bare.step(0, 0)
    losses = [identifier_loss(bare.model, batch.tensors) for batch in batches]  # type: ignore[arg-type]
    tokens = [batch.target_tokens for batch in batches]
    (sum(losses) / sum(tokens)).backward()  # type: ignore[union-attr]
    norm = nn.utils.clip_grad_norm_(bare.model.parameters(), 0.3)
    assert norm > 0.3
    bare.optimizer.step()
    for name, tensor in _weights(bare).items():
        torch.testing.assert_close(_weights(once)[name], tensor, rtol=1e-4, atol=1e-6)
    line = result.log[1]
    assert line["loss"] == pytest.approx(sum(loss.item() for loss in losses) / sum(tokens))
    assert line["loss_rec"] == pytest.approx((losses[0] + losses[2]).item() / (tokens[0] + tokens[2]))
    assert line["loss_src"] == pytest.approx(losses[1].item() / tokens[1])


def _rising() -> Any:
    values = iter(range(10_000))
    return lambda: {"criterion": float(next(values))}


def test_rates_of_all_groups_follow_the_schedule(one: Any, tmp_path: Path) -> None:
    problem, seen = one.problem(), []
    problem = replace(
        problem,
        loss=lambda model, tensors: (
            seen.append([group["lr"] for group in problem.optimizer.param_groups]) or identifier_loss(model, tensors)  # type: ignore[arg-type]
        ),
    )
    train(problem, SHORT, tmp_path, _silent)
    factors = [SHORT.rate_factor(step, 6) for step in range(6) for _ in range(3)]
    np.testing.assert_allclose(seen, [[1e-2 * factor, 5e-3 * factor] for factor in factors])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(one: Any, tmp_path: Path, wrong: float) -> None:
    problem, calls = one.problem(), iter(range(100))

    def loss(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        factor = wrong if next(calls) == 4 else 1.0  # the search micro-batch of step 1
        return identifier_loss(model, tensors) * factor  # type: ignore[arg-type]

    with pytest.raises(InputError, match=r"loss of task 'src' is (nan|inf) in step 1\. Lower the learning rate"):
        train(replace(problem, loss=loss), SHORT, tmp_path, _silent)
    assert all(torch.isfinite(p).all() for p in problem.model.parameters())


def test_a_gradient_that_is_not_finite_stops_the_training(one: Any, tmp_path: Path) -> None:
    problem = one.problem()
    next(iter(problem.model.parameters())).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(InputError, match=r"the gradient is (nan|inf) in step 0"):
        train(problem, SHORT, tmp_path, _silent)


def test_nothing_to_train_on_and_no_criterion_are_refused(one: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training examples"):
        train(one.problem(steps_per_epoch=0), SHORT, tmp_path, _silent)
    with pytest.raises(InputError, match="criterion is nan after step 0"):
        train(one.problem(evaluate=lambda: {"criterion": float("nan")}), SHORT, tmp_path, _silent)


# --- memory -----------------------------------------------------------------------------------------------------


def _limited(problem: Problem, rows: int, first_step: int = 0) -> Problem:
    """Memory for so many rows at a time, from the forward passes of a step on."""
    calls = iter(range(10_000))

    def loss(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        value = identifier_loss(model, tensors)  # type: ignore[arg-type]
        if next(calls) >= 3 * first_step and len(tensors["labels"]) > rows:
            value.backward()  # type: ignore[no-untyped-call]  # what the step has gathered so far is wrong now
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return value

    return replace(problem, loss=loss)


@pytest.mark.parametrize(("rows", "limits"), [(3, [2]), (1, [2, 1])])
def test_micro_batches_are_halved_where_memory_runs_out(one: Any, tmp_path: Path, rows: int, limits: list[int]) -> None:
    plain = _trained(one.problem(dropout=0.0), SHORT, tmp_path / "plain")
    short = _trained(_limited(one.problem(dropout=0.0), rows, first_step=1), SHORT, tmp_path / "short")
    notes = [line for line in short[1].log if line["stage"] == "memory"]
    assert notes == [{"stage": "memory", "step": 1, "micro_batch_size": limits[-1]}]
    assert len(short[1].log) == len(plain[1].log) + 1
    for name, tensor in _weights(plain[0]).items():
        torch.testing.assert_close(_weights(short[0])[name], tensor, rtol=1e-3, atol=1e-5)


def test_one_row_that_does_not_fit_is_an_error(one: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ran out in step 0 with one prompt per micro-batch\. Shorten the prompts"):
        train(_limited(one.problem(), 0), SHORT, tmp_path, _silent)


def test_an_optimizer_state_that_does_not_fit_is_an_error(one: Any, tmp_path: Path) -> None:
    problem = one.problem()

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    problem.optimizer.register_step_pre_hook(out_of_memory)
    with pytest.raises(InputError, match="the optimizer's state does not fit"):
        train(problem, SHORT, tmp_path, _silent)


def test_other_errors_are_not_taken_for_a_shortage_of_memory(one: Any, tmp_path: Path) -> None:
    def broken(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(one.problem(loss=broken), SHORT, tmp_path, _silent)


# --- choosing ---------------------------------------------------------------------------------------------------


def _scripted(problem: Problem, values: Sequence[float]) -> tuple[Problem, list[dict[str, Tensor]]]:
    """The criterion is read from a script; the weights at each evaluation are kept."""
    script: Iterator[float] = iter(values)
    weights: list[dict[str, Tensor]] = []

    def evaluate() -> dict[str, float]:
        assert not problem.model.training
        assert not torch.is_grad_enabled()
        weights.append(_weights(problem))
        value = next(script)
        return {"criterion": value, "valid_ndcg@10": value}

    return replace(problem, evaluate=evaluate), weights


@pytest.mark.parametrize(
    ("values", "patience", "best", "evaluations", "stopped"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.25], 3, 1, 5, "patience"),  # an equal one is no better
        ([0.5, 0.3, 0.2], 2, 0, 3, "patience"),  # the start counts
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, 4, 5, "epochs"),
        ([-5.0, -4.0, -4.5, -3.0, -6.0], 2, 3, 5, "epochs"),
    ],
)
def test_the_best_weights_are_put_back(
    one: Any, tmp_path: Path, values: list[float], patience: int, best: int, evaluations: int, stopped: str
) -> None:
    problem, weights = _scripted(one.problem(), values)
    result = train(problem, replace(SHORT, epochs=4, patience=patience), tmp_path, _silent)
    assert len(weights) == evaluations
    assert (result.stopped, result.best_step, result.criterion) == (stopped, best * STEPS, values[best])
    for name, tensor in _weights(problem).items():
        assert torch.equal(tensor, weights[best][name])
    lines = [line for line in result.log if line["stage"] == "train"]
    assert [line["valid_ndcg@10"] for line in lines] == values[:evaluations]
    assert [line["step"] for line in lines] == [STEPS * number for number in range(evaluations)]
    assert [line["epoch"] for line in lines] == list(range(evaluations))
    assert result.log[-1]["stage"] == "end"
    assert result.log[-1]["best_step"] == best * STEPS


def test_lines_of_the_log_have_the_same_keys_and_evaluations_are_spread(one: Any, tmp_path: Path) -> None:
    result = train(one.problem(), replace(SHORT, evaluations_per_epoch=2), tmp_path, _silent)
    lines = result.log[:-1]
    keys = {"stage", "step", "epoch", "loss", "loss_rec", "loss_src", "learning_rate", "heldout_loss", "seconds"}
    assert {frozenset(line) for line in lines} == {frozenset(keys)}
    assert [line["step"] for line in lines] == [0, 2, 3, 5, 6]
    assert lines[0]["loss"] is lines[0]["loss_rec"] is lines[0]["learning_rate"] is None
    assert all(line["loss"] > 0 < line["loss_src"] for line in lines[1:])


def test_a_rare_task_has_its_loss_in_every_line(one: Any, tmp_path: Path) -> None:
    def step(epoch: int, number: int) -> list[MicroBatch]:
        return [one.batch(2, seed=number, task="src" if (epoch, number) == (1, 1) else "rec")]

    result = train(one.problem(step=step), replace(SHORT, epochs=3), tmp_path, _silent)
    lines = result.log[:-1]
    assert len({frozenset(line) for line in lines}) == 1
    assert [line["loss_src"] is None for line in lines] == [True, True, False, True]
    assert set(result.log[-1]) == {"stage", "stopped", "step", "best_step"}


def test_frozen_weights_stay_and_are_not_in_the_checkpoint(one: Any, tmp_path: Path) -> None:
    problem = one.problem()
    frozen = [name for name, _ in problem.model.named_parameters() if "0" in name]
    for name in frozen:
        problem.model.get_parameter(name).requires_grad_(False)
    before = _weights(problem)
    train(problem, SHORT, tmp_path, _silent)
    for name, tensor in _weights(problem).items():
        assert torch.equal(tensor, before[name]) == (name in frozen), name
    size = (tmp_path / "state.safetensors").stat().st_size
    trained = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    assert size < 4 * 4 * trained + 40_000


# --- randomness, resuming ---------------------------------------------------------------------------------------


def test_a_run_is_a_function_of_its_seed_alone(one: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = _trained(one.problem(), SHORT, tmp_path / "a")
    problem = one.problem()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = _trained(problem, SHORT, tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone
    _same_training(first, second)
    other = _trained(one.problem(seed=8), SHORT, tmp_path / "c")
    assert _without_seconds(other[1].log) != _without_seconds(first[1].log)


@pytest.mark.parametrize(("stop_after", "memory"), [(1, None), (2, None), (3, None), (5, None), (6, None), (4, 2)])
def test_a_stopped_training_goes_on_bit_by_bit(tiny: Any, tmp_path: Path, stop_after: int, memory: int | None) -> None:
    def problem() -> Problem:
        return tiny.problem() if memory is None else _limited(tiny.problem(), memory)

    # Where memory was short before the kill and is not any more, micro-batches stay small.
    settings = replace(SHORT, evaluations_per_epoch=2)
    done: list[int] = []

    def stop(step: int, _: str) -> None:
        done.append(step)
        if len(done) == stop_after:
            raise KilledError

    with pytest.raises(KilledError):
        train(problem(), settings, tmp_path / "stopped", stop)
    again: list[int] = []
    resumed = tiny.problem()
    result = train(resumed, settings, tmp_path / "stopped", lambda step, _: again.append(step))
    assert again == list(range(stop_after, 7))  # the step of the kill itself is lost, no more
    whole = _trained(problem(), settings, tmp_path / "whole")
    _same_training(whole, (resumed, result))


def test_a_training_that_was_killed_twice_and_one_that_is_done(one: Any, tmp_path: Path) -> None:
    whole = _trained(one.problem(), SHORT, tmp_path / "whole")
    for last in (2, 4):

        def stop(step: int, _: str, last: int = last) -> None:
            if step > last:
                raise KilledError

        with pytest.raises(KilledError):
            train(one.problem(), SHORT, tmp_path / "killed", stop)
    _same_training(whole, _trained(one.problem(), SHORT, tmp_path / "killed"))

    def nothing(step: int, _: str) -> None:
        raise AssertionError(step)

    again = one.problem()
    _same_training(whole, (again, train(again, SHORT, tmp_path / "whole", nothing)))


@pytest.mark.parametrize("how", ["fingerprint", "cut", "empty", "other model"])
def test_a_checkpoint_that_does_not_fit_is_not_used(one: Any, tmp_path: Path, how: str) -> None:
    whole = _trained(one.problem(), SHORT, tmp_path)
    path = tmp_path / "state.safetensors"
    problem = one.problem(fingerprint="b" if how == "fingerprint" else "a")
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    if how == "empty":
        path.write_bytes(b"")
    if how == "other model":
        next(iter(problem.model.parameters())).requires_grad_(False)
    steps: list[int] = []
    result = train(problem, SHORT, tmp_path, lambda step, _: steps.append(step))
    assert steps == list(range(1, 7))
    if how != "other model":
        _same_training(whole, (problem, result))
    delete_checkpoint(tmp_path)
    assert not tmp_path.exists()


def test_checkpoints_are_written_when_they_are_due(one: Any, tmp_path: Path) -> None:
    train(one.problem(), replace(SHORT, checkpoint_seconds=1e6), tmp_path, _silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "expected"), [(5.0, [5, 45]), (0.0, list(range(1, 61))), (50.0, [50])])
def test_slow_checkpoints_are_rare(
    one: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    """Steps take a second of this clock, writing takes two, so that 40 seconds lie between two checkpoints."""
    clock, written = [0.0], list[int]()

    def save(path: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        clock[0] += 2
        written.append(state["step"])

    def report(done: int, text: str) -> None:
        clock[0] += 1

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    batch = one.batch(1)
    problem = one.problem(step=lambda epoch, step: [batch], steps_per_epoch=60, evaluate=_rising())
    train(problem, LoopSettings(epochs=1, checkpoint_seconds=seconds), tmp_path, report)
    assert written == expected

"""GEMS in the one training loop: gradients reach it task by task, and a killed run ends with the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.checkpoint import optimizer_tensors
from gemsbench.errors import InputError
from gemsbench.optim import GEMS, gems_param_groups
from gemsbench.training.batches import MicroBatch
from gemsbench.training.loop import LoopSettings, Problem, TrainingResult, train
from gemsbench.training.objective import identifier_loss
from gemsbench.training.task_optimizer import TaskOptimizer, trained_parameters

SHORT = LoopSettings(epochs=2, patience=9, warmup=0.2, checkpoint_seconds=0.0, evaluations_per_epoch=2)
GAP = 2  # of the bases: steps 1, 3, 5 of the six have new ones, the others do not


def silent(done: int, text: str) -> None:
    assert done
    assert text


def gems(model: Any, preset: str, **settings: Any) -> GEMS:
    name = "shared.weight" if hasattr(model, "shared") else "model.embed_tokens.weight"
    groups = gems_param_groups(model, rank=4, rows={name: range(30, 40)}, rows_lr=2e-2)
    values = {"update_gap": GAP, "gate_every": 2, **settings}
    return GEMS(groups, lr=5e-3, tasks=("rec", "src"), preset=preset, seed=3, **values)


def problem_of(tiny: Any, preset: str, dropout: float = 0.1, **settings: Any) -> Problem:
    """The best weights are always the last ones: the criterion is how far they went."""
    problem: Problem = tiny.problem(dropout=dropout)
    start = weights(problem)

    def evaluate() -> dict[str, float]:
        far = sum(float((p - start[name]).norm()) for name, p in problem.model.named_parameters())
        return {**problem.evaluate(), "criterion": far}

    return replace(problem, optimizer=gems(problem.model, preset, **settings), evaluate=evaluate)


def weights(problem: Problem) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in problem.model.named_parameters()}


def without_seconds(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log but for how long it took."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log]


def assert_same(first: tuple[Problem, TrainingResult], second: tuple[Problem, TrainingResult]) -> None:
    assert without_seconds(first[1].log) == without_seconds(second[1].log)
    for name, tensor in weights(first[0]).items():
        assert torch.equal(tensor, weights(second[0])[name]), name


def test_gems_is_a_task_optimizer_and_adam_is_none(one: Any) -> None:
    problem = one.problem()
    assert not isinstance(problem.optimizer, TaskOptimizer)
    assert isinstance(gems(problem.model, "paper"), TaskOptimizer)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_first_step_is_that_of_a_bare_loop(tiny: Any, tmp_path: Path, preset: str) -> None:
    """Sums of losses over counts of tokens; the loop divides both by the tokens of the step."""
    problem, bare = (problem_of(tiny, preset, dropout=0.0, gate="uniform") for _ in range(2))
    steps = 1 if preset == "paper" else 2  # the first step of fast only looks
    once = replace(problem, steps_per_epoch=steps)
    line = train(once, LoopSettings(epochs=1, warmup=0.0, schedule="cosine"), tmp_path, silent).log[-2]
    bare.model.train()
    for step in range(steps):
        for batch in bare.step(0, step):
            with bare.optimizer.task(batch.task, tokens=batch.target_tokens) as named:  # type: ignore[attr-defined]
                named.backward(identifier_loss(bare.model, batch.tensors))  # type: ignore[arg-type]
        factor = LoopSettings(warmup=0.0, schedule="cosine").rate_factor(step, steps)
        for group in bare.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        norms = bare.optimizer.gradient_norms()  # type: ignore[attr-defined]
        bare.optimizer.step()
        bare.optimizer.zero_grad()
    assert {task: line[f"gradient_norm_of_{task}"] for task in norms} == pytest.approx(norms, rel=1e-3)
    before, found, expected = weights(tiny.problem(dropout=0.0)), weights(once), weights(bare)
    moved = [name for name in expected if not torch.equal(expected[name], before[name])]
    assert len(moved) > 5
    for name in moved:  # not value by value: where a gradient is next to 0, Adam's step is what rounding left of it
        assert (found[name] - expected[name]).norm() < 0.01 * (expected[name] - before[name]).norm(), name


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_it_learns(tiny: Any, tmp_path: Path, preset: str) -> None:
    problem = problem_of(tiny, preset, dropout=0.0)
    batches = problem.step(0, 0)
    learned = replace(problem, step=lambda epoch, step: batches, evaluate=lambda: {"criterion": -_loss(problem)})
    result = train(learned, replace(SHORT, epochs=30, patience=90), tmp_path, silent)
    assert result.log[-2]["loss"] < 0.85 * result.log[1]["loss"]


def _loss(problem: Problem) -> float:
    return sum(float(problem.loss(problem.model, batch.tensors)) for batch in problem.step(0, 0))


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5])
def test_a_stopped_training_goes_on_bit_by_bit(one: Any, tmp_path: Path, preset: str, stop_after: int) -> None:
    """At steps with new bases and between them; the best weights of a stopped run are those of matrices, too."""
    done: list[int] = []

    def stop(step: int, _: str) -> None:
        done.append(step)
        if len(done) == stop_after + 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(problem_of(one, preset), SHORT, tmp_path / "stopped", stop)
    again: list[int] = []
    resumed = problem_of(one, preset)
    result = train(resumed, SHORT, tmp_path / "stopped", lambda step, _: again.append(step))
    assert again == list(range(stop_after + 1, 7))
    whole = problem_of(one, preset)
    assert result.best_step == 6
    assert_same((whole, train(whole, SHORT, tmp_path / "whole", silent)), (resumed, result))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_an_encoder_decoder_goes_on_bit_by_bit(tiny: Any, tmp_path: Path, preset: str) -> None:
    test_a_stopped_training_goes_on_bit_by_bit(tiny, tmp_path, preset, 3)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_state_keeps_its_precision_in_the_checkpoint(one: Any, tmp_path: Path, preset: str) -> None:
    problem = problem_of(one, preset)
    train(problem, SHORT, tmp_path, silent)
    kept = optimizer_tensors([problem.optimizer])
    kinds = {name.rpartition("/")[2]: tensor.dtype for name, tensor in kept.items()}
    assert kinds["basis"] == kinds["exp_avg"] == kinds["exp_avg_sq"] == torch.float32
    assert (kinds["steps"], kinds["due"]) == (torch.int64, torch.uint8)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_all_that_moves_is_in_the_checkpoint_and_nothing_else(one: Any, preset: str) -> None:
    """Preset fast asks autograd for no gradient of the weights that it moves."""
    problem = problem_of(one, preset)
    linear = {f"{n}.weight" for n, m in problem.model.named_modules() if isinstance(m, nn.Linear)} - {"lm_head.weight"}
    names = set(trained_parameters(problem.model, problem.optimizer))
    assert names == linear | {"model.embed_tokens.weight"}


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_shortage_of_memory_halves_the_batches_and_forgets_what_was_begun(
    one: Any, tmp_path: Path, preset: str
) -> None:
    def limited(model: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        if len(tensors["labels"]) > 2:
            raise torch.OutOfMemoryError("no more")
        return identifier_loss(model, tensors)

    # The second micro-batch is the one that is too large.
    def order(epoch: int, number: int) -> list[MicroBatch]:
        return [one.batch(2, number, "rec"), one.batch(4, number + 50, "src")]

    short = replace(problem_of(one, preset, dropout=0.0), loss=limited, step=order)
    whole = replace(problem_of(one, preset, dropout=0.0), step=order)
    results = [train(p, SHORT, tmp_path / str(n), silent) for n, p in enumerate((short, whole))]
    assert [line["micro_batch_size"] for line in results[0].log if line["stage"] == "memory"] == [2]
    losses = [[line["loss"] for line in r.log if line["stage"] == "train"][1:] for r in results]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_after_a_shortage_of_memory_the_bits_are_those_of_smaller_batches(
    one: Any, tmp_path: Path, preset: str, where: str
) -> None:
    """In the second step, after one micro-batch that fitted: what that one left in the optimizer must be gone."""

    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no more")

    def limited(model: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        loss = identifier_loss(model, tensors)
        if len(tensors["labels"]) <= 2:
            return loss
        if where == "backward":
            return Short.apply(loss)  # type: ignore[no-any-return, no-untyped-call]
        raise torch.OutOfMemoryError("no more")

    def order(epoch: int, number: int) -> list[MicroBatch]:
        rows = 2 if (epoch, number) == (0, 0) else 4
        return [one.batch(2, number, "rec"), one.batch(rows, number + 50, "src")]

    def small(epoch: int, number: int) -> list[MicroBatch]:
        return [part for batch in order(epoch, number) for part in batch.split(2)]

    short = replace(problem_of(one, preset), loss=limited, step=order)
    cut = replace(problem_of(one, preset), step=small)
    results = [train(p, SHORT, tmp_path / str(n), silent) for n, p in enumerate((short, cut))]
    assert [line["step"] for line in results[0].log if line["stage"] == "memory"] == [1]
    for name, tensor in weights(short).items():
        assert torch.equal(tensor, weights(cut)[name]), name


def test_gradients_are_not_clipped(one: Any, tmp_path: Path) -> None:
    found = []
    for most in (1e-6, 1e6):
        problem = problem_of(one, "paper", dropout=0.0)
        train(problem, replace(SHORT, max_grad_norm=most), tmp_path / str(most), silent)
        found.append(weights(problem))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named(one: Any, tmp_path: Path, preset: str, value: float) -> None:
    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * value

    def loss(model: Any, tensors: Mapping[str, Tensor]) -> Tensor:
        return Spoiled.apply(identifier_loss(model, tensors))  # type: ignore[no-any-return, no-untyped-call]

    # The first step of fast has no bases yet: only the rest of the gradient tells.
    with pytest.raises(InputError, match=r"the gradient of (rec|the rest) is (nan|inf) in step 0"):
        train(replace(problem_of(one, preset), loss=loss), SHORT, tmp_path, silent)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_log_tells_what_the_gate_and_the_subspaces_do(one: Any, tmp_path: Path, preset: str) -> None:
    result = train(problem_of(one, preset), SHORT, tmp_path, silent)
    lines = [line for line in result.log if line["stage"] == "train"]
    assert len({frozenset(line) for line in lines}) == 1
    wanted = {f"{what}_{task}" for what in ("gate", "overlap", "gradient_norm_of") for task in ("rec", "src")}
    assert wanted <= set(lines[0])
    assert all(lines[0][name] is None for name in wanted)
    for line in lines[1:]:
        assert line["gate_rec"] + line["gate_src"] == pytest.approx(1)
        assert 0 <= line["overlap_src"] <= 1 + 1e-6
        assert line["gradient_norm_of_src"] > 0 < line["gradient_norm_of_the_rest"]


def test_a_step_without_one_of_the_tasks_is_a_step(one: Any, tmp_path: Path) -> None:
    def step(epoch: int, number: int) -> list[MicroBatch]:
        return [one.batch(2, seed=number, task="src" if (epoch, number) == (1, 1) else "rec")]

    result = train(replace(problem_of(one, "paper"), step=step), SHORT, tmp_path, silent)
    last = [line for line in result.log if line["stage"] == "train"][-1]
    assert last["gradient_norm_of_rec"] > 0

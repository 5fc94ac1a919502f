"""The optimizer's shortcuts give what the equations give when they are written with full matrices, in fp64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

# What the optimizer is told, by the words of the oracle's rules.
WORDS = {"gap": "update_gap", "transfer": "moment_transfer", "form": "null_space_form", "mode": "null_space_mode"}
WORDS |= {"counter": "step_counter"}
STEPS = 12


def both(lab: SimpleNamespace, known: Any = None, gate: str = "uniform", **rules: Any) -> tuple[Any, Any, Any]:
    """A bank, its optimizer and its oracles under the same rules."""
    model = lab.Bank()
    told = {"rank": 4, "task_rank": 2, "lr": 0.02, "gap": 5, "tasks": lab.TASKS, **rules}
    settings = {WORDS.get(name, name): value for name, value in told.items()}
    groups = {name: settings.pop(name) for name in ("rank", "task_rank")}
    opt = lab.optimizer(model, groups=groups, null_space=known and known(model), gate=gate, **settings)
    return model, opt, lab.dense(model, lab.Rules(**told), known and known(model))


@pytest.mark.parametrize("side", ["std", "left", "right"])
@pytest.mark.parametrize("transfer", ["keep", "rotate"])
def test_three_subspaces_over_several_refreshes(lab: SimpleNamespace, side: str, transfer: str) -> None:
    model, opt, dense = both(lab, side=side, transfer=transfer, scale=1.7)
    lab.follow(opt, model, dense, lab.lessons(model, STEPS))


@pytest.mark.parametrize("side", ["std", "left", "right"])
@pytest.mark.parametrize("known_side", ["input", "output"])
@pytest.mark.parametrize("form", ["complement", "literal"])
@pytest.mark.parametrize("mode", ["post", "gradient"])
def test_the_null_space(lab: SimpleNamespace, side: str, known_side: str, form: str, mode: str) -> None:
    model, opt, dense = both(lab, lambda model: lab.spans(model, 4, known_side), side=side, form=form, mode=mode)
    if form == "literal" and mode == "gradient":  # gradients of rank 4: no directions beyond the fourth
        assert dense["tall"].rank("shared") == 4
    lab.follow(opt, model, dense, lab.lessons(model, STEPS))


@pytest.mark.parametrize("form", ["complement", "literal"])
def test_bases_inside_the_null_space(lab: SimpleNamespace, form: str) -> None:
    known = lambda model: lab.spans(model, 4)  # noqa: E731
    model, opt, dense = both(lab, known, side="right", form=form, mode="subspace", transfer="rotate")
    lab.follow(opt, model, dense, lab.lessons(model, STEPS))


@pytest.mark.parametrize("side", ["std", "left", "right"])
@pytest.mark.parametrize("gate", ["prior", "heuristic"])
def test_unequal_gate_weights(lab: SimpleNamespace, side: str, gate: str) -> None:
    model, opt, dense = both(lab, lambda model: lab.spans(model, 3), gate=gate, side=side)
    steps = [[part.scaled(9.0) if part.task == "rec" else part for part in step] for step in lab.lessons(model, STEPS)]
    lab.follow(opt, model, dense, steps)
    weights = opt.gate_weights()
    assert abs(weights["src"] - weights["rec"]) > 0.05


@pytest.mark.parametrize("shared", ["sum", "token_mean"])
@pytest.mark.parametrize("counter", ["per_task", "shared"])
def test_token_means_and_step_counters(lab: SimpleNamespace, shared: str, counter: str) -> None:
    """rec is missing in every third step, so that its own count falls behind."""
    model, opt, dense = both(lab, shared=shared, counter=counter)
    steps = lab.lessons(model, STEPS)
    lab.follow(opt, model, dense, [step[:1] if number % 3 == 1 else step for number, step in enumerate(steps)])


@pytest.mark.parametrize("side", ["std", "left", "right"])
def test_residual_task_subspaces(lab: SimpleNamespace, side: str) -> None:
    model, opt, dense = both(lab, lambda model: lab.spans(model, 3), side=side, task_basis="residual")
    lab.follow(opt, model, dense, lab.lessons(model, STEPS), tolerance=1e-11)


def test_three_tasks(lab: SimpleNamespace) -> None:
    tasks = ("src", "rec", "ads")
    model, opt, dense = both(lab, tasks=tasks, task_rank=1)
    lab.follow(opt, model, dense, lab.lessons(model, STEPS, tasks))


def test_one_task(lab: SimpleNamespace) -> None:
    model, opt, dense = both(lab, tasks=("only",))
    lab.follow(opt, model, dense, lab.lessons(model, STEPS, ["only"]))


def test_betas_eps_and_weight_decay(lab: SimpleNamespace) -> None:
    model, opt, dense = both(lab, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.1)
    lab.follow(opt, model, dense, lab.lessons(model, STEPS))


def test_a_task_that_misses_the_refresh_gets_its_basis_when_it_is_back(lab: SimpleNamespace) -> None:
    model, opt, dense = both(lab, gap=4)
    steps = lab.lessons(model, 11)
    missing = {0, 4, 5, 8}
    lab.follow(opt, model, dense, [step[:1] if number in missing else step for number, step in enumerate(steps)])


def test_a_changed_learning_rate_is_the_one_that_is_used(lab: SimpleNamespace) -> None:
    model, opt, dense = both(lab)
    steps = lab.lessons(model, 4)
    lab.follow(opt, model, dense, steps[:2])
    for group in opt.param_groups:
        group["lr"] = 0.005
    with pytest.raises(AssertionError, match="step 1"):
        lab.follow(opt, model, dense, steps[2:3])

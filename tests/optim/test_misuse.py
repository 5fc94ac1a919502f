"""What people do with an optimizer and a model besides training: copies, in-place layers, failures, odd groups."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS, gems_param_groups

TASKS = ("src", "rec")


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 6)
    )


def tuned(model: nn.Module, preset: str = "paper", **settings: Any) -> GEMS:
    return GEMS(gems_param_groups(model, rank=3), lr=0.01, preset=preset, **settings)


def losses(model: nn.Module, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 6, generator=generator)
    return {"src": (model(x) - x).square().sum(), "rec": (model(x) + x).square().sum()}


def take_step(opt: GEMS, model: nn.Module, step: int, scale: float = 1.0) -> None:
    for name in TASKS:
        with opt.task(name, tokens=4) as part:
            part.backward(losses(model, step)[name] * scale)
    opt.step()
    opt.zero_grad()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_layers_may_be_followed_by_in_place_ones() -> None:
    model = network()
    opt = tuned(model, "fast")
    before = weights(model)
    for step in range(3):
        take_step(opt, model, step)
    moved = [not torch.equal(old, new) for old, new in zip(before, weights(model), strict=True)]
    assert moved == [True, False] * 3  # weights and frozen biases


def test_a_copy_of_a_tapped_model_feeds_nobody() -> None:
    model = network()
    opt = tuned(model, "fast")
    take_step(opt, model, 0)
    twin = copy.deepcopy(model).requires_grad_(True)
    sum(losses(twin, 1).values()).backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    assert opt.gradient_norms() == {}
    take_step(opt, model, 1)


def test_a_second_optimizer_takes_the_layers_over() -> None:
    model, alone = network(), network()
    first = tuned(model, "fast")
    second = tuned(model, "fast")
    single = tuned(alone, "fast")
    for step in range(3):
        take_step(second, model, step)
        take_step(single, alone, step)
    assert same(weights(model), weights(alone))
    assert not first.state


def test_a_layer_that_no_gradient_reaches_is_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(6, 6), "bypassed": nn.Linear(6, 6)})
    opt = tuned(model, "fast")
    x = torch.ones(2, 6)
    with opt.task("src", tokens=2) as part:
        part.backward((model["used"](x) @ model["bypassed"].weight).sum())
    with pytest.warns(UserWarning, match=r"no gradient reached bypassed\.weight"):
        opt.step()


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_betas_and_eps_of_a_group_are_used(preset: str) -> None:
    own = {"betas": (0.5, 0.9), "eps": 1e-2}
    ends = []
    for in_group in (True, False):
        model = network()
        groups = gems_param_groups(model, rank=3)
        if in_group:
            groups[0] |= own
        opt = GEMS(groups, lr=0.01, preset=preset, **({} if in_group else own))
        for step in range(4):
            take_step(opt, model, step)
        ends.append(weights(model))
    assert same(*ends)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_nothing_moves_on_a_gradient_that_is_not_finite(preset: str) -> None:
    model = network()
    opt = tuned(model, preset)
    for step in range(3):
        take_step(opt, model, step)
    before = weights(model)
    with pytest.raises(ValueError, match="nothing has moved"):
        take_step(opt, model, 3, scale=float("nan"))
    assert same(weights(model), before)
    opt.zero_grad()
    take_step(opt, model, 4)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_loss_that_is_not_finite_does_not_stay_in_the_gate() -> None:
    opt = tuned(network())
    gate = opt.gate
    one = {task: torch.tensor(1.0) for task in TASKS}
    gate.observe(one, one, {"src": 1.0, "rec": 1.0})
    gate.observe({**one, "src": torch.tensor(float("nan"))}, one, {"src": 1.0, "rec": 1.0})
    assert torch.isfinite(gate.losses).all()


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_failed_pass_must_be_forgotten_first(preset: str) -> None:
    model = network()
    opt = tuned(model, preset)
    with pytest.raises(RuntimeError, match="boom"), opt.task("src", tokens=500):
        raise RuntimeError("boom")
    with pytest.raises(ValueError, match="zero_grad"), opt.task("src", tokens=4):
        pass
    with pytest.raises(ValueError, match="zero_grad"):
        opt.step()
    opt.zero_grad()
    take_step(opt, model, 0)


def test_layers_that_have_moved_cannot_be_forgotten() -> None:
    model = network()
    opt = tuned(model, backward="per_layer", gate_lag=1)
    take_step(opt, model, 0)
    with opt.task("src", tokens=4, last=True) as part:
        part.backward(losses(model, 1)["src"])
    with pytest.raises(ValueError, match="have moved already"):
        opt.zero_grad()
    opt.step()
    opt.zero_grad()


@pytest.mark.parametrize(
    "other", [{"null_space_mode": "gradient"}, {"attribution": True}, {"seed": 5}, {"moment_transfer": "rotate"}]
)
def test_a_state_of_other_settings_is_refused_and_changes_nothing(other: dict[str, Any]) -> None:
    model = network()
    opt = tuned(model)
    take_step(opt, model, 0)
    target_model = network()
    target = tuned(target_model, **other)
    take_step(target, target_model, 0)
    before = {key: value.clone() for key, value in target.state[target_model[0].weight].items()}
    with pytest.raises(ValueError, match="saved state has"):
        target.load_state_dict(opt.state_dict())
    assert all(torch.equal(value, target.state[target_model[0].weight][key]) for key, value in before.items())


def test_a_state_of_adamw_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="not a state of GEMS"):
        tuned(model).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


def test_a_zero_gradient_leaves_the_basis_due() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    nn.init.zeros_(model[1].weight)
    opt = tuned(model)
    take_step(opt, model, 0)
    assert opt.state[model[0].weight]["due"].tolist() != [0, 0, 0]
    take_step(opt, model, 1)
    assert opt.state[model[0].weight]["due"].tolist() == [0, 0, 0]


def test_the_gate_asks_for_losses() -> None:
    model = network()
    opt = tuned(model)
    with opt.task("src", tokens=4):
        losses(model, 0)["src"].backward()
    with pytest.warns(UserWarning, match="saw no losses"):
        opt.step()


def test_trained_norms_and_biases_undo_the_null_space() -> None:
    class Basis:
        side, hash = "input", "none"

        def of(self, name: str, device: object = None) -> Tensor:
            return torch.eye(8 if name in ("2.weight", "4.weight") else 6)[:, :1]

    model = network()
    with pytest.warns(UserWarning, match="nothing is preserved exactly"):
        GEMS(gems_param_groups(model, rank=3, others="trained"), null_space=Basis())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "lr of a group"),
        ({"lr": float("nan")}, "lr of a group"),
        ({"scale": float("inf")}, "scale of a group"),
        ({"rank": 2.5}, "rank of a group"),
        ({"task_rank": -1}, "task_rank of a group"),
        ({"update_gap": 0}, "update_gap of a group"),
        ({"side": "top"}, "not one of std"),
    ],
)
def test_values_of_groups_are_checked(change: dict[str, Any], message: str) -> None:
    groups = gems_param_groups(network(), rank=3)
    groups[0] |= change
    with pytest.raises(ValueError, match=message):
        GEMS(groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"task_rank": -2}, "task_rank is -2"),
        ({"others": "train"}, "Did you mean 'trained'"),
        ({"rank_pattern": {"7": 2}}, "fits no layer"),
        ({"rows": {"0.wieght": range(1)}}, "Did you mean '0.weight'"),
        ({"rows": {"0.weight": range(9, 12)}}, "Name a range in it"),
        ({"rows": {"0.weight": range(0, 4, 2)}}, "Name a range in it"),
    ],
)
def test_arguments_of_the_groups_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gems_param_groups(network(), **{"rank": 3, **change})


def test_computed_weights_are_named() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))
    with pytest.raises(ValueError, match="computed from others"):
        gems_param_groups(model, rank=2)


def test_a_head_tied_to_an_embedding_is_no_target() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 6), "inner": nn.Linear(6, 6), "out": nn.Linear(6, 9, bias=False)})
    model["out"].weight = model["table"].weight
    (group,) = gems_param_groups(model, rank=2)
    assert [name for name, _ in group["params"]] == ["inner.weight"]


def test_a_text_is_no_list_of_tasks() -> None:
    with pytest.raises(ValueError, match=r"\('src',\)"):
        GEMS(gems_param_groups(network(), rank=3), tasks="src")


def test_groups_come_before_the_hooks() -> None:
    model, later = network(), network(1)
    opt = tuned(model, "fast")
    with pytest.raises(ValueError, match="no group can be added later"):
        opt.add_param_group(gems_param_groups(later, rank=2)[0])

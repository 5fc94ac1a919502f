"""The state: its bytes are those of the formula, and a saved one continues bit for bit."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

GAP = 5
MODES: dict[str, dict[str, Any]] = {
    "paper": {"gate": "learned"},
    "per-layer": {"gate": "learned", "backward": "per_layer", "gate_lag": 1},
    "fast": {"preset": "fast", "gate": "learned"},
    "reference": {"preset": "reference", "gate": "heuristic"},
}
COUNTERS = 9  # bytes per component: an int64 count and a flag
TURNED = 8  # bytes per matrix: the step of its last new basis


def expected_bytes(m: int, n: int, ranks: tuple[int, int], side: str, post: bool, basis_bytes: int) -> dict[str, int]:
    """Two tasks: a R + 2 b R with clipped ranks; the cached copy only for bases of inputs."""
    right = side == "right" or (side == "std" and m >= n)
    a, b = (n, m) if right else (m, n)
    total = sum(min(rank, m, n) for rank in (ranks[0], ranks[1], ranks[1]))
    parts = {"basis": a * total * basis_bytes, "exp_avg": 4 * b * total, "exp_avg_sq": 4 * b * total}
    return {**parts, "back": n * total * basis_bytes} if post and right else parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("side", ["std", "left", "right"])
@pytest.mark.parametrize("known", [False, True], ids=["free", "null-space"])
@pytest.mark.parametrize("ranks", [(4, 2), (100, 50), (3, 3)], ids=str)
def test_state_bytes_of_full_backward(
    lab: SimpleNamespace, dtype: torch.dtype, side: str, known: bool, ranks: tuple[int, int]
) -> None:
    model = lab.Bank(dtype=dtype)
    null_space = lab.spans(model) if known else None
    opt = lab.optimizer(model, groups={"rank": ranks[0], "task_rank": ranks[1]}, side=side, null_space=null_space)
    check_bytes(lab, model, opt, ranks, side, known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_state_bytes_of_projected_backward(lab: SimpleNamespace, dtype: torch.dtype) -> None:
    """No cached copy: the bases themselves lie inside the projector's range, whose dimension clips the ranks."""
    model = lab.Bank(dtype=dtype)
    opt = lab.optimizer(model, preset="fast", null_space=lab.spans(model))
    check_bytes(lab, model, opt, (4, 2), "right", False)


def check_bytes(lab: SimpleNamespace, model: Any, opt: Any, ranks: tuple[int, int], side: str, post: bool) -> None:
    lab.train(opt, model, lab.lessons(model, 3))
    for weight in model.weights.values():
        expected = expected_bytes(*weight.shape, ranks, side, post, weight.element_size())
        found = {key: value.nbytes for key, value in opt.state[weight].items()}
        counters = {key: found.pop(key) for key in ("steps", "due", "turned") if key in found}
        assert found == expected
        assert sum(counters.values()) == 3 * COUNTERS + (TURNED if "turned" in counters else 0)
    assert set(opt.state) == set(model.weights.values())


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint does it: nothing but tensors and plain values pass."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def snapshot(model: Any, opt: Any) -> dict[str, Tensor]:
    found = {name: weight.detach().clone() for name, weight in model.weights.items()}
    for name, weight in model.weights.items():
        found |= {f"{name}.{key}": value.clone() for key, value in opt.state[weight].items()}
    found["gate"] = torch.tensor(list(opt.gate_weights().values()))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 7, GAP, GAP + 1], ids=lambda stop: f"after-{stop}")
def test_a_loaded_state_continues_bit_for_bit(lab: SimpleNamespace, mode: str, dtype: torch.dtype, stop: int) -> None:
    """Stops after the first step, between two bases, and right before and after new ones."""
    settings = {"update_gap": GAP, "gate_every": 3, "seed": 5, **MODES[mode]}
    model = lab.Bank(dtype=dtype)
    settings["null_space"] = lab.spans(model)
    opt = lab.optimizer(model, **settings)
    steps = lab.lessons(model, 13)
    lab.train(opt, model, steps[:stop])
    saved, weights = through_a_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    lab.train(opt, model, steps[stop:])

    other = lab.Bank(seed=1, dtype=dtype)
    resumed = lab.optimizer(other, **settings)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    lab.train(resumed, other, steps[stop:])
    expected, found = snapshot(model, opt), snapshot(other, resumed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.dtype == found[name].dtype
        assert torch.equal(value, found[name]), name


def test_loading_a_state_undoes_what_was_done_since(lab: SimpleNamespace) -> None:
    """The same objects go back to step 7."""
    model = lab.Bank(dtype=torch.float32)
    opt = lab.optimizer(model, update_gap=GAP, gate="learned", gate_every=2)
    steps = lab.lessons(model, 12)
    lab.train(opt, model, steps[:7])
    saved, weights = through_a_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    lab.train(opt, model, steps[7:])
    first = snapshot(model, opt)
    model.load_state_dict(weights)
    opt.load_state_dict(saved)
    lab.train(opt, model, steps[7:])
    assert all(torch.equal(value, first[name]) for name, value in snapshot(model, opt).items())


@pytest.mark.parametrize("mode", MODES)
def test_loading_forgets_what_was_being_collected(lab: SimpleNamespace, mode: str) -> None:
    """Half a step that makes bases, then back to a state of long before: nothing of that half is left."""
    model = lab.Bank()
    opt = lab.optimizer(model, update_gap=GAP, seed=5, **MODES[mode])
    steps = lab.lessons(model, 3 * GAP)
    lab.train(opt, model, steps[:GAP])
    saved, weights = through_a_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    lab.train(opt, model, steps[GAP : 2 * GAP])
    expected = snapshot(model, opt)
    with opt.task("src", tokens=3) as part:
        part.backward(steps[0][0].loss(model))
    model.load_state_dict(weights)
    opt.load_state_dict(saved)
    for weight in model.weights.values():
        weight.grad = None
    lab.train(opt, model, steps[GAP : 2 * GAP])
    assert all(torch.equal(value, expected[name]) for name, value in snapshot(model, opt).items())


def test_moments_of_bf16_weights_stay_fp32_through_a_file(lab: SimpleNamespace) -> None:
    """torch's own load_state_dict would cast them to the weight's type."""
    model = lab.Bank(dtype=torch.bfloat16)
    opt = lab.optimizer(model)
    lab.train(opt, model, lab.lessons(model, 2))
    before = snapshot(model, opt)
    opt.load_state_dict(through_a_file(opt.state_dict()))
    for weight in model.weights.values():
        assert opt.state[weight]["exp_avg"].dtype == torch.float32
        assert opt.state[weight]["exp_avg_sq"].dtype == torch.float32
        assert opt.state[weight]["steps"].dtype == torch.int64
    assert all(torch.equal(value, before[name]) for name, value in snapshot(model, opt).items())


def test_a_state_of_other_settings_is_refused(lab: SimpleNamespace) -> None:
    """Other ranks or tasks: the tensors do not fit."""
    model = lab.Bank()
    opt = lab.optimizer(model)
    lab.train(opt, model, lab.lessons(model, 2))
    saved = through_a_file(opt.state_dict())
    for other in (
        lab.optimizer(lab.Bank(), groups={"rank": 3}),
        lab.optimizer(lab.Bank(), tasks=("src", "rec", "ads")),
    ):
        with pytest.raises(ValueError, match=r"^GEMS: "):
            other.load_state_dict(saved)


def test_a_state_made_with_another_null_space_is_refused(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, null_space=lab.spans(model, seed=1))
    lab.train(opt, model, lab.lessons(model, 2))
    saved = through_a_file(opt.state_dict())
    for other in (None, lab.spans(model, seed=2), lab.spans(model, k=2, seed=1)):
        with pytest.raises(ValueError, match=r"null.space"):
            lab.optimizer(lab.Bank(), null_space=other).load_state_dict(saved)
    lab.optimizer(lab.Bank(), null_space=lab.spans(model, seed=1)).load_state_dict(saved)

"""The projected backward of `fast` gives what full gradients give, and never makes one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

LEARNED = {"gate": "learned", "gate_every": 2, "gate_lr": 0.05, "update_gap": 4}


def pair(lab: SimpleNamespace, dtype: torch.dtype = torch.float64, **settings: Any) -> list[tuple[Any, Any]]:
    """Equal banks, one with the projected backward and one with full gradients."""
    found = []
    for backward in ("projected", "full"):
        model = lab.Bank(dtype=dtype)
        known = lab.spans(model, exact=True)
        options = {**LEARNED, "null_space": known, **settings}
        found.append((model, lab.optimizer(model, preset="fast", backward=backward, **options)))
    return found


def apart(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of a parameter, relative to its largest entry."""
    other = dict(second.named_parameters())
    return max(
        float((value.double() - other[name].double()).abs().max().detach() / value.detach().double().abs().max())
        for name, value in first.named_parameters()
    )


@pytest.mark.parametrize("gate_lag", [0, 1])
def test_single_task_passes(lab: SimpleNamespace, gate_lag: int) -> None:
    """The gate differs: norms are those of projections, so it is held; everything else is the same."""
    (model, opt), (twin, full) = pair(lab, gate_lag=gate_lag, gate="uniform")
    for step in lab.lessons(model, 12):
        lab.train(opt, model, [step])
        lab.train(full, twin, [step])
        assert apart(model, twin) <= 1e-11
    assert apart(model, lab.Bank()) > 0.05


def test_the_learned_gate_with_lag(lab: SimpleNamespace) -> None:
    """With lag 1 both know the gradients by their own projections only, so that also the gate is the same."""
    (model, opt), (twin, full) = pair(lab, gate_lag=1)
    for step in lab.lessons(model, 12):
        lab.train(opt, model, [step])
        lab.train(full, twin, [step])
    assert apart(model, twin) <= 1e-7  # the gate is fp32
    assert opt.gate_weights() == pytest.approx(full.gate_weights(), abs=1e-5)
    assert abs(opt.gate_weights()["src"] - 0.5) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_mixed_batches(lab: SimpleNamespace, dtype: torch.dtype) -> None:
    """Interleaved rows of both tasks in one pass, over single-task passes and over full gradients."""
    (model, opt), (twin, full) = pair(lab, dtype, gate_lag=1)
    pure_model = lab.Bank(dtype=dtype)
    pure = lab.optimizer(
        pure_model, preset="fast", gate_lag=1, **{**LEARNED, "null_space": lab.spans(pure_model, exact=True)}
    )
    limit = 2e-5 if dtype == torch.float32 else 1e-7
    for step in lab.lessons(model, 12):
        lab.feed_mixed(opt, model, step)
        opt.step()
        opt.zero_grad()
        lab.train(pure, pure_model, [step])
        lab.train(full, twin, [step])
        assert apart(model, pure_model) <= limit
        assert apart(model, twin) <= limit


def test_accumulation_over_mixed_and_single_task_passes(lab: SimpleNamespace) -> None:
    """Any cut of a step's rows into passes."""
    (model, opt), (twin, full) = pair(lab, gate="uniform")
    for step in lab.lessons(model, 10):
        src, rec = step
        parts, rest = src.split(2, [1.0, src.tokens - 1.0]), rec.split(3, [0.5, 1.0, rec.tokens - 1.5])
        lab.feed_mixed(opt, model, [parts[0], rest[0]], last=False)
        with opt.task("rec", tokens=rest[1].tokens) as part:
            part.backward(rest[1].loss(model))
        lab.feed_mixed(opt, model, [rest[2], parts[1]])
        opt.step()
        opt.zero_grad()
        lab.train(full, twin, [step])
        assert apart(model, twin) <= 1e-11


def test_a_task_that_is_missing_now_and_then(lab: SimpleNamespace) -> None:
    (model, opt), (twin, full) = pair(lab, gate="uniform")
    for number, step in enumerate(lab.lessons(model, 12)):
        part = {1: step[:1], 4: step[1:], 8: step[:1]}.get(number, step)
        lab.train(opt, model, [part])
        lab.train(full, twin, [part])
        assert apart(model, twin) <= 1e-11


def test_no_task_named(lab: SimpleNamespace) -> None:
    """GaLore with a sketched basis: the backward runs outside any context."""
    (model, opt), (twin, full) = pair(lab, null_space=None)
    for step in lab.lessons(model, 8):
        for bank, optimizer in ((model, opt), (twin, full)):
            torch.stack([part.loss(bank) / part.tokens for part in step]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert apart(model, twin) <= 1e-11
    assert apart(model, lab.Bank()) > 0.02


class Odd(nn.Module):
    """A layer called twice, two modules with one weight, a layer before any gradient, biases, dims other than 2."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(10, 14)
        self.twice = nn.Linear(14, 14, bias=False)
        self.one, self.other = nn.Linear(14, 9, bias=False), nn.Linear(14, 9, bias=True)
        self.other.weight = self.one.weight
        self.last = nn.Linear(9, 3)
        self.double()

    def body(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.twice(torch.tanh(self.twice(torch.tanh(self.first(x))))))
        return torch.tanh(self.one(h) + 2 * self.other(h.flip(-1)))

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        h = checkpoint(self.body, x, use_reentrant=False) if recompute else self.body(x)
        return self.last(h)  # type: ignore[no-any-return]


def odd_step(opt: Any, model: Odd, step: int, mixed: bool, recompute: bool) -> None:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 5, 10, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64)
    names = ["rec", "src", "src", "rec", "src", "src"]
    if mixed:
        losses = (model(x, recompute) - y).square().sum(dim=(1, 2))
        with opt.mixed_batch(names, tokens={"src": 20, "rec": 10}, last=True) as part:
            each = {
                t: sum(loss for loss, n in zip(losses.detach(), names, strict=True) if n == t) for t in ("src", "rec")
            }
            part.backward(losses.sum(), losses=each)
    else:
        for task in ("src", "rec"):
            rows = [i for i, name in enumerate(names) if name == task]
            loss = (model(x[rows], recompute) - y[rows]).square().sum()  # the forward runs outside the context
            with opt.task(task, tokens=5 * len(rows), last=task == "rec") as part:
                part.backward(loss)
    opt.step()
    opt.zero_grad()


@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_layers_called_twice_tied_modules_and_checkpointing(lab: SimpleNamespace, mixed: bool, recompute: bool) -> None:
    """`first` gets inputs without a gradient: its output still receives one."""
    model, twin, start = Odd(), Odd(), Odd()
    opt = lab.optimizer(model, preset="fast", update_gap=3)
    full = lab.optimizer(twin, preset="fast", update_gap=3, backward="full")
    assert set(opt.effective_ranks()) == {"first.weight", "twice.weight", "one.weight", "last.weight"}
    for step in range(8):
        odd_step(opt, model, step, mixed, recompute)
        odd_step(full, twin, step, mixed=False, recompute=False)
        assert apart(model, twin) <= 1e-11
    for name in opt.effective_ranks():
        assert not torch.equal(dict(model.named_parameters())[name], dict(start.named_parameters())[name])
    assert model.one.weight is model.other.weight


def test_bf16_agrees_to_its_precision(lab: SimpleNamespace) -> None:
    """Per step, from equal weights and state: the update of projections that were rounded in other places."""
    (model, opt), (twin, full) = pair(lab, torch.bfloat16, gate="uniform", null_space=None)
    for step in lab.lessons(model, 8):
        before = {name: weight.detach().float().clone() for name, weight in model.weights.items()}
        lab.feed_mixed(opt, model, step)
        opt.step()
        opt.zero_grad()
        lab.train(full, twin, [step])
        for name, weight in model.weights.items():
            state, other = opt.state[weight], full.state[twin.weights[name]]
            assert state["exp_avg"].dtype == torch.float32
            scale = other["exp_avg"].abs().max().clamp(min=1e-30)
            assert (state["exp_avg"] - other["exp_avg"]).abs().max() <= 0.03 * scale
            change, expected = weight.float() - before[name], twin.weights[name].float() - before[name]
            assert (change - expected).norm() <= 0.35 * expected.norm() + 1e-6  # both are rounded to bf16 at random
            twin.weights[name].data.copy_(weight.data)
            for key, value in state.items():
                other[key].copy_(value)


class Keyword(nn.Module):
    """Calls its layer as layer(input=x)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 6).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)  # type: ignore[no-any-return]


def test_a_layer_that_gets_its_input_by_name(lab: SimpleNamespace) -> None:
    model, twin = Keyword(), Keyword()
    for bank, backward in ((model, "projected"), (twin, "full")):
        opt = lab.optimizer(bank, preset="fast", backward=backward)
        for step in range(4):
            x = torch.randn(9, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            with opt.task("src", tokens=9) as part:
                part.backward(bank(x).square().sum())
            opt.step()
            opt.zero_grad()
    assert apart(model, twin) <= 1e-11
    assert apart(model, Keyword()) > 0.01


class Shapes(TorchDispatchMode):
    """Remembers the shape of every tensor that an operation makes, except views of the weights."""

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()
        self.known = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in self.known:
                self.seen.add(tuple(value.shape))
        return out


def shapes_of_a_step(lab: SimpleNamespace, backward: str, mixed: bool) -> set[tuple[int, ...]]:
    """Shapes made in forward and backward passes, of a refresh step and of one between."""
    model = lab.Bank({"a": (13, 17), "b": (19, 14)}, dtype=torch.float32)
    opt = lab.optimizer(model, groups={"rank": 3, "task_rank": 2}, preset="fast", backward=backward, update_gap=2)
    mode = Shapes(model.weights.values())
    for step in lab.lessons(model, 4):
        with mode:
            (lab.feed_mixed if mixed else lab.feed)(opt, model, step)
        for weight in model.weights.values():
            assert weight.grad is None
            assert weight.requires_grad is (backward == "full")
        opt.step()
        opt.zero_grad()
    return mode.seen


@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
def test_no_gradient_of_the_weights_size_is_made(lab: SimpleNamespace, mixed: bool) -> None:
    full_size = {(13, 17), (17, 13), (19, 14), (14, 19)}
    assert not full_size & shapes_of_a_step(lab, "projected", mixed)


def test_the_watch_on_shapes_sees_full_gradients(lab: SimpleNamespace) -> None:
    """The guard of the test above."""
    assert {(13, 17), (19, 14)} <= shapes_of_a_step(lab, "full", mixed=False)


def test_hooks_come_off(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, preset="fast")
    opt.remove_hooks()
    assert all(weight.requires_grad for weight in model.weights.values())
    lab.batch(model, "src", 0).loss(model).backward()
    assert all(weight.grad is not None for weight in model.weights.values())
    assert all(not layer._forward_hooks for layer in model.layers.values())


def test_nothing_is_collected_without_gradients(lab: SimpleNamespace) -> None:
    """Evaluation between two passes of a step leaves no trace."""
    model, twin = lab.Bank(), lab.Bank()
    opt, other = (lab.optimizer(bank, preset="fast", update_gap=3) for bank in (model, twin))
    for step in lab.lessons(model, 5):
        lab.feed(opt, model, step)
        with torch.no_grad():
            lab.batch(model, "src", 99).loss(model)
        opt.step()
        opt.zero_grad()
        lab.train(other, twin, [step])
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())

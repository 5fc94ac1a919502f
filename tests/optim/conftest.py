"""A bank of linear layers with chosen gradients, the dense oracle, and tiny language models.

Tests cannot import this file: they take the fixture `lab`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS, gems_param_groups

TASKS = ("src", "rec")
SHAPES = {"tall": (12, 8), "wide": (8, 12), "square": (12, 12)}  # [m, n]


def _load(name: str) -> Any:
    specification = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


oracle = _load("dense_oracle")
language_models = _load("tiny_language_models")


class Bank(nn.Module):
    """Independent linear layers without bias, one per named shape."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]] = SHAPES,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleDict()
        for name, (m, n) in shapes.items():
            layer = nn.Linear(n, m, bias=False)
            layer.weight.data = torch.randn(m, n, generator=generator, dtype=torch.float64).to(dtype)
            self.layers[name] = layer

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Layer name -> weight."""
        return {name: layer.weight for name, layer in self.layers.items()}  # type: ignore[misc]


@dataclass(frozen=True)
class Batch:
    """Rows of one task, per layer: inputs [N, n] and the gradients wanted at the outputs [N, m]; `tokens` divides them.

    The loss is `level * tokens` whatever the weights are, so that a test chooses the gate's features.
    """

    task: str
    tokens: float
    inputs: Mapping[str, Tensor]
    signals: Mapping[str, Tensor]
    level: float = 1.0

    def loss(self, model: Bank) -> Tensor:
        """A sum over tokens with gradient signals^T inputs at every weight."""
        total = torch.zeros((), dtype=next(iter(self.signals.values())).dtype)
        for name, layer in model.layers.items():
            inputs = self.inputs[name].clone().requires_grad_()  # gradient reaches layers whose weight is frozen
            total = total + (layer(inputs) * self.signals[name]).sum()
        return total - total.detach() + self.level * self.tokens

    def gradients(self) -> dict[str, Tensor]:
        """What the loss gives each weight [m, n]."""
        return {name: self.signals[name].T @ self.inputs[name] for name in self.inputs}

    def scaled(self, factor: float) -> Batch:
        """The same rows with a loss `factor` times as large."""
        signals = {name: factor * signal for name, signal in self.signals.items()}
        return Batch(self.task, self.tokens, self.inputs, signals, factor * self.level)

    def split(self, parts: int, tokens: Sequence[float]) -> list[Batch]:
        """Micro-batches whose losses add up to this one's."""
        assert sum(tokens) == pytest.approx(self.tokens)
        chunks = [{name: value.chunk(parts) for name, value in d.items()} for d in (self.inputs, self.signals)]
        return [
            Batch(self.task, tokens[i], *({name: c[i] for name, c in d.items()} for d in chunks), level=self.level)
            for i in range(parts)
        ]


def batch(model: Bank, task: str, seed: int, tokens: float = 5.0, rows: int = 24, level: float = 1.0) -> Batch:
    """Random rows; a fixed direction per task makes gradients of different steps alike."""
    generator = torch.Generator().manual_seed(1000 * seed + sum(map(ord, task)))
    steady = torch.Generator().manual_seed(sum(map(ord, task)))
    inputs, signals = {}, {}
    for name, weight in model.weights.items():
        m, n = weight.shape
        inputs[name] = torch.randn(rows, n, generator=generator, dtype=torch.float64).to(weight.dtype)
        trend = inputs[name].double() @ torch.randn(n, m, generator=steady, dtype=torch.float64)
        noise = torch.randn(rows, m, generator=generator, dtype=torch.float64)
        signals[name] = (0.3 * trend + noise).to(weight.dtype)
    return Batch(task, tokens, inputs, signals, level)


def lessons(model: Bank, steps: int, tasks: Iterable[str] = TASKS, first: int = 0) -> list[list[Batch]]:
    """One batch per task and step, with different token counts."""
    return [
        [batch(model, task, seed=first + step, tokens=3.0 + 2 * i + step % 3) for i, task in enumerate(tasks)]
        for step in range(steps)
    ]


def feed(opt: Any, model: Bank, batches: Sequence[Batch]) -> None:
    """Backward of single-task micro-batches in their order."""
    for number, part in enumerate(batches):
        with opt.task(part.task, tokens=part.tokens, last=number == len(batches) - 1) as context:
            context.backward(part.loss(model))


def feed_mixed(opt: Any, model: Bank, batches: Sequence[Batch], last: bool = True) -> None:
    """The same rows as one mixed batch, interleaved."""
    rows = [(part, row) for part in batches for row in range(len(next(iter(part.inputs.values()))))]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()]
    names = list(model.layers)
    inputs = {name: torch.stack([part.inputs[name][row] for part, row in rows]) for name in names}
    signals = {name: torch.stack([part.signals[name][row] for part, row in rows]) for name in names}
    tokens: dict[str, float] = {}
    losses: dict[str, Tensor] = {}
    for part in batches:
        tokens[part.task] = tokens.get(part.task, 0) + part.tokens
        losses[part.task] = losses.get(part.task, torch.zeros(())) + part.tokens * part.level
    whole = Batch("mixed", 1.0, inputs, signals)
    with opt.mixed_batch([part.task for part, _ in rows], tokens=tokens, last=last) as context:
        context.backward(whole.loss(model), losses=losses)


def train(opt: Any, model: Bank, steps: Iterable[Sequence[Batch]]) -> None:
    """Feed, step, zero for every element of `steps`."""
    for batches in steps:
        feed(opt, model, batches)
        opt.step()
        opt.zero_grad()


def optimizer(model: nn.Module, *, groups: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    """GEMS over all linear layers; learning rate 0.01, rank 4 and 2, a uniform gate unless said otherwise."""
    choices = {"rank": 4, "task_rank": 2, **(groups or {})}
    settings = {"lr": 0.01, "tasks": TASKS, "gate": "uniform", **settings}
    return GEMS(gems_param_groups(model, **choices), **settings)


class Spans:
    """Knowledge directions [n, k] (or [m, k]) by parameter name, as the optimizer asks for them."""

    def __init__(self, columns: Mapping[str, Tensor], side: str = "input") -> None:
        self.columns, self.side = dict(columns), side
        parts = [f"{name}{value.double().tolist()}" for name, value in self.columns.items()]
        self.hash = hashlib.sha256(f"{side}{parts}".encode()).hexdigest()

    def of(self, name: str, device: Any = None) -> Tensor:
        """fp32 orthonormal columns."""
        if name not in self.columns:
            raise ValueError(f"no directions for '{name}'; nearest known: '{next(iter(self.columns))}'")
        return self.columns[name].to(device=device, dtype=torch.float32)


def exact_columns(size: int, k: int, seed: int = 0) -> Tensor:
    """k orthonormal columns of length `size` (a multiple of 4) with entries 0 and +-1/2: exact in every dtype."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.block_diag(*[torch.kron(two, two) / 2] * (size // 4))
    rows, columns = (torch.randperm(size, generator=generator) for _ in range(2))
    return blocks[rows][:, columns[:k]]


def random_columns(size: int, k: int, seed: int = 0) -> Tensor:
    """k random orthonormal columns of length `size`, fp64."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, k, generator=generator, dtype=torch.float64))
    return q  # type: ignore[no-any-return]


def spans(model: nn.Module, k: int = 3, side: str = "input", exact: bool = True, seed: int = 0) -> Spans:
    """k directions for every matrix of the model that is named `...weight`."""
    make = exact_columns if exact else random_columns
    found = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.ndim == 2 and name.endswith("weight"):
            found[name] = make(parameter.shape[1 if side == "input" else 0], k, seed + number)
    return Spans(found, side)


def bases(opt: Any, model: Bank, layer: str) -> dict[str, Tensor]:
    """Component -> basis [a, r] of a layer, as the optimizer holds it; empty before the first step."""
    name, weight = f"layers.{layer}.weight", model.weights[layer]
    if "basis" not in opt.state[weight]:
        return {}
    shared, task = opt.effective_ranks()[name]
    basis = opt.state[weight]["basis"]
    tasks = list(opt.gate_weights()) if task else []
    parts = torch.split(basis, [shared, *[task] * len(tasks)])
    return {part: value.T for part, value in zip(("shared", *tasks), parts, strict=True)}


def dense(model: Bank, rules: Any, known: Spans | None = None) -> dict[str, Any]:
    """An oracle per layer, at the model's present weights (copied to fp64)."""
    found = {}
    for name, weight in model.weights.items():
        columns = None if known is None else known.columns[f"layers.{name}.weight"].double()
        side = "input" if known is None else known.side
        found[name] = oracle.DenseGems(weight.double(), rules, columns, side)
    return found


def follow(
    opt: Any,
    model: Bank,
    dense_layers: Mapping[str, Any],
    steps: Iterable[Sequence[Batch]],
    gate: Mapping[str, float] | None = None,
    tolerance: float = 1e-12,
) -> None:
    """Trains both and compares the weights after every step, relative to the largest entry."""
    for number, batches in enumerate(steps):
        train(opt, model, [batches])
        tokens: dict[str, float] = {}
        sums: dict[str, dict[str, Tensor]] = {name: {} for name in model.weights}
        for part in batches:
            tokens[part.task] = tokens.get(part.task, 0.0) + part.tokens
            for name, gradient in part.gradients().items():
                sums[name][part.task] = sums[name].get(part.task, 0) + gradient.double()
        for name, twin in dense_layers.items():
            stored = {key: basis.double() for key, basis in bases(opt, model, name).items()}
            twin.step(sums[name], tokens, gate or opt.gate_weights(), stored)
            error = (model.weights[name].double() - twin.weight).abs().max() / twin.weight.abs().max()
            assert error <= tolerance, f"step {number + 1}, {name}: {error:.2e}"


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """All of the above."""
    return SimpleNamespace(
        TASKS=TASKS,
        SHAPES=SHAPES,
        Bank=Bank,
        Batch=Batch,
        Spans=Spans,
        Rules=oracle.Rules,
        batch=batch,
        lessons=lessons,
        feed=feed,
        feed_mixed=feed_mixed,
        train=train,
        optimizer=optimizer,
        spans=spans,
        exact_columns=exact_columns,
        random_columns=random_columns,
        bases=bases,
        dense=dense,
        follow=follow,
        models=language_models,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

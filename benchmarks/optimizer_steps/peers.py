"""AdamW and LoRA (torch, peft) and GaLore (galore-torch), as their users run them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gemsbench.optim import accounting
from optimizer_steps.clocks import Clock, Seconds, timed
from optimizer_steps.contender import Occasional
from optimizer_steps.models import Batch, Setup, linears, token_losses


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, clock: Clock) -> None:
    """One mixed batch: forward, backward, step."""
    with clock.phase("forward"):
        loss = token_losses(model, batch).mean()
    with clock.phase("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with clock.phase("optimizer"):
        optimizer.step()
        optimizer.zero_grad()


def trained_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(rows, columns) of the linear layers."""
    return [tuple(layer.weight.shape) for _, layer in linears(model)]  # type: ignore[misc]


class AdamW:
    """torch's fused AdamW on every linear layer."""

    def __init__(self, setup: Setup) -> None:
        self.model = setup.model()
        self.shapes = trained_shapes(self.model)
        self.weights = [layer.weight.requires_grad_() for _, layer in linears(self.model)]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-5, weight_decay=0.0, fused=True)

    def step(self, batch: Batch, clock: Clock) -> None:
        """One mixed batch."""
        plain_step(self.model, self.optimizer, batch, clock)

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """Nothing."""
        return {}

    def state(self) -> list[Tensor]:
        """Moments and step counts."""
        return [value for state in self.optimizer.state.values() for value in state.values()]

    def formula(self) -> dict[str, int]:
        """Twice the weights."""
        cost = accounting.total((accounting.adamw(*shape), 1) for shape in self.shapes)
        size = self.weights[0].element_size()
        return {"state": cost.state_bytes(moment_bytes=size), "gradients": cost.gradients * size}


class Lora:
    """peft's LoRA on every linear layer, no dropout, torch's fused AdamW on the adapters."""

    def __init__(self, setup: Setup, rank: int) -> None:
        base = setup.model()
        self.rank, self.shapes = rank, trained_shapes(base)
        names = [name for name, _ in linears(base)]
        self.model: Any = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4, weight_decay=0.0, fused=True)

    def step(self, batch: Batch, clock: Clock) -> None:
        """One mixed batch."""
        plain_step(self.model, self.optimizer, batch, clock)

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """Nothing."""
        return {}

    def state(self) -> list[Tensor]:
        """Moments and step counts."""
        return [value for state in self.optimizer.state.values() for value in state.values()]

    def formula(self) -> dict[str, int]:
        """Two moments of both factors."""
        cost = accounting.total((accounting.lora(*shape, self.rank), 1) for shape in self.shapes)
        size = self.weights[0].element_size()
        return {"state": cost.state_bytes(moment_bytes=size), "gradients": cost.gradients * size}


@cache
def galore_torch() -> tuple[Any, Any]:
    """galore-torch's (AdamW, GaLoreProjector); ImportError where it is not installed.

    Its package imports bitsandbytes for an 8-bit variant that is not used here: only the two modules are loaded.
    """
    found = importlib.util.find_spec("galore_torch")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("galore-torch is not installed: pip install galore-torch --no-deps")
    package = importlib.util.module_from_spec(found)  # not executed
    sys.modules.setdefault("galore_torch", package)
    adamw = importlib.import_module("galore_torch.adamw")
    projector = importlib.import_module("galore_torch.galore_projector")
    return adamw.AdamW, projector.GaLoreProjector


def randomised_projector(base: Any) -> Any:
    """The projector with a randomised SVD of one power iteration in place of the full one."""

    class Randomised(base):  # type: ignore[misc]
        def get_orthogonal_matrix(self, weights: Tensor, rank: int, type: str) -> Tensor:
            left, _, right = torch.svd_lowrank(weights.float(), q=min(rank + 8, *weights.shape), niter=1)
            factor = right[:, :rank].T if type == "right" else left[:, :rank]
            return factor.to(weights.dtype).contiguous()

    return Randomised


class GaLore:
    """galore-torch's AdamW on every linear layer, with arbitrary bases, which a step's cost does not depend on."""

    def __init__(self, setup: Setup, randomised: bool) -> None:
        optimizer, projector = galore_torch()
        self.projector = randomised_projector(projector) if randomised else projector
        self.rank, self.gap, self.model = setup.rank, setup.update_gap, setup.model()
        self.weights = [layer.weight.requires_grad_() for _, layer in linears(self.model)]
        self.shapes = trained_shapes(self.model)
        group = {"params": self.weights, "rank": self.rank, "update_proj_gap": self.gap, "scale": 1.0}
        self.optimizer = optimizer([group | {"proj_type": "std"}], lr=1e-5, no_deprecation_warning=True)
        for weight in self.weights:
            self.optimizer.state[weight] = {"step": 1, "projector": self._with_basis(weight)}

    def _with_basis(self, weight: Tensor) -> Any:
        made = self.projector(self.rank, update_proj_gap=self.gap, scale=1.0, proj_type="std")
        rows, columns = weight.shape
        rank = min(self.rank, rows, columns)
        made.ortho_matrix = torch.zeros((rank, columns) if rows >= columns else (rows, rank)).to(weight)
        made.ortho_matrix.fill_diagonal_(1)
        return made

    def step(self, batch: Batch, clock: Clock) -> None:
        """One mixed batch."""
        plain_step(self.model, self.optimizer, batch, clock)

    def now_and_then(self, batch: Batch, device: str) -> dict[str, Occasional]:
        """The SVD of one matrix per shape."""
        projector = self.projector(self.rank)
        spent = Seconds()
        for shape in dict.fromkeys(self.shapes):
            matrix = torch.randn(shape).to(self.weights[0])
            side = "right" if shape[0] >= shape[1] else "left"
            once = timed(lambda m=matrix, s=side: projector.get_orthogonal_matrix(m, self.rank, s), device)  # type: ignore[misc]
            spent = spent + once * self.shapes.count(shape)
        return {"refresh": Occasional(spent, self.gap, "one random matrix per shape, times their number")}

    def state(self) -> list[Tensor]:
        """Moments and bases."""
        states = self.optimizer.state.values()
        tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return tensors + [state["projector"].ortho_matrix for state in states]

    def formula(self) -> dict[str, int]:
        """A basis and two projected moments."""
        cost = accounting.total((accounting.galore(*shape, self.rank), 1) for shape in self.shapes)
        size = self.weights[0].element_size()
        return {"state": cost.state_bytes(size, size), "gradients": cost.gradients * size}

"""The gate: how much each task's own update counts (Eq. 15-17), and how it learns.

The paper prints a two-layer network without a rule that trains it, and says that a louder task gets less, which the
network does not enforce. Here that is the prior, -kappa (loss share + gradient share) / 2; the network adds to it,
starts at zero, and learns by the one-step hypergradient: what the last update's weights should have been, seen from the
gradients of the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from gemsbench.optim.settings import GEMSConfig

_HIDDEN = 16
_RMS_EMA = 0.99  # of the hypergradient's size
_TO_PRIOR = 1e-2  # weight of the divergence from the prior


_TENSORS = ("losses", "norms", "features", "applied", "given", "present", "alignment", "hypergradient_square")


class Gate:
    """One gate for the whole model, in float32 on the CPU: a few hundred numbers.

    features [3, K]: shares of losses, gradient norms and target tokens per task, as last observed; applied: those that
    gave the weights `given` [K] of the last update.
    """

    def __init__(self, config: GEMSConfig, tasks: Sequence[str], seed: int) -> None:
        self.config, self.tasks = config, tuple(tasks)
        count = len(self.tasks)
        generator = torch.Generator().manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(3 * count, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, count))
        first, last = list(self.network.children())[::2]
        with torch.no_grad():
            for parameter in first.parameters():
                bound = (3 * count) ** -0.5 if count else 0.0
                parameter.copy_(torch.rand(parameter.shape, generator=generator).mul_(2 * bound).sub_(bound))
            for parameter in last.parameters():
                parameter.zero_()
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.gate_lr)
        self.losses, self.norms = torch.zeros(count), torch.zeros(count)  # running means, 0 before the first value
        self.features = torch.full((3, count), 1 / max(count, 1))
        self.applied = self.features
        self.given = self.weights(self.features)
        self.present = torch.zeros(count)  # 1: the task was in the last update
        self.alignment = torch.full((count, count), torch.nan)  # as the gate last learned from it
        self.hypergradient_square = torch.zeros(())

    def observe(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor], tokens: Mapping[str, float]) -> None:
        """Take in a step: mean losses and gradient norms of the tasks it had, and their target tokens."""
        for running, values in ((self.losses, losses), (self.norms, norms)):
            for place, task in enumerate(self.tasks):
                if task in values:
                    value = values[task].detach().to(running)
                    keep = torch.where(running[place] > 0, self.config.gate_ema, 0.0)
                    mean = keep * running[place] + (1 - keep) * value
                    running[place] = torch.where(torch.isfinite(value), mean, running[place])
        counts = torch.tensor([float(tokens.get(task, 0.0)) for task in self.tasks])
        self.features = torch.stack([_shares(self.losses), _shares(self.norms), _shares(counts)])

    def weights(self, features: Tensor) -> Tensor:
        """The weights of the tasks [K] for features [3, K]: non-negative, with sum 1."""
        count = len(self.tasks)
        if self.config.gate == "uniform" or count < 2:
            return torch.full((count,), 1 / max(count, 1))
        if self.config.gate == "heuristic":  # the released code's: a louder task gets more
            return torch.tensor([0.4, 0.4, 0.2]) @ features
        with torch.no_grad():
            return torch.softmax(self.logits(features) / self.config.gate_temperature, dim=0)

    def logits(self, features: Tensor) -> Tensor:
        """The gate's outputs o [K], differentiable in the network."""
        if self.config.gate != "learned":
            return self.prior(features)
        centred = (features - 1 / len(self.tasks)).flatten()
        added: Tensor = self.network(centred)
        return self.prior(features) + added

    def prior(self, features: Tensor) -> Tensor:
        """-kappa (loss share + gradient share) / 2, per task [K]."""
        return -self.config.gate_prior * (features[0] + features[1]) / 2

    def remember(self, given: Mapping[str, Tensor], tokens: Mapping[str, float]) -> None:
        """Keep the weights of an update and the tasks that were in it."""
        self.applied = self.features
        if self.tasks:
            self.given = torch.stack([given[task] for task in self.tasks])
        self.present = torch.tensor([float(task in tokens) for task in self.tasks])

    def is_due(self, step: int) -> bool:
        """Whether the gate learns in this step (counted from 1)."""
        learns = self.config.gate == "learned" and len(self.tasks) > 1
        return learns and step > 1 and step % self.config.gate_every == 0

    def learn(self, alignment: Tensor) -> None:
        """One Adam step of the network.

        alignment: H [K, K], lr times scale times the inner products <G_s, D_t P> of gradients of task s (columns) with
        the last own update of task t (rows), summed over all matrices; lr is the present one. The network is trained
        at the features that gave its weights.
        """
        self.alignment = alignment.detach()
        weights = self.weights(self.applied)
        slope = hypergradient(alignment, self.losses)
        self.hypergradient_square = torch.where(
            self.hypergradient_square > 0,
            _RMS_EMA * self.hypergradient_square + (1 - _RMS_EMA) * slope.square().mean(),
            slope.square().mean(),
        )
        slope = slope / self.hypergradient_square.sqrt().clamp(min=1e-30)
        outer = output_gradient(slope, weights, self.config.gate_temperature)
        with torch.enable_grad():
            logits = self.logits(self.applied)
            given = torch.log_softmax(logits / self.config.gate_temperature, dim=0)
            prior = torch.log_softmax(self.prior(self.applied) / self.config.gate_temperature, dim=0)
            divergence = kl_div(prior, given, reduction="sum", log_target=True)
            self.adam.zero_grad()
            ((outer * logits).sum() + _TO_PRIOR * divergence).backward()  # type: ignore[no-untyped-call]
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """All tensors by flat names."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for place, parameter in enumerate(self.network.parameters()):
            tensors[f"network.{place}"] = parameter.detach()
            tensors |= {f"adam.{place}.{key}": value for key, value in self.adam.state.get(parameter, {}).items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what state() gave."""
        for name in _TENSORS:
            setattr(self, name, tensors[name].detach().clone().cpu())
        for place, parameter in enumerate(self.network.parameters()):
            with torch.no_grad():
                parameter.copy_(tensors[f"network.{place}"])
            keys = [name for name in tensors if name.startswith(f"adam.{place}.")]
            self.adam.state[parameter] = {key.split(".")[2]: tensors[key].detach().clone().cpu() for key in keys}
            if not keys:
                del self.adam.state[parameter]


def hypergradient(alignment: Tensor, losses: Tensor) -> Tensor:
    """dJ/da [K] of J = sum_s L_s / EMA(L_s) after a step with weights a: -H (1 / EMA).

    alignment: H [K, K] as Gate.learn takes it; losses: running means [K], 0 where unknown (then 1).
    """
    return -alignment @ torch.where(losses > 0, losses, torch.ones_like(losses)).reciprocal().to(alignment)


def output_gradient(slope: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """dJ/do [K] of the outputs o from dJ/da, with a = softmax(o / temperature)."""
    weights = weights.to(slope)
    return weights / temperature * (slope - (weights * slope).sum())


def _shares(values: Tensor) -> Tensor:
    """Values [K] over their sum; equal shares where one is unknown (0) or the sum is not finite."""
    total = values.sum()
    even = torch.full_like(values, 1 / max(len(values), 1))
    known = (total > 0) & torch.isfinite(total)
    return torch.where(known, values / total.clamp(min=torch.finfo(values.dtype).tiny), even)

"""One projected matrix: its subspaces, their moments, and the update that comes of them (Eq. 2-9, 20).

Right side: a basis of inputs, (a, b) = (n, m), the oriented gradient is G^T; left side: a basis of outputs,
(a, b) = (m, n), it is G itself. Both then read: R = B O, and O_W -= lr s B^T D, with bases B [R, a] and moments [R, b].
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gemsbench.optim.bases import basis_from_sketch, gaussian, leading_basis, orthonormal_rows, sketch_probe
from gemsbench.optim.null_space import Projector
from gemsbench.optim.rounding import seeded, store, subtract_product
from gemsbench.optim.settings import GEMSConfig
from gemsbench.optim.sums import SHARED, ProjectedSums

logger = logging.getLogger(__name__)

NOT_DUE, DUE, NO_BASIS = 0, 1, 2


class ProjectedMatrix:
    """What GEMS knows of one weight [m, n]; tensors live in the optimizer's state."""

    def __init__(
        self,
        weight: Tensor,
        name: str,
        index: int,
        group: Mapping[str, Any],
        config: GEMSConfig,
        tasks: Sequence[str],
        projector: Projector | None,
        state_of: Callable[[Tensor], dict[str, Any]],
        seed: int,
    ) -> None:
        self.weight, self.name, self.index, self.config, self.projector = weight, name, index, config, projector
        self._state_of, self._seed = state_of, seed
        m, n = weight.shape
        self.right = group["side"] == "right" or (group["side"] == "std" and m >= n)
        self.a, self.b = (n, m) if self.right else (m, n)
        self.on_basis = projector is not None and (projector.side == "input") == self.right
        self.ranks = self._ranks(group, tasks)
        starts = [sum(list(self.ranks.values())[:place]) for place in range(len(self.ranks))]
        self.slices = {
            name: slice(start, start + r) for (name, r), start in zip(self.ranks.items(), starts, strict=True)
        }
        self.places = {component: place for place, component in enumerate(self.ranks)}
        self.dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._probes: dict[str, Tensor] = {}

    def _ranks(self, group: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, int]:
        largest = min(self.a, self.b)
        if self._confined is not None:
            largest = min(largest, self._confined.rank)
        own = group["task_rank"] if group["task_rank"] is not None else max(1, group["rank"] // 2)
        wanted = {SHARED: group["rank"], **(dict.fromkeys(tasks, own) if own else {})}
        if max(wanted.values()) > largest:
            logger.info(
                "GEMS: rank %d of %s is above its %d dimensions; %d is used.",
                max(wanted.values()), self.name, largest, largest,
            )  # fmt: skip
        return {component: min(r, largest) for component, r in wanted.items()}

    @property
    def state(self) -> dict[str, Any]:
        """The tensors of this matrix, made at the first call."""
        state = self._state_of(self.weight)
        if not state:
            state.update({key: self._made(value) for key, value in self._empty_state().items()})
        return state

    def _empty_state(self) -> dict[str, Tensor]:
        """The state before the first step, on no device: names, shapes and dtypes only."""
        total, meta = sum(self.ranks.values()), torch.device("meta")
        state = {"basis": torch.zeros((total, self.a), dtype=self.weight.dtype, device=meta)}
        if self.on_basis and self.config.null_space_mode == "post":
            state["back"] = torch.zeros_like(state["basis"])
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = torch.zeros((total, self.b), dtype=self.dtype, device=meta)
        if self.config.attribution:
            shape = (len(self.ranks) - 1, self.ranks[SHARED], self.b)
            state["exp_avg_tasks"] = torch.zeros(shape, dtype=self.dtype, device=meta)
        state["steps"] = torch.zeros(len(self.ranks), dtype=torch.int64, device=meta)
        state["due"] = torch.zeros(len(self.ranks), dtype=torch.uint8, device=meta)
        state["turned"] = torch.zeros((), dtype=torch.int64, device=meta)  # first step of the present bases
        return state

    def _made(self, empty: Tensor) -> Tensor:
        if empty.is_floating_point():
            return torch.zeros_like(empty, device=self.weight.device)
        return torch.full_like(empty, NO_BASIS if empty.dtype == torch.uint8 else 0, device="cpu")

    def oriented(self, matrix: Tensor) -> Tensor:
        """A matrix [m, n] as [a, b]."""
        return matrix.T if self.right else matrix

    def schedule(self, step: int, gap: int) -> None:
        """Mark the bases that are to be made in this step (counted from 1); one that cannot be made stays due."""
        self._probes.clear()  # of a step that was given up
        offset = seeded(self._seed, "turn", self.index).initial_seed() % gap if self.config.stagger else 0
        if (step - 1 + offset) % gap == 0:
            self.state["due"].clamp_(min=DUE)

    def due(self, component: str) -> int:
        """NOT_DUE, DUE or NO_BASIS."""
        return int(self.state["due"][self.places[component]])

    def any_due(self) -> bool:
        """Whether some basis is due."""
        return bool(self.state["due"].any())

    def usable(self, component: str | None) -> bool:
        """Whether the component exists and has a basis."""
        return component in self.places and self.due(component) != NO_BASIS

    def masked(self, gradient: Tensor) -> Tensor:
        """An oriented gradient, times P where the null space is applied before basis and Adam."""
        if self.projector is None or self.config.null_space_mode != "gradient":
            return gradient
        return self.projector.apply(gradient.T).T if self.on_basis else self.projector.apply(gradient)

    def basis(self, component: str, key: str = "basis") -> Tensor:
        """Rows [r, a] of a component, in the moments' precision; key "back": those that lead back to the weight."""
        state = self.state
        return state[key if key in state else "basis"][self.slices[component]].to(self.dtype)  # type: ignore[no-any-return]

    def basis_in(self, component: str, dtype: torch.dtype) -> Tensor:
        """Rows [r, a] of a component in another precision."""
        return self.state["basis"][self.slices[component]].to(dtype)  # type: ignore[no-any-return]

    def collect(self, sums: ProjectedSums, task: str, gradient: Tensor, *, shared: bool, cross: bool) -> None:
        """Add the projections of an oriented gradient [a, b] of a task."""
        if shared and self.usable(SHARED):
            _add(sums.shared, task, self.basis(SHARED) @ gradient)
        if self.usable(task):
            _add(sums.own, task, self.basis(task) @ gradient)
        for other in self.ranks if cross else ():
            if other != SHARED and self.usable(other) and (other != task or "back" in self.state):
                _add(sums.cross, (other, task), self.basis(other, "back") @ gradient)

    def collect_sketch(self, sums: ProjectedSums, task: str | None, gradient: Tensor, step: int) -> None:
        """Add the sketches of an oriented gradient for the bases that are due."""
        for component in (SHARED, task):
            if component in self.places and self.due(component):
                _add(sums.sketch, (component, task), self.probe(component, step) @ gradient.T)

    def probe(self, component: str, step: int) -> Tensor:
        """The directions [q, b] of the sketch in this step."""
        if component not in self._probes:
            moments = self.state["exp_avg"][self.slices[component]] if self.due(component) == DUE else None
            generator = seeded(self._seed, "probe", self.index, component, step)
            like = self.state["exp_avg"]
            self._probes[component] = sketch_probe(moments, self.ranks[component], generator, like)
        return self._probes[component]

    def refresh(self, gradients: Mapping[str, Tensor], step: int) -> None:
        """New bases of the due components from their oriented mean gradients [a, b]; used at once."""
        for component in (c for c in self.ranks if c in gradients and self.due(c)):
            if not bool(gradients[component].any()):
                continue  # nothing to be seen yet, as behind a layer that starts at zero
            gradient, fill = gradients[component], self._random_rows(component, step)
            if self._confined is not None:
                gradient = self._confined.apply(gradient.T).T
            if self.config.task_basis == "residual" and component != SHARED and self.usable(SHARED):
                shared = self.basis(SHARED)
                gradient, fill = gradient - shared.T @ (shared @ gradient), fill - (fill @ shared.T) @ shared
            generator = seeded(self._seed, "basis", self.index, component, step)
            self._turn(component, leading_basis(gradient, self.ranks[component], generator, fill), step)

    def refresh_from_sketch(self, sketches: Mapping[str, Tensor], step: int) -> None:
        """New bases from the sketches [q, a] of mean gradients; used from the next step on."""
        for component, sketch in sketches.items():
            if not bool(sketch.any()):
                continue
            inside = sketch if self._confined is None else self._confined.apply(sketch)
            fill = self._random_rows(component, step)
            self._turn(component, basis_from_sketch(inside, self.ranks[component], fill), step + 1)
        self._probes.clear()

    @property
    def _confined(self) -> Projector | None:
        """The projector in whose range the bases lie."""
        return self.projector if self.config.null_space_mode == "subspace" else None

    def _random_rows(self, component: str, step: int) -> Tensor:
        generator = seeded(self._seed, "fill", self.index, component, step)
        rows = gaussian((self.ranks[component], self.a), self.state["exp_avg"], generator)
        return rows if self._confined is None else self._confined.apply(rows)

    def _turn(self, component: str, basis: Tensor, step: int) -> None:
        state, rows = self.state, self.slices[component]
        if self._confined is not None:  # weak directions carry rounding from outside
            basis = orthonormal_rows(self._confined.apply(basis))
        if self.config.moment_transfer == "rotate" and self.usable(component):
            turn = (basis @ self.basis(component).T).to(self.dtype)
            state["exp_avg"][rows] = turn @ state["exp_avg"][rows]
            state["exp_avg_sq"][rows] = turn.square() @ state["exp_avg_sq"][rows]
            if component == SHARED and "exp_avg_tasks" in state:
                state["exp_avg_tasks"].copy_(turn @ state["exp_avg_tasks"])
        state["basis"][rows] = basis.to(state["basis"])
        if "back" in state and self.projector is not None:
            state["back"][rows] = self.projector.apply(basis).to(state["back"])
        state["due"][self.places[component]] = NOT_DUE
        state["turned"].fill_(step)

    def directions(self, component: str, betas: tuple[float, float], eps: float) -> Tensor:
        """Adam's direction [r, b] of a component from its moments (Eq. 6-7), times P where that is not cached."""
        state, rows = self.state, self.slices[component]
        count = int(state["steps"][self.places[component]])
        root = state["exp_avg_sq"][rows].sqrt().div_((1 - betas[1] ** count) ** 0.5).add_(eps)
        return self._kept(state["exp_avg"][rows].div(1 - betas[0] ** count).div_(root))

    def _kept(self, directions: Tensor) -> Tensor:
        if self.projector is None or self.on_basis or self.config.null_space_mode != "post":
            return directions
        return self.projector.apply(directions)

    def advance(self, projections: Mapping[str, Tensor], betas: tuple[float, float], shared_count: int | None) -> None:
        """Take the projected mean gradients [r, b] into the moments; components without one stay as they are."""
        state = self.state
        for component, projection in projections.items():
            rows = self.slices[component]
            state["exp_avg"][rows].lerp_(projection, 1 - betas[0])
            state["exp_avg_sq"][rows].mul_(betas[1]).addcmul_(projection, projection, value=1 - betas[1])
            count = state["steps"][self.places[component]]
            count += 1
            if shared_count is not None:
                count.fill_(shared_count)

    def attribute(self, parts: Mapping[str, Tensor], beta: float) -> None:
        """Take the tasks' shares [r_s, b] of the shared projection into first moments of their own."""
        averages = self.state["exp_avg_tasks"]
        for place, task in enumerate(c for c in self.ranks if c != SHARED):
            if task in parts:
                averages[place].lerp_(parts[task], 1 - beta)
            else:
                averages[place].mul_(beta)

    def update(
        self, components: Sequence[str], weights: Mapping[str, Tensor], group: Mapping[str, Any], rate: float, step: int
    ) -> None:
        """Move the weight along the components' directions, weighted by the gate (Eq. 8-9, 20), then decay it."""
        config = self.config
        directions = [
            self.directions(c, group["betas"], group["eps"]).mul_(weights[c]) if c in weights
            else self.directions(c, group["betas"], group["eps"])
            for c in components
        ]  # fmt: skip
        keep = 1 - group["lr"] * group["weight_decay"]
        seed = seeded(self._seed, "round", self.index, step).initial_seed()
        if directions:
            state = self.state
            back = state.get("back", state["basis"])
            if len(components) < len(self.ranks):
                back = torch.cat([back[self.slices[c]] for c in components])
            stacked = torch.cat(directions)
            left, right = (stacked.T, back) if self.right else (back.T, stacked)
            subtract_product(self.weight, left, right, rate, config.rounding, seed, keep)
        elif keep != 1:
            store(self.weight, self.weight.to(self.dtype) * keep, config.rounding, seed)

    def attributed(self, weights: Mapping[str, Tensor], betas: tuple[float, float], eps: float) -> dict[str, Tensor]:
        """What each task contributed to the last update, [m, n]: its share of the shared direction and its own."""
        state = self.state
        shared, count = self.slices[SHARED], int(state["steps"][0])
        root = state["exp_avg_sq"][shared].sqrt().div_((1 - betas[1] ** count) ** 0.5).add_(eps) if count else None
        found = {}
        for place, task in enumerate(c for c in self.ranks if c != SHARED):
            update = torch.zeros((self.a, self.b), dtype=self.dtype, device=self.weight.device)
            if root is not None:
                share = state["exp_avg_tasks"][place].div(1 - betas[0] ** count).div_(root)
                update += self.basis(SHARED, "back").T @ self._kept(share)
            if task in weights and int(state["steps"][self.places[task]]):
                own = self.directions(task, betas, eps).mul_(weights[task])
                update += self.basis(task, "back").T @ own
            found[task] = self.oriented(update)
        return found

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError when a saved state has other tensors or shapes than this matrix; {}: none was saved."""
        own = {key: tuple(value.shape) for key, value in self._empty_state().items()}
        saved = {key: tuple(value.shape) for key, value in state.items()}
        if saved and saved != own:
            raise ValueError(
                f"GEMS: the saved state of {self.name} has {saved}, this optimizer has {own}. Use the ranks, side, "
                "null space and attribution it was saved with."
            )

    def overlap(self, task: str) -> float:
        """Share of the task's subspace that lies in the shared one; the paper calls the two complementary."""
        if not (self.usable(SHARED) and self.usable(task)):
            return 0.0
        return float((self.basis(SHARED) @ self.basis(task).T).square().sum()) / self.ranks[task]

    def is_fresh(self, step: int) -> bool:
        """Whether the bases were changed since the last update."""
        return int(self.state["turned"]) >= step


def _add(sums: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    if key in sums:
        sums[key] += value
    else:
        sums[key] = value

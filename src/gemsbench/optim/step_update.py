"""What one step does to the matrices, from the record of its backward passes: refresh, moments, gate, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gemsbench.optim.gate import Gate
from gemsbench.optim.matrix import ProjectedMatrix
from gemsbench.optim.record import StepRecord
from gemsbench.optim.settings import GEMSConfig
from gemsbench.optim.sums import SHARED, ProjectedSums


class StepUpdate:
    """Finishes matrices one by one and trains the gate."""

    def __init__(
        self, config: GEMSConfig, tasks: Sequence[str], matrices: Sequence[ProjectedMatrix], gate: Gate
    ) -> None:
        self.config, self.tasks, self.matrices, self.gate = config, tasks, matrices, gate

    def squares(self, record: StepRecord) -> dict[str, Tensor]:
        """Squared norms of the tasks' mean gradients, or of their projections, if that is all there is.

        Of the projections on the tasks' own subspaces; of the shared one, where they have none.
        """
        parts: dict[str, list[Tensor]] = {task: list(found) for task, found in record.squares.items()}
        for number in range(len(self.matrices)):
            kept = record.gradients.get(number, {}) or _projected(record.sums.get(number, ProjectedSums()))
            for task, gradient in kept.items():
                if task is not None:
                    parts.setdefault(task, []).append(_square(gradient, record.tokens[task]))
        return {task: _total(found) for task, found in parts.items()}

    def observe(self, record: StepRecord, squares: Mapping[str, Tensor]) -> None:
        """Show the gate the step's losses, gradient norms and tokens."""
        losses = {task: loss.float().cpu() / record.tokens[task] for task, loss in record.losses.items()}
        norms = {task: square.sqrt() for task, square in squares.items()}
        if record.tokens:
            self.gate.observe(losses, norms, record.tokens)

    def finish(self, number: int, record: StepRecord, group: Mapping[str, Any]) -> None:
        """Bring one matrix to its next value; nothing happens where nothing was collected of it."""
        matrix = self.matrices[number]
        gradients = record.gradients.pop(number, {})
        sums = record.sums.pop(number, ProjectedSums())
        if gradients:
            self._project(matrix, gradients, sums, record)
        if gradients or sums.tasks() or sums.total:
            self._move(matrix, sums, record, group)
        record.finished.add(number)

    def _project(
        self, matrix: ProjectedMatrix, gradients: Mapping[str | None, Tensor], sums: ProjectedSums, record: StepRecord
    ) -> None:
        """Projections of gradients of full size, on bases that are refreshed first where that is due."""
        weights = record.shared_weights(self.config.shared == "token_mean")
        oriented = {task: matrix.masked(matrix.oriented(g).to(matrix.dtype)) for task, g in gradients.items()}
        joint = _weighted(oriented, weights)
        if matrix.any_due() and self.config.basis == "svd":
            own = {task: gradient for task, gradient in oriented.items() if task is not None}
            matrix.refresh({SHARED: joint, **own}, record.step)
        elif matrix.any_due():
            for task, gradient in oriented.items():
                matrix.collect_sketch(sums, task, gradient, record.step)
        apart = self.config.attribution  # else the sum is projected once
        for task, gradient in oriented.items():
            if task is not None:
                matrix.collect(sums, task, gradient, shared=apart, cross=record.cross)
        if (None in oriented or not apart) and matrix.usable(SHARED):
            sums.total[SHARED] = matrix.basis(SHARED) @ joint

    def _move(self, matrix: ProjectedMatrix, sums: ProjectedSums, record: StepRecord, group: Mapping[str, Any]) -> None:
        """Moments and weight, from projections on the present bases; then the bases of a sketch."""
        weights = record.shared_weights(self.config.shared == "token_mean")
        if self.config.gate_lag:
            for task, value in _projected(sums).items():
                if task is not None:
                    record.squares.setdefault(task, []).append(_square(value, record.tokens[task]))
        if record.cross and not matrix.is_fresh(record.step):
            self._align(matrix, sums, record, group)
        projections = {task: value / record.tokens[task] for task, value in sums.own.items() if task is not None}
        if sums.total:
            projections |= sums.total
        elif sums.shared:
            projections[SHARED] = _weighted(sums.shared, weights)
        matrix.advance(projections, group["betas"], record.step if self.config.step_counter == "shared" else None)
        if self.config.attribution and SHARED in projections:
            shares = {task: value * weights[task] for task, value in sums.shared.items() if task is not None}
            matrix.attribute(shares, group["betas"][0])
        moved = [component for component in matrix.ranks if component in projections]
        matrix.update(moved, record.weights or {}, group, group["lr"] * group["scale"], record.step)
        if sums.sketch:
            matrix.refresh_from_sketch(self._sketches(sums, weights), record.step)

    def _sketches(self, sums: ProjectedSums, weights: Mapping[str | None, float]) -> dict[str, Tensor]:
        """The sketch of each component's mean gradient."""
        sketches: dict[str, Tensor] = {}
        for (component, task), sketch in sums.sketch.items():
            part = sketch * weights[task]
            sketches[component] = sketches[component] + part if component in sketches else part
        return sketches

    def _align(
        self, matrix: ProjectedMatrix, sums: ProjectedSums, record: StepRecord, group: Mapping[str, Any]
    ) -> None:
        """Add lr s <G_s, D_t P> of this matrix, with the directions D_t of the last update (Gate.learn)."""
        for task, present in zip(self.tasks, self.gate.present.tolist(), strict=True):
            if not present or not matrix.usable(task) or not int(matrix.state["steps"][matrix.places[task]]):
                continue
            directions = matrix.directions(task, group["betas"], group["eps"])
            for other in record.tokens:
                gradient = sums.cross.get((task, other), sums.own.get(task) if task == other else None)
                if gradient is not None:
                    value = (gradient * directions).sum() * (group["lr"] * group["scale"] / record.tokens[other])
                    record.alignment.setdefault((task, other), []).append(value)

    def learn(self, record: StepRecord) -> None:
        """Train the gate where it is due and every pair of tasks has met."""
        if record.cross and all((task, other) in record.alignment for task in self.tasks for other in self.tasks):
            rows = [[_total(record.alignment[task, other]) for other in self.tasks] for task in self.tasks]
            self.gate.learn(torch.stack([torch.stack(row) for row in rows]))


def step_metrics(matrices: Sequence[ProjectedMatrix], gate: Gate) -> dict[str, float]:
    """Gate weights, the mean overlap of each task's subspace with the shared one, and H of the gate, by flat names."""
    values = {f"gate_{task}": float(weight) for task, weight in zip(gate.tasks, gate.given, strict=True)}
    for task in gate.tasks:
        overlaps = [matrix.overlap(task) for matrix in matrices if task in matrix.ranks]
        if overlaps:
            values[f"overlap_{task}"] = sum(overlaps) / len(overlaps)
    for row, task in zip(gate.alignment.tolist(), gate.tasks, strict=True):
        pairs = zip(row, gate.tasks, strict=True)
        values |= {f"alignment_{task}_{other}": value for value, other in pairs if not math.isnan(value)}
    return values


def _projected(sums: ProjectedSums) -> dict[str | None, Tensor]:
    return sums.own or sums.shared


def _square(value: Tensor, tokens: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(value if value.dtype == torch.float64 else value.float())
    return norm.div(tokens).square()


def _total(values: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, as float32 on the CPU; the device is waited for once."""
    return torch.stack([value.to(values[0].device) for value in values]).sum().float().cpu()


def _weighted(values: Mapping[str | None, Tensor], weights: Mapping[str | None, float]) -> Tensor:
    """sum_t weights[t] * values[t]."""
    (first, start), *others = values.items()
    joint = start * weights[first]
    for task, value in others:
        joint.add_(value, alpha=weights[task])
    return joint

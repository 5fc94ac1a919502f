"""What one optimizer step collects of one matrix: projections of the tasks' gradients, not the gradients themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

SHARED = "shared"  # the component beside the tasks' own ones


@dataclass
class ProjectedSums:
    """Sums over micro-batches, not yet divided by tokens. All are rank-first; a task None is "no task named".

    shared: task -> [r_s, b]. own: task -> [r_t, b]. cross: (component's task, gradient's task) -> [r_t, b], for the
    gate; of a task with itself only where it is not `own`. sketch: (component, task) -> [q, a]. total: [r_s, b], the
    shared sum where it was formed from full gradients (already divided).
    """

    shared: dict[str | None, Tensor] = field(default_factory=dict)
    own: dict[str | None, Tensor] = field(default_factory=dict)
    cross: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    sketch: dict[tuple[str, str | None], Tensor] = field(default_factory=dict)
    total: Tensor | None = None

    def tasks(self) -> list[str | None]:
        """The tasks that gave something, in order of arrival."""
        return list(dict.fromkeys([*self.shared, *self.own, *(task for _, task in self.sketch)]))

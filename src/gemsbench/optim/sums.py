"""What one optimizer step collects of one matrix: projections of the tasks' gradients, not the gradients themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

SHARED = "shared"  # the component beside the tasks' own ones


@dataclass
class ProjectedSums:
    """Sums over micro-batches, not yet divided by tokens. All are rank-first; a task None is "no task named".

    shared: task -> [r_s, b]. own: task -> [r_t, b]. cross: (component's task, gradient's task) -> [r_t, b], for the
    gate; of a task with itself only where it is not `own`. sketch: (component, task) -> [q, a]. total: "shared"
    -> [r_s, b], the shared gradient's projection where it could be divided at once.
    """

    shared: dict[str | None, Tensor] = field(default_factory=dict)
    own: dict[str | None, Tensor] = field(default_factory=dict)
    cross: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    sketch: dict[tuple[str, str | None], Tensor] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)

    def tasks(self) -> list[str | None]:
        """The tasks that gave something, in order of arrival."""
        return list(dict.fromkeys([*self.shared, *self.own, *(task for _, task in self.sketch)]))

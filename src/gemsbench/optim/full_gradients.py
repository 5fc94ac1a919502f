"""Gradients of full size: taken from `.grad` after a backward pass, or layer by layer while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from gemsbench.optim.matrix import ProjectedMatrix
from gemsbench.optim.record import Batch, StepRecord


def check_clean(matrices: Sequence[ProjectedMatrix], record: StepRecord) -> None:
    """Raise ValueError when a pass failed, or a projected weight has a gradient that no task was named for."""
    if record.broken:
        raise ValueError("GEMS: a pass of this step failed. Call opt.zero_grad() and begin the step again.")
    for matrix in matrices:
        if matrix.weight.grad is not None or record.unnamed:
            raise ValueError(
                f"GEMS: {matrix.name} has a gradient from outside `with opt.task(...)`. Run every backward pass of a "
                "step inside it, or none (then GEMS is GaLore); call opt.step() or opt.zero_grad() between steps. With "
                "preset='fast' leave requires_grad of the projected weights off."
            )


def take_gradients(matrices: Sequence[ProjectedMatrix], record: StepRecord, task: str | None) -> None:
    """Move the gradients of a pass from the weights into the record."""
    for number, matrix in enumerate(matrices):
        gradient = matrix.weight.grad
        if gradient is not None:
            matrix.weight.grad = None
            record.add_gradient(number, task, gradient)


class LayerHooks:
    """Projects and frees each weight's gradient as soon as it is there; the last pass of a step finishes the layer.

    The peak is one gradient instead of all of them per task, except where bases are due: such a layer keeps its
    gradients until it is finished, since its new basis is not known before. That is every layer in the first step.
    """

    def __init__(
        self,
        matrices: Sequence[ProjectedMatrix],
        current: Callable[[], tuple[Batch, StepRecord] | None],
        finish: Callable[[int], None],
    ) -> None:
        self._matrices, self._current, self._finish = matrices, current, finish
        self._handles = [
            matrix.weight.register_post_accumulate_grad_hook(self._hook(number))  # type: ignore[no-untyped-call]
            for number, matrix in enumerate(matrices)
        ]

    def remove(self) -> None:
        """Take the hooks off the weights."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            current = self._current()
            if current is None or weight.grad is None:
                return
            batch, record = current
            matrix, gradient = self._matrices[number], weight.grad
            weight.grad = None
            if matrix.any_due() or number in record.gradients:
                record.add_gradient(number, batch.task, gradient)
            else:
                oriented = matrix.oriented(gradient).to(matrix.dtype)
                assert batch.task is not None  # mixed batches are refused at the door
                matrix.collect(record.of(number), batch.task, oriented, shared=True, cross=record.cross)
            if batch.last:
                self._finish(number)

        return hook

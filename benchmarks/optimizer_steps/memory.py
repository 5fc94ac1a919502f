"""Peak memory of a step: what stands (weights, buffers, optimizer state) and the most that is allocated beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optimizer_steps.contender import Contender


def standing_bytes(contender: Contender) -> int:
    """Bytes of weights, buffers and optimizer state, every storage once."""
    model = contender.model
    return storage_bytes([*model.parameters(), *model.buffers(), *contender.state()])


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages under the tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def most_allocated(function: Callable[[], object], device: str) -> int:
    """The most bytes that were allocated at a time by the call; on the CPU by the record of torch's allocator."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    profiler: Any = record.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class FullSize(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operators whose result is new memory of the shape of a trained matrix, either way round."""

    def __init__(self, contender: Contender, shapes: Iterable[tuple[int, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes = {shape for rows, columns in shapes for shape in ((rows, columns), (columns, rows))}
        standing = [*contender.model.parameters(), *contender.state()]
        self.standing = {tensor.untyped_storage().data_ptr() for tensor in standing}
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and self._is_new_and_full(value):
                self.found[str(func)] = self.found.get(str(func), 0) + 1
        return result

    def _is_new_and_full(self, value: Tensor) -> bool:
        shape = tuple(size for size in value.shape if size != 1)
        return shape in self.shapes and value.untyped_storage().data_ptr() not in self.standing

"""Seconds by the wall and of the processor, per phase of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Seconds:
    """Time by the wall, and of the processor (all threads of the process)."""

    wall: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.wall * times, self.processor * times)


@dataclass
class Clock:
    """Adds up the phases of one step."""

    device: str
    phases: dict[str, Seconds] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time of the block, added to the phase."""
        synchronise(self.device)
        start, worked = time.perf_counter(), time.process_time()
        yield
        synchronise(self.device)
        spent = Seconds(time.perf_counter() - start, time.process_time() - worked)
        self.phases[name] = self.phases.get(name, Seconds()) + spent

    @property
    def total(self) -> Seconds:
        """Sum of the phases."""
        result = Seconds()
        for seconds in self.phases.values():
            result = result + seconds
        return result


def synchronise(device: str) -> None:
    """Waits until the accelerator is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: str) -> Seconds:
    """Time of one call."""
    clock = Clock(device)
    with clock.phase("call"):
        function()
    return clock.total

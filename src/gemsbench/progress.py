"""Progress bars of long fits: on standard error, only on a terminal, and never when the caller asked for quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within the block, progress bars are off if quiet is true."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar of `total` steps; the yielded function sets the number of steps done and the text."""
    console = Console(stderr=True)
    with Progress(console=console, disable=_quiet.get() or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, text: progress.update(task, completed=done, description=text)

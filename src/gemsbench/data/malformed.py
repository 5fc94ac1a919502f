"""The one rule for malformed lines of raw files: count them, list them, stop when they are too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemsbench.errors import InputError

LIMIT = 0.001  # share of the lines that were read; above it the file is not what the recipe was written for
_SHOWN = 5


def stop_above_limit(path: Path, malformed: int, lines: int, listed: Sequence[str]) -> None:
    """Raise InputError, showing the first of listed ("file:line: reason"), when more than 0.1 % are malformed."""
    if malformed > LIMIT * lines:
        raise InputError(
            f"{path}: {malformed:,} of {lines:,} lines that were read are malformed, more than {LIMIT:.1%}: "
            f"{'; '.join(listed[:_SHOWN])}. The file is damaged or another one: delete it and fetch it again."
        )

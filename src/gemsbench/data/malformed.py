"""The one rule for malformed lines of raw files: count them, list them, stop when they are too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemsbench.errors import InputError

LIMIT = 0.001  # share of the lines that were read; above it the file is not what the recipe was written for
TOLERATED = 1_000  # malformed lines beyond that share with which a file may begin before it is given up
_SHOWN = 5


def stop_early(path: Path, malformed: int, line: int, listed: Sequence[str]) -> None:
    """Raise InputError as stop_above_limit does, at the last of `malformed` malformed lines, which is number `line`.

    It lets TOLERATED lines more pass, so that a wrong file ends after a second and one that only begins badly does not.
    What it decides depends on the file alone, not on how it is read.
    """
    if malformed > LIMIT * line + TOLERATED:
        stop_above_limit(path, malformed, line, listed)


def stop_above_limit(path: Path, malformed: int, lines: int, listed: Sequence[str]) -> None:
    """Raise InputError, showing the first of listed ("file:line: reason"), when more than 0.1 % are malformed."""
    if malformed > LIMIT * lines:
        raise InputError(
            f"{path}: {malformed:,} of {lines:,} lines that were read are malformed, more than {LIMIT:.1%}: "
            f"{'; '.join(listed[:_SHOWN])}. The file is damaged or another one: delete it and fetch it again. If its "
            "hash was only recorded at its first download, take that record back first (git checkout -- its .dvc file)."
        )

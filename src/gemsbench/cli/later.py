"""Verbs that a later release brings: they say so, and stop with exit code 2."""

from __future__ import annotations

from collections.abc import Callable

import typer

from gemsbench.errors import UsageError

VERBS = {
    "leaderboard": "the leaderboard page",
    "audit": "the audit of printed tables",
    "check": "the self-test of an outside method",
    "new-method": "the template of a new method",
    "submit": "leaderboard submissions",
}


def register(app: typer.Typer) -> None:
    """Add every verb of a later release to the command line."""
    for verb, topic in VERBS.items():
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(verb, help=f"Not in this release: {topic}.", context_settings=settings)(_refusal(verb, topic))


def _refusal(verb: str, topic: str) -> Callable[[], None]:
    def refuse() -> None:
        raise UsageError(f"'gemsbench {verb}' ({topic}) is not in this release. `gemsbench --help` lists what is.")

    return refuse

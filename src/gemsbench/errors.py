"""Errors a user can act on; each message says what is wrong, where, and how to fix it."""

from __future__ import annotations


class GemsbenchError(Exception):
    """Base of all errors raised on purpose; the command line prints them without a traceback."""

    exit_code = 1


class InputError(GemsbenchError):
    """A file, a setting or an argument is wrong (exit code 1)."""


class UsageError(GemsbenchError):
    """A command was called in a way that it does not support (exit code 2)."""

    exit_code = 2


class CheckError(GemsbenchError):
    """A check ran and did not hold (exit code 3)."""

    exit_code = 3

"""gemsbench: a reproducibility-first benchmark suite for unified search and recommendation."""

from __future__ import annotations

__version__ = "0.1.0.dev0"

"""Score files, metrics and paired tests; needs numpy, polars and scipy only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemsbench.evaluation.evaluation import Evaluation, evaluate, read_evaluation, write_evaluation
    from gemsbench.evaluation.scores import Scores, read_scores, write_scores
    from gemsbench.evaluation.significance import Comparison, compare

# Looked up when asked for: whoever needs the metrics alone does not depend on the code of the rest.
_HOME = {
    "Comparison": "significance",
    "Evaluation": "evaluation",
    "Scores": "scores",
    "compare": "significance",
    "evaluate": "evaluation",
    "read_evaluation": "evaluation",
    "read_scores": "scores",
    "write_evaluation": "evaluation",
    "write_scores": "scores",
}

__all__ = [
    "Comparison",
    "Evaluation",
    "Scores",
    "compare",
    "evaluate",
    "read_evaluation",
    "read_scores",
    "write_evaluation",
    "write_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

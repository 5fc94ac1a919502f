"""Score files, metrics and paired tests; needs numpy, polars and scipy only."""

from gemsbench.evaluation.evaluate import Evaluation, evaluate, read_evaluation, write_evaluation
from gemsbench.evaluation.scores import Scores, read_scores, write_scores
from gemsbench.evaluation.significance import Comparison, compare

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

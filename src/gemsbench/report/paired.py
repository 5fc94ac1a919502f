"""How sure is it that one method is better than another: the test behind the star."""

from __future__ import annotations

import numpy as np

from gemsbench.errors import CheckError, InputError
from gemsbench.evaluation.evaluation import RANKS_FILE
from gemsbench.evaluation.significance import mean_per_case, paired_t_test
from gemsbench.report.run_results import MethodResult

TOLERANCE = 1e-9  # between a mean in metrics.json and the mean of the same values


def p_value(better: MethodResult, other: MethodResult, task: str, metric: str) -> float | None:
    """The p of the paired two-sided t-test over cases, on per-case values averaged over seeds; None without variance.

    Raises InputError when the two were asked different cases, CheckError when ranks and metrics.json disagree.
    """
    cases, values = mean_per_case(better.evaluations, task, metric)
    other_cases, other_values = mean_per_case(other.evaluations, task, metric)
    if not np.array_equal(cases, other_cases):
        raise InputError(
            f"{better.folders[0]} and {other.folders[0]}: {RANKS_FILE} holds different {task} cases, so no paired "
            "test is possible. Evaluate both runs again."
        )
    for result, mean in ((better, values.mean()), (other, other_values.mean())):
        recorded = result.mean(task, metric)
        if abs(mean - recorded) > TOLERANCE:
            raise CheckError(
                f"{result.folders[0]}: {task} {metric} is {recorded:.9f} in metrics.json and {mean:.9f} in "
                f"{RANKS_FILE} (mean over seeds). They are not of one evaluation: delete both and evaluate again."
            )
    return paired_t_test(values, other_values).p

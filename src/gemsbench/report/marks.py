"""Bold, underline and star, computed from the numbers of one column and one task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemsbench.report.table import Style

SIGNIFICANCE_LEVEL = 0.01  # arXiv 2601.09496, caption of Table 1
EQUAL = 1e-12  # means of the same per-case values in another order differ by rounding only

PValue = Callable[[int, int], float | None]  # (best, other) -> p; None where no test is possible


@dataclass(frozen=True)
class Mark:
    """How one number is printed; p_value stands on a best number that was tested against the second best."""

    style: Style = ""
    star: bool = False
    p_value: float | None = None


def printed(value: float) -> str:
    """A metric as the tables print it: four decimals, leading zero."""
    return f"{value:.4f}"


def column_marks(values: Sequence[float | None], p_value: PValue) -> tuple[Mark, ...]:
    """Mark the numbers of one column and task; None (not run) takes no part.

    values: unrounded means. Best: the largest; all of them when several are equal, and then nothing is second.
    Second: the largest below the best, and every other number below the best that is printed like it. The star stands
    on a single best whose test against the second gives p < 0.01 (against each of them where several are equal).
    A number that stands alone is not marked.
    """
    marks = [Mark() for _ in values]
    present = [(index, value) for index, value in enumerate(values) if value is not None]
    if len(present) < 2:
        return tuple(marks)
    top = max(value for _, value in present)
    best = [index for index, value in present if top - value <= EQUAL]
    for index in best:
        marks[index] = Mark("best")
    below = [(index, value) for index, value in present if top - value > EQUAL]
    if len(best) > 1 or not below:
        return tuple(marks)
    runner_up = max(value for _, value in below)
    for index, value in below:
        if runner_up - value <= EQUAL or printed(value) == printed(runner_up):
            marks[index] = Mark("second")
    tests = [p_value(best[0], index) for index, value in below if runner_up - value <= EQUAL]
    largest = max((p for p in tests if p is not None), default=None) if None not in tests else None
    marks[best[0]] = Mark("best", largest is not None and largest < SIGNIFICANCE_LEVEL, largest)
    return tuple(marks)

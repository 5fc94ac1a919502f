"""Tables 1 and 2: methods against datasets, marks computed from the numbers (arXiv 2601.09496)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemsbench.profile import NO_BACKBONE, Profile
from gemsbench.report.captions import column_heading, columns_of, comparison_caption
from gemsbench.report.marks import Mark, column_marks, printed
from gemsbench.report.paired import p_value
from gemsbench.report.rows import METHOD_KEYS, METRICS, TASK_NAMES, WITHOUT_BACKBONE, ComparisonRows
from gemsbench.report.run_results import MethodResult, Results
from gemsbench.report.table import NOT_RUN, Block, Cell, ColumnGroup, Row, Table


def comparison_table(profile: Profile, rows: ComparisonRows, results: Results) -> Table:
    """Build Table 1 or 2 of a profile: the paper's rows, the profile's recipes as columns with four metrics each."""
    columns = columns_of(profile)
    backbone = profile.tables.blocks.get(rows.backbone)
    blocks = []
    shown: dict[str, dict[str, MethodResult]] = {}  # row -> column -> what stands there, for one task or both
    for task, names in rows.tasks.items():
        cells = []
        for short, recipe in columns.items():
            answers = [_find(results, recipe, backbone, name, task) for name in names]
            cells += [_metric_cells(answers, task, metric, results) for metric in METRICS]
            for name, answer in zip(names, answers, strict=True):
                if answer is not None:
                    shown.setdefault(name, {})[short] = answer
        block_rows = (Row(name, tuple(column[i] for column in cells)) for i, name in enumerate(names))
        blocks.append(Block(TASK_NAMES[task], tuple(block_rows)))
    names = tuple(METRICS.values())
    return Table(
        name=rows.name,
        title=rows.title,
        caption=comparison_caption(profile, rows, results, shown),
        stub=("Task", "Method"),
        groups=tuple(ColumnGroup(column_heading(short, recipe), names, short) for short, recipe in columns.items()),
        blocks=tuple(blocks),
        details=table_details(profile, results) | {"backbone": backbone},
    )


def table_details(profile: Profile, results: Results) -> dict[str, Any]:
    """What the JSON file of a table says about all of its cells."""
    columns = columns_of(profile)
    return {
        "profile": profile.profile,
        "comparable_with_paper": profile.comparable_with_paper,
        "seeds": list(profile.seeds),
        "recipes": columns,
        "fingerprints": {recipe: results.fingerprint(recipe) for recipe in profile.recipes},
    }


def cell_details(result: MethodResult, task: str, metric: str, results: Results) -> dict[str, Any]:
    """What stands behind one number: unrounded, per seed, with its spread, cases, run folders; what ended training."""
    stopped = {"stopped": list(result.stopped)} if any(result.stopped) else {}
    return {
        "recipe": result.recipe,
        "backbone": result.backbone,
        "method": result.method,
        "task": task,
        "metric": metric,
        "value": result.mean(task, metric),
        "per_seed": list(result.per_seed(task, metric)),
        "sd": result.deviation(task, metric),
        "seeds": list(result.seeds),
        "n": result.cases(task),
        "runs": [folder.relative_to(results.folder).as_posix() for folder in result.folders],
        **stopped,
    }


def _find(results: Results, recipe: str, backbone: str | None, name: str, task: str) -> MethodResult | None:
    own = NO_BACKBONE if name in WITHOUT_BACKBONE else backbone
    return results.get(recipe, own, METHOD_KEYS[name], task) if own else None


def _metric_cells(answers: Sequence[MethodResult | None], task: str, metric: str, results: Results) -> tuple[Cell, ...]:
    """One column of one task, top to bottom."""

    def test(best: int, other: int) -> float | None:
        better, second = answers[best], answers[other]
        return p_value(better, second, task, metric) if better and second else None

    values = [None if answer is None else answer.mean(task, metric) for answer in answers]
    marks = column_marks(values, test)
    return tuple(_cell(answer, mark, task, metric, results) for answer, mark in zip(answers, marks, strict=True))


def _cell(answer: MethodResult | None, mark: Mark, task: str, metric: str, results: Results) -> Cell:
    if answer is None:
        return Cell(NOT_RUN)
    details = cell_details(answer, task, metric, results)
    details["expected_under_random_ties"] = answer.mean(task, f"{metric}_exp")
    details["tie_rate"] = answer.mean(task, "tie_rate")
    if mark.p_value is not None:
        details["p_best_vs_second"] = mark.p_value
    return Cell(printed(answer.mean(task, metric)), mark.style, mark.star, details)

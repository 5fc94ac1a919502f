"""The appendix table: simple methods and a tuned SASRec, and what the tie rule costs them."""

from __future__ import annotations

from gemsbench.profile import NO_BACKBONE, Profile
from gemsbench.report.captions import columns_of, sanity_caption
from gemsbench.report.comparison_table import cell_details, table_details
from gemsbench.report.marks import printed
from gemsbench.report.rows import METHOD_KEYS, METRICS, SANITY_METHODS, TASK_NAMES
from gemsbench.report.run_results import MethodResult, Results
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Table

EXPECTED = {f"{metric}_exp": name for metric, name in METRICS.items()}


def sanity_table(profile: Profile, results: Results) -> Table:
    """Build the appendix table: the sanity rows, then every other method of the profile, under both tie rules."""
    blocks = []
    shown: dict[str, dict[str, MethodResult]] = {}  # row -> recipe -> what stands there, for one task or both
    for recipe in dict.fromkeys((*columns_of(profile).values(), *profile.recipes)):
        for task, task_name in TASK_NAMES.items():
            found = _methods(results, recipe, task)
            for name, result in found:
                shown.setdefault(_label(name, result, "{} with {}"), {})[recipe] = result
            rows = tuple(_row(_label(name, result), result, task, results) for name, result in found)
            blocks.append(Block(f"{recipe}, {task_name.lower()}", rows))
    return Table(
        name="sanity",
        title="Sanity rows",
        caption=sanity_caption(profile, results, shown),
        stub=("Recipe and task", "Method"),
        groups=(
            ColumnGroup("Ties count against the method", tuple(METRICS.values())),
            ColumnGroup("Expected, ties in random order", tuple(EXPECTED.values()), "Expected"),
            ColumnGroup("", ("Tie rate", "Cases")),
        ),
        blocks=tuple(blocks),
        details=table_details(profile, results),
    )


def _methods(results: Results, recipe: str, task: str) -> list[tuple[str, MethodResult]]:
    """The sanity rows, then every other method of the profile; those that answer this task of this recipe."""
    sanity = ((name, results.get(recipe, NO_BACKBONE, key, task)) for key, name in SANITY_METHODS.items())
    found = [(name, result) for name, result in sanity if result is not None]
    names = {key: name for name, key in METHOD_KEYS.items()}
    others = (result for result in results.by_key.values() if result.recipe == recipe and task in result.tasks)
    found += [(names.get(r.method, r.method), r) for r in others if r.method not in SANITY_METHODS]
    return found


def _label(name: str, result: MethodResult, both: str = "{} ({})") -> str:
    return name if result.backbone == NO_BACKBONE else both.format(name, result.backbone)


def _row(name: str, result: MethodResult, task: str, results: Results) -> Row:
    cells = [
        Cell(printed(result.mean(task, metric)), details=cell_details(result, task, metric, results))
        for metric in (*METRICS, *EXPECTED, "tie_rate")
    ]
    return Row(name, (*cells, Cell(f"{result.cases(task):,}")))

"""What a reader must know to read a table without the code beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gemsbench.profile import NO_BACKBONE, Profile, method_entry
from gemsbench.registry import RECIPES, resolve
from gemsbench.report.rows import TASK_NAMES, ComparisonRows
from gemsbench.report.run_results import MethodResult, Results
from gemsbench.report.table import NOT_RUN

if TYPE_CHECKING:
    from gemsbench.data.recipe import Recipe

MARKS = (
    "The best and second-best results of a task are in bold and underlined; * marks a best result that is "
    "significantly better than the second best (paired two-sided t-test over test cases, p < 0.01); a result that "
    "stands alone is not marked."
)
TIES = "Equal scores count against the method."
PAPER = "arXiv 2601.09496"
OF_PAPER = {"T5-base": "flan-t5-base", "Qwen-3B": "qwen2.5-3b-instruct"}  # block -> the backbone of the paper's size
Shown: TypeAlias = Mapping[str, Mapping[str, MethodResult]]  # row -> column or recipe -> the result behind its cells
MISSING = f"{NOT_RUN} means not built yet or not run."


@dataclass(frozen=True)
class SizeRows:
    """Rows of Table 4 whose numbers need words: the row's name -> what is said of it.

    leaks: share of its searches whose answer a published script would show. released: the same share in its own test
    cases, of a recipe built as the released code does. in_cases: the paper's dataset, of a row with a second count.
    """

    leaks: Mapping[str, float]
    released: Mapping[str, float]
    in_cases: Mapping[str, str]


def columns_of(profile: Profile) -> dict[str, str]:
    """Printed column name -> recipe: the paper's columns, then the extra ones."""
    return {**profile.tables.columns, **profile.tables.extra_columns}


def column_heading(label: str, recipe: str) -> str:
    """The heading of a dataset; it names the recipe where that is not simply the dataset's own."""
    return label if recipe == label.lower() else f"{label} ({recipe})"


def comparison_caption(profile: Profile, rows: ComparisonRows, results: Results, shown: Shown) -> str:
    """Caption of Table 1 or 2."""
    sentences = [
        "Results on search and recommendation.",
        _backbone(rows.backbone, profile.tables.blocks.get(rows.backbone)),
        _datasets(profile),
        _cases(profile, results),
        _seeds(profile),
        _fewer_seeds(profile, shown),
        stopped_at_cap(shown),
        MARKS,
        TIES,
        MISSING,
        comparability(profile),
    ]
    return _join(sentences)


def dataset_caption(profile: Profile, shown: SizeRows) -> str:
    """Caption of Table 4."""
    leaks, released = (
        ", ".join(f"{share:.1%} of {row}" for row, share in rows.items()) for rows in (shown.leaks, shown.released)
    )
    sentences = [
        "Statistics of the datasets. #Inter-S and #Inter-R are the numbers of search and recommendation interactions; "
        "a density is that number over users times items.",
        f"Measured on the recipes of profile {profile.profile}; rows in grey are printed in {PAPER}.",
        _in_cases(shown),
        f"Searches whose item a published preprocessing script (arXiv 2504.05730) would leave in the user's history: "
        f"{leaks}; here none."
        if leaks
        else "",
        f"Built as the released code does, test searches whose item stands in their own history: {released}."
        if released
        else "",
        "" if profile.comparable_with_paper else _measured_data(profile),
    ]
    return _join(sentences)


def _in_cases(shown: SizeRows) -> str:
    if not shown.in_cases:
        return ""
    swapped = " The paper's #User and #Item of Amazon are very likely exchanged." * (
        "Amazon" in shown.in_cases.values()
    )
    return (
        "Rows 'in cases' count as the paper's table seems to: users with a case, items in histories or targets, cases."
        f"{swapped}"
    )


def sanity_caption(profile: Profile, results: Results, shown: Shown) -> str:
    """Caption of the appendix table."""
    fewer = {result.method for result in results.by_key.values() if len(result.seeds) < len(profile.seeds)}
    once = sorted(key for key in fewer if not method_entry(profile, key).seeded)
    sentences = [
        "Rows without a language model, to hold Tables 1 and 2 against: untrained ones, and SASRec, trained on "
        "purchases alone; then every other method of the profile.",
        "Ties are equal scores: the first four columns count them against the method, as all tables do; the next four "
        "are the expectation when they are ordered at random; tie rate is the share of test cases in which a positive "
        "has the score of a negative.",
        _datasets(profile),
        _seeds(profile),
        f"Methods without random choices ran once ({', '.join(once)})." if once else "",
        _fewer_seeds(profile, {name: found for name, found in shown.items() if not set(once) & _keys(found)}),
        "A method on a backbone has it in parentheses." if _with_backbone(results) else "",
        stopped_at_cap(shown),
        "A method has no row where it does not answer the task.",
        comparability(profile),
    ]
    return _join(sentences)


def stopped_at_cap(shown: Shown) -> str:
    """Which of the shown results were trained up to a cap of epochs or steps: more training might improve them."""
    named = []
    for name, results in shown.items():
        columns = [f"{column}{_share_capped(result)}" for column, result in results.items() if result.capped]
        named += [f"{name} ({', '.join(columns)})"] if columns else []
    return f"Training stopped at its cap of epochs or steps, not by validation: {'; '.join(named)}." if named else ""


def comparability(profile: Profile) -> str:
    """The warning that stands in every caption of a profile that does not repeat the paper's experiment."""
    if profile.comparable_with_paper:
        return ""
    used = [_papers_data(profile) or "other data"]
    if any(OF_PAPER.get(block) != backbone for block, backbone in profile.tables.blocks.items()):
        used.append("smaller models")
    return (
        f"These numbers are not comparable with the paper's ({PAPER}): "
        f"profile {profile.profile} uses {' and '.join(used)}."
    )


def _papers_data(profile: Profile) -> str:
    """What the columns of a profile are when each shows a dataset of the paper, else ""."""
    shown: list[Recipe] = [resolve(RECIPES[name]) for name in columns_of(profile).values()]
    if not shown or not all(recipe.paper_row for recipe in shown):
        return ""
    if any(recipe.released for recipe in shown):
        return "the paper's datasets, some built as the released code does (docs/datasets)"
    return "the paper's datasets under this repository's rules (docs/datasets)"


def _measured_data(profile: Profile) -> str:
    known = _papers_data(profile)
    if not known:
        return "The measured data are not the paper's."
    named = " and ".join(column_heading(label, recipe) for label, recipe in columns_of(profile).items())
    return f"{named} are {known}."


def _share_capped(result: MethodResult) -> str:
    seeds = len(result.stopped)
    return "" if result.capped == seeds else f" in {result.capped} of {seeds} seeds"


def _with_backbone(results: Results) -> bool:
    return any(result.backbone != NO_BACKBONE for result in results.by_key.values())


def _backbone(paper_name: str, backbone: str | None) -> str:
    if backbone is None:
        return f"Backbone of the language models: {paper_name}, which this profile does not run."
    stands_for = "" if backbone == paper_name else f", in the place of {paper_name}"
    return f"Backbone of the language models: {backbone}{stands_for}."


def _datasets(profile: Profile) -> str:
    named = [f"{label} is recipe {recipe}" for label, recipe in columns_of(profile).items()]
    return f"Profile {profile.profile}: {', '.join(named)}."


def _cases(profile: Profile, results: Results) -> str:
    counted = []
    for label, recipe in columns_of(profile).items():
        sizes: Mapping[str, int | None] = {task: results.cases(recipe, task) for task in TASK_NAMES}
        parts = [f"{size:,} {TASK_NAMES[task].lower()}" for task, size in sizes.items() if size is not None]
        if parts:
            counted.append(f"{label} {' and '.join(parts)}")
    return f"Test cases: {'; '.join(counted)}." if counted else ""


def _seeds(profile: Profile) -> str:
    if len(profile.seeds) == 1:
        return f"One training seed ({profile.seeds[0]}): the spread between seeds is not measured."
    return f"Mean over {len(profile.seeds)} training seeds ({', '.join(str(seed) for seed in profile.seeds)})."


def _fewer_seeds(profile: Profile, shown: Shown) -> str:
    """Which of the shown rows were trained with fewer seeds than the profile has."""
    named: dict[str, list[str]] = {}
    for name, found in shown.items():
        seeds = sorted({seed for result in found.values() for seed in result.seeds})
        if len(seeds) < len(profile.seeds):
            named.setdefault(", ".join(map(str, seeds)), []).append(name)
    listed = (f"{', '.join(names)} (seed {seeds})" for seeds, names in named.items())
    return f"Fewer seeds: {'; '.join(listed)}." if named else ""


def _keys(found: Mapping[str, MethodResult]) -> set[str]:
    return {result.method for result in found.values()}


def _join(sentences: list[str]) -> str:
    return " ".join(sentence for sentence in sentences if sentence)

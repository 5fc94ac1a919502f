"""The table of identifiers: how well each scheme tells the items of a recipe apart, and what the vectors tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, TypeAlias

from gemsbench.errors import InputError
from gemsbench.profile import Profile
from gemsbench.report.captions import column_heading, columns_of, comparability
from gemsbench.report.marks import printed
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Table

Stats: TypeAlias = Mapping[str, Any]  # what stands in a stats.json
Cells: TypeAlias = tuple[Cell, ...]
CODES = ("Codes", "Distinct", "After policy", "Largest group", "Numbered", "Usage", "Perplexity")
TELLS = ("N@10", "Chance")
VECTORS = (
    ColumnGroup("Vectors", ("Known items",)),
    ColumnGroup("Recommendation", TELLS, "Rec."),
    ColumnGroup("Search", TELLS, "Search"),
)
NOTHING = Cell("")  # a scheme has no vectors of its own, an encoder no codes
LEARNED = ("quantised", "resolved")  # before a further level tells equal codes apart


def identifiers_table(
    profile: Profile,
    schemes: Mapping[str, Mapping[str, Stats]],
    encoders: Mapping[str, Mapping[str, Stats]],
) -> Table:
    """One block per recipe with a row per scheme, then a row per encoder.

    schemes: recipe -> scheme -> stats.json of its identifiers; encoders: recipe -> encoder -> stats.json of its
    vectors. Raises InputError, naming recipe and scheme or encoder, for statistics without the values that are shown.
    """
    labels = {recipe: column_heading(label, recipe) for label, recipe in columns_of(profile).items()}
    order = dict.fromkeys((*labels, *profile.recipes, *schemes, *encoders))
    width = sum(len(group.columns) for group in VECTORS)
    blocks = []
    for recipe in order:
        codes = [_row(recipe, name, stats, _code_cells) for name, stats in schemes.get(recipe, {}).items()]
        vectors = [_row(recipe, name, stats, _vector_cells) for name, stats in encoders.get(recipe, {}).items()]
        rows = (
            *(Row(name, (*cells, *[NOTHING] * width)) for name, cells in codes),
            *(Row(f"vectors: {name}", (*[NOTHING] * len(CODES), *cells)) for name, cells in vectors),
        )
        blocks += [Block(labels.get(recipe, recipe), rows)] if rows else []
    return Table(
        name="identifiers",
        title="Identifiers",
        caption=_caption(profile),
        stub=("Recipe", "Scheme or encoder"),
        groups=(ColumnGroup("Identifiers", CODES), *VECTORS),
        blocks=tuple(blocks),
        details={"profile": profile.profile, "comparable_with_paper": profile.comparable_with_paper},
    )


def _row(recipe: str, name: str, stats: Stats, cells: Callable[[Stats], Cells]) -> tuple[str, Cells]:
    try:
        return name, cells(stats)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"recipe '{recipe}', stats.json of '{name}': a value is missing or of another kind ({error!r}). Delete its "
            "folder and make it again."
        ) from error


def _code_cells(stats: Stats) -> Cells:
    appended = stats["appended"]
    learned = [stats["collisions"][stage] for stage in LEARNED if stage in stats["collisions"]]
    before = learned or [stats["collisions"]["final"]]
    levels = stats["levels"][: len(stats["levels"]) - bool(appended)]
    items = stats["n_items"]
    return (
        Cell(_sizes(stats["sizes"], bool(appended)), details={"sizes": list(stats["sizes"])}),
        _share(before[0]["distinct"] / items, before[0]),
        _share(before[1]["distinct"] / items, before[1]) if len(before) > 1 else NOTHING,
        _count(before[-1]["largest_group"]),
        _count(appended["items"] if appended else 0, {"appended": appended}),
        _share(fmean(level["usage"] for level in levels), {"levels": levels}),
        _share(fmean(level["perplexity_share"] for level in levels), {"levels": levels}),
    )


def _vector_cells(stats: Stats) -> Cells:
    known = _share(stats["known"] / stats["n_items"], {"known": stats["known"], "width": stats["width"]})
    told = ((stats.get("tells") or {}).get("rec"), stats.get("tells_src"))
    return (known, *(cell for found in told for cell in _told(found)))


def _told(found: Stats | None) -> tuple[Cell, Cell]:
    """NDCG@10 of one task, and that of lists in random order."""
    if not found:
        return NOTHING, NOTHING
    reached, chance, n = found["ndcg@10"], found["chance"], found["n"]
    return Cell(printed(reached), details={"value": reached, "n": n}), Cell(printed(chance), details={"value": chance})


def _sizes(sizes: list[int], appended: bool) -> str:
    """Codes per level, "3 x 256 + 7" for three levels of 256 and a further one of 7."""
    learned = sizes[: len(sizes) - appended]
    equal = len(set(learned)) == 1
    text = f"{len(learned)} x {learned[0]:,}" if equal else ", ".join(f"{size:,}" for size in learned)
    return f"{text} + {sizes[-1]:,}" if appended else text


def _share(value: float, details: Stats) -> Cell:
    """A share in percent; one that is not whole is never printed as 100 %."""
    text = f"{value:.1%}"
    return Cell("<100%" if value < 1 and text == "100.0%" else text, details={**details, "value": value})


def _count(value: int, details: Stats | None = None) -> Cell:
    return Cell(f"{value:,}", details={**(details or {}), "value": value})


def _caption(profile: Profile) -> str:
    sentences = (
        f"How the items of profile {profile.profile} are told apart, and what the vectors behind it tell; all numbers "
        "are of this profile's data.",
        "Codes: levels and codes per level; a number after + is the size of a further level that numbers items of "
        "equal codes.",
        "Distinct: different identifiers over items as first made; After policy: the same after a scheme's own way "
        "with equal codes, where it has one; Largest group: items that then still share one identifier; Numbered: "
        "items that only the further level tells apart.",
        "Usage: codes used over codes; Perplexity: exp(entropy) over codes, 100% where all are used equally often; "
        "both are means over levels without the further one.",
        "Vectors: Known items is the share of which the encoder knows anything; N@10 is the NDCG@10 of validation "
        "lists ordered by the cosine with the mean vector of the history's items (search: with the vector of the "
        "query); Chance is what lists in random order would have; empty where there is nothing to measure.",
        comparability(profile),
    )
    return " ".join(sentence for sentence in sentences if sentence)

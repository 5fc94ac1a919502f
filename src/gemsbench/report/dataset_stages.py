"""What each stage of a funnel was counted from, and what others published for it.

Loaders name their stages freely; here stands which of them are filters, and of what. A stage that is not listed is
printed with its count alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gemsbench.data.schema import SPLITS, TASKS
from gemsbench.report.published import read_published

# left: what a filter left of the stage; lost: what it took away; part: a part that is counted, while all stay
Relation: TypeAlias = Literal["left", "lost", "part"]


@dataclass(frozen=True)
class Origin:
    """The stage that another was counted from."""

    relation: Relation
    of: str


@dataclass(frozen=True)
class Published:
    """The number of a stage in the literature."""

    value: int
    source: str


def left(of: str) -> Origin:
    """What a filter left."""
    return Origin("left", of)


def lost(of: str) -> Origin:
    """What a filter took away."""
    return Origin("lost", of)


def part(of: str) -> Origin:
    """A part that is counted, while all stay."""
    return Origin("part", of)


_BOTH = "of items with text and users with both"
_AMAZON: Mapping[str, Origin] = {
    "malformed_review_lines": lost("review_lines"),
    "repeated_reviews": lost("review_lines"),
    "users": left("users_in_reviews"),
    "items": left("items_in_reviews"),
    "purchases": left("review_lines"),
    "malformed_metadata_lines": lost("metadata_lines"),
    "items_with_metadata": part("items"),
    "items_with_text": part("items"),
    "items_without_any_text": part("items"),
    "items_with_query": part("items"),
}
_QILIN: Mapping[str, Origin] = {
    "users with 3 requests in both tasks": left("users in requests"),
    "users in the 3-core": left("users with 3 requests in both tasks"),
    "recommendation requests in the 3-core": left("recommendation requests of these users"),
    "search requests in the 3-core": left("search requests of these users"),
    "notes in the 3-core": part("entries in the 3-core"),
    "users with an event": left("users in the 3-core"),
    "search events": left("search clicks"),
    "recommendation events": left("recommendation clicks"),
    "items": left("raw notes"),
    "items with a row in notes": part("items"),
    "items with text": part("items"),
    "users in examples": left("users in the 3-core"),
    "Table 4: users": left("users in the 3-core"),
    "released: test cases without a target": part("released: cases"),
    "released: cases with an empty history": part("released: cases"),
}
_GENSAR: Mapping[str, Origin] = {
    "searches": part("review_lines"),
    # Nothing is cut to a core here: metadata are read for every product of the reviews.
    **dict.fromkeys(
        (
            "items_with_metadata",
            "items_with_text",
            "items_without_any_text",
            "items_with_query",
            "items_with_short_text",
        ),
        part("items_in_reviews"),
    ),
    **{
        f"gensar: {task} events {stage}": left(f"gensar: {task} events {before}")
        for task in TASKS
        for stage, before in (("with both before", _BOTH), ("kept", "with both before"))
    },
    **{f"gensar: {task} {split}": part(f"gensar: {task} events kept") for task in TASKS for split in SPLITS},
    **{f"gensar: {task} users kept": left("gensar: users with both") for task in TASKS},
    f"gensar: rec events {_BOTH}": left("review_lines"),
    f"gensar: src events {_BOTH}": left("searches"),
    "gensar: users with both": left("users_in_reviews"),
    **{f"gems: {task} train examples": left(f"gems: {task} train examples before the subsample") for task in TASKS},
    **{
        f"gems: {task} test examples with the target in the history": part(f"gems: {task} test examples")
        for task in TASKS
    },
    "Table 4: users": left("users_in_reviews"),
}
_SMALL: Mapping[str, Origin] = {
    "5-core ratings": left("raw ratings"),
    "5-core purchases": left("first purchases"),
    "first purchases": left("raw transactions"),
    "5-core items without product row": part("5-core items"),
    "tags on rated films": left("raw tags"),
    "tags on other films (dropped)": lost("raw tags"),
    "dated assignments of known artists": left("raw tag assignments"),
    "listened (user, artist) kept": left("raw listened artists"),
    "tagged (user, artist) kept": left("tagged (user, artist)"),
    "items": left("raw artists"),
}
# Users and items of a 5-core have other names before it in each log.
_FILMS: Mapping[str, Origin] = {"5-core users": left("raw users"), "5-core items": left("raw films")}
_SHOP: Mapping[str, Origin] = {"5-core users": left("raw households"), "5-core items": left("raw products sold")}
_EVERY: Mapping[str, Origin] = {
    "canonical: searches without words dropped": lost("canonical: events read"),
    "canonical: further searches of a pair dropped": lost("canonical: events read"),
    "canonical: repeated (user, item, task, query) dropped": lost("canonical: events read"),
    "canonical: searches made from purchases": part("canonical: rec events"),
    "users with one behaviour only (removed)": lost("canonical: users"),
    "split: users with too few training events (never asked)": part("canonical: users"),
    "split: users without a held-out event": part("canonical: users"),
    "cases: too few events before them (dropped)": lost("cases: made"),
    "cases: training cases that were not drawn (dropped)": lost("cases: made"),
    "split: rec events kept": left("canonical: rec events"),
    "split: src events kept": left("canonical: src events"),
}
SMALL_LOADERS = (_SMALL, _FILMS, _SHOP)
LOADERS = (_AMAZON, _GENSAR, _QILIN, *SMALL_LOADERS, _EVERY)


def origin(stage: str, funnel: Sequence[str]) -> Origin | None:
    """How a stage relates to another one of its funnel; None where that is not known, or the other one is not in it."""
    known = (loader[stage] for loader in LOADERS if stage in loader)
    return next((relation for relation in known if relation.of in funnel), None)


def published_stages(recipe: str) -> dict[str, Published]:
    """Stage -> number, from results/published/data_stages.csv; empty for a recipe without any."""
    rows = read_published("data_stages").filter(recipe=recipe)
    return {row["stage"]: Published(row["value"], row["source"]) for row in rows.iter_rows(named=True)}

"""What the encyclopedia knows: the category trees of both simulated logs and the words that go with each topic.

Catalogue knowledge only: the trees are drawn as the logs draw them, but neither users, tastes, items nor events are
made or read. Years, weights, prices and what a subject's features and colours are said to be are invented here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gemsbench.data.item_text import clean_name
from gemsbench.data.queries import path_query
from gemsbench.data.simulation import wording
from gemsbench.data.simulation.encyclopedia_phrases import FILLERS, MEANINGS
from gemsbench.data.simulation.topic_tree import TopicTree, Vocabulary, make_tree
from gemsbench.data.simulation.wording import singular
from gemsbench.seeds import stream

ROOT = "Electronics"
Slots = Mapping[str, tuple[str, ...]]
BRANDS = tuple(start + end for start in wording.BRAND_STARTS for end in wording.BRAND_ENDS)
_GENERAL: Slots = {
    **FILLERS,
    "pitch": tuple(clean_name(text) for text in wording.OPENERS),
    "ending": tuple(clean_name(text) for text in wording.CLOSERS),
    "generic": wording.GENERIC_NAMES,
    "brand": BRANDS,
}
_OF_NOTES: Slots = {"opening": wording.NOTE_OPENERS, "ending": wording.NOTE_CLOSERS}


@dataclass(frozen=True)
class Subject:
    """What an article is about. kind: a key of PHRASES; slots: slot -> the values that it has for this subject."""

    kind: str
    title: str
    slots: Slots


def category_tree(topics: int, seed: int) -> TopicTree:
    """The tree of the purchase log of that seed and number of topics."""
    return make_tree(wording.DEPARTMENTS, wording.MODIFIERS, topics, stream(seed, "category tree"))


def theme_tree(topics: int, seed: int) -> TopicTree:
    """The tree of the note-sharing log of that seed and number of topics."""
    return make_tree(_themes(), wording.NOTE_MODIFIERS, topics, stream(seed, "theme tree"))


def _themes() -> Vocabulary:
    return {theme: (subjects, words) for theme, (_, subjects, words) in wording.THEMES.items()}


def subjects(topics: int, note_topics: int, seed: int) -> list[Subject]:
    """Every subject of the encyclopedia, always in the same order."""
    products, notes = category_tree(topics, seed), theme_tree(note_topics, seed)
    return [
        *_topics("topic", products, seed),
        *_topics("note", notes, seed),
        *_groups("group", wording.DEPARTMENTS, wording.MODIFIERS, seed),
        *_groups("subject", _themes(), wording.NOTE_MODIFIERS, seed),
        *_departments("department", wording.DEPARTMENTS),
        *_departments("theme", _themes()),
        *_words(wording.DEPARTMENTS, products),
        *_words(_themes(), notes),
        *_brands(seed),
        _shop(),
    ]


def _topics(kind: str, tree: TopicTree, seed: int) -> Iterator[Subject]:
    """Leaves of the tree; their words are those that the log writes into texts and queries."""
    of_group = tree.table.group_by("group", maintain_order=True).agg("leaf")
    leaves = dict(of_group.select("group", "leaf").rows())
    for department, group, leaf, modifier, product, words in tree.table.rows():
        others = tuple(other.lower() for other in leaves[group] if other != leaf)
        slots = {
            **_names(kind, leaf, f"{modifier} {product}"),
            "Title": (f"{modifier} {product}",),
            "modifier": (modifier.lower(),),
            "product": (product.lower(),),
            "group": (group.lower(),),
            "department": (department,),
            "word": tuple(words),
            "meaning": MEANINGS[modifier],
            "sibling": others or (group.lower(),),
            "query": (path_query([ROOT, department, group, leaf]),),
            **_inventions(kind, leaf, seed),
        }
        yield _subject(kind, leaf, slots)


def _groups(kind: str, vocabulary: Vocabulary, modifiers: Sequence[str], seed: int) -> Iterator[Subject]:
    for department, (groups, words) in vocabulary.items():
        for group in groups:
            slots = {
                **_names(kind, group, singular(group)),
                "group": (group.lower(),),
                "department": (department,),
                "word": words,
                "modifier": _lower(modifiers),
                "sibling": _lower(other for other in groups if other != group),
                "query": (path_query([ROOT, department, group]),),
                **_inventions(kind, group, seed),
            }
            yield _subject(kind, group, slots)


def _departments(kind: str, vocabulary: Vocabulary) -> Iterator[Subject]:
    for department, (groups, words) in vocabulary.items():
        others = tuple(other for other in vocabulary if other != department)
        slots = {"name": (department,), "group": _lower(groups), "word": words, "sibling": others}
        yield _subject(kind, department, slots)


def _words(vocabulary: Vocabulary, tree: TopicTree) -> Iterator[Subject]:
    """A word goes with the topics that have it, else with the groups of its department."""
    topics: dict[tuple[str, str], list[str]] = {}
    for department, leaf, words in tree.table.select("department", "leaf", "words").rows():
        for word in words:
            topics.setdefault((department, word), []).append(leaf)
    for department, (groups, words) in vocabulary.items():
        for word in words:
            slots = {
                "name": (word,),
                "department": (department,),
                "group": _lower(topics.get((department, word), groups)),
                "word": tuple(other for other in words if other != word),
            }
            yield _subject("word", word.capitalize(), slots)


def _brands(seed: int) -> Iterator[Subject]:
    groups = _lower(group for names, _ in wording.DEPARTMENTS.values() for group in names)
    words = tuple(word for _, words in wording.DEPARTMENTS.values() for word in words)
    for brand in BRANDS:
        rivals = stream(seed, "encyclopedia", "rivals", brand).choice(len(BRANDS) - 1, size=2, replace=False).tolist()
        others = [other for other in BRANDS if other != brand]
        slots = {
            "name": (brand,),
            "sibling": tuple(others[rival] for rival in rivals),
            "group": groups,
            "word": words,
            **_inventions("brand", brand, seed),
        }
        yield _subject("brand", brand, slots)


def _shop() -> Subject:
    """The words of a shop and of its two tasks, without which nobody could ask for anything."""
    products = [singular(group) for names, _ in wording.DEPARTMENTS.values() for group in names]
    slots = {
        "one": _lower(products),
        "a_one": tuple(f"a {product.lower()}" for product in products),
        "group": _lower(group for names, _ in wording.DEPARTMENTS.values() for group in names),
        "subject": _lower(group for names, _ in _themes().values() for group in names),
        "feature": wording.FEATURES,
        "colour": wording.COLOURS,
    }
    return _subject("term", "Recommendation and Search", slots)


def _subject(kind: str, title: str, slots: Slots) -> Subject:
    notes = _OF_NOTES if kind in ("note", "subject", "theme") else {}
    return Subject(kind, title, {**_GENERAL, **notes, **slots})


def _names(kind: str, plural: str, one: str) -> Slots:
    """Only products have a singular; notes are named in the plural throughout."""
    if kind in ("note", "subject"):
        return {"name": (plural.lower(),), "a_one": (plural.lower(),)}
    return {"name": (plural.lower(),), "one": (one.lower(),), "a_one": (f"a {one.lower()}",)}


def _inventions(kind: str, title: str, seed: int) -> Slots:
    """Facts drawn once per subject, so that every article about it states the same."""
    rng = stream(seed, "encyclopedia", "facts", kind, title)
    return {
        "feature": tuple(wording.FEATURES[place] for place in rng.choice(len(wording.FEATURES), 3, replace=False)),
        "colour": tuple(wording.COLOURS[place] for place in rng.choice(len(wording.COLOURS), 2, replace=False)),
        "year": (str(rng.integers(1_950, 2_014)),),
        "grams": (str(rng.integers(2, 200) * 10),),
        "price": (f"{rng.integers(5, 900)}.99",),
        "number": tuple(str(number) for number in rng.integers(100, 9_999, size=8)),
    }


def _lower(names: Sequence[str] | Iterator[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)

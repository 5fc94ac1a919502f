"""The encyclopedia of the simulated world as one text file: articles of a few sentences, each subject several times.

Article number n depends on the seed, the numbers of topics and n only, so a longer encyclopedia begins with a shorter
one. The facts of a subject are the same in all its articles; their choice, order and wording differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, cycle, islice

import numpy as np

from gemsbench.data.simulation.encyclopedia_facts import Slots, Subject, subjects
from gemsbench.data.simulation.encyclopedia_phrases import PHRASES, Statement
from gemsbench.seeds import stream

# Articles about each subject of a kind before the next edition begins; the topics are what items and queries are about.
COPIES = {
    "topic": 6, "note": 6, "group": 2, "subject": 2, "department": 4, "theme": 4, "word": 2, "brand": 1, "term": 12,
}  # fmt: skip
_SENTENCES = (6, 12)  # of an article: least, and the first number that is too many
_PARAGRAPH = 5  # sentences
_A_BEFORE_VOWEL = re.compile(r"\b([Aa])(?= (?!use|uni)[aeiou])", re.IGNORECASE)


def encyclopedia(words: int, topics: int, note_topics: int, seed: int) -> Iterator[str]:
    """Yield articles until they have that many white-space separated words together; the first line is the title."""
    known = subjects(topics, note_topics, seed)
    shelf = [subject for subject in known for _ in range(COPIES[subject.kind])]
    written = 0
    for edition in count():
        order = stream(seed, "encyclopedia", "edition", edition).permutation(len(shelf))
        for place, subject in enumerate(order.tolist()):
            article = _article(shelf[subject], stream(seed, "encyclopedia", "article", edition, place))
            yield article
            written += len(article.split())
            if written >= words:
                return


def _article(subject: Subject, rng: np.random.Generator) -> str:
    opening, *others = PHRASES[subject.kind]
    order = rng.permutation(len(others)).tolist()
    length = int(rng.integers(*_SENTENCES)) - 1
    statements = [opening, *(others[place] for place in islice(cycle(order), length))]
    first = rng.random(len(statements)).tolist()
    draw = _Draw(subject.slots, rng)
    # A statement made again has its next wording.
    wordings = {statement: cycle(_rotated(statement, u)) for statement, u in zip(statements, first, strict=True)}
    sentences = [_sentence(next(wordings[statement]).format_map(draw)) for statement in statements]
    paragraphs = (" ".join(sentences[start : start + _PARAGRAPH]) for start in range(0, len(sentences), _PARAGRAPH))
    return "\n".join([subject.title, *paragraphs])


def _rotated(statement: Statement, u: float) -> Statement:
    place = int(u * len(statement))
    return statement[place:] + statement[:place]


def _sentence(text: str) -> str:
    """With "an" where it belongs and a capital at the start."""
    text = _A_BEFORE_VOWEL.sub(r"\1n", text)
    return text[0].upper() + text[1:]


class _Draw(dict[str, str]):
    """A mapping for str.format_map that hands out the values of a slot in random order, again from the start after all.

    So the values of a slot within a sentence differ where there are enough of them.
    """

    def __init__(self, slots: Slots, rng: np.random.Generator) -> None:
        self._slots, self._rng = slots, rng
        self._values: dict[str, Iterator[str]] = {}

    def __missing__(self, slot: str) -> str:
        values = self._slots[slot]
        if len(values) == 1:
            return values[0]
        if slot not in self._values:
            self._values[slot] = cycle([values[place] for place in self._rng.permutation(len(values)).tolist()])
        return next(self._values[slot])

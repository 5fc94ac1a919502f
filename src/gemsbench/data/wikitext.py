"""wikitext-2: the validation and test parts of WikiText-2 (Merity et al., arXiv 1609.07843), one document per article.

The training part is not used: the smaller parts are enough for stand-ins. Rare words are "<unk>" in the source (6 % of
the words); a tokenizer would read that as its own special token, so a run of them becomes "...".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gemsbench.data.corpus import Corpus, read_text
from gemsbench.errors import InputError

TOKENS = {"valid.txt": 213_886, "test.txt": 241_211}  # white-space separated, of the raw files
GAP = "..."
# A title stands alone between blank lines; a formula in the text may look like one, but does not.
_TITLE = re.compile(r"(?<![^\n]) *\n = ([^=\n].*?) = \n(?= *\n)")
_EN_DASH = "\u2013"
_SECTION = re.compile(r"^(?:= )+(.*?)(?: =)+$")
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<unk>(?: <unk>)*", GAP),
        (r" @([-,.])@(?: |$)", r"\1"),
        (r'" ([^"]*?) "', r'"\1"'),
        (r" (?=(?:\.(?!\.)|[,;:!?%)\]])(?:[\s\")\],.;:]|$))", ""),  # not before GAP
        (r"(?<=[(\[$£€]) ", ""),
        (r" (?='(?:s|t|d|m|re|ve|ll)\b)", ""),
        (rf"(?<=\d) {_EN_DASH} (?=\d)", _EN_DASH),
    )
)


@dataclass(frozen=True)
class WikiTextSettings:
    """No switch: the counts of this corpus are pinned."""


def load(folder: Path, settings: WikiTextSettings) -> list[str]:
    """The articles of the validation part, then of the test part; raises InputError when a token count is not TOKENS.

    First line: the title; every other line: a paragraph, a list entry or the heading of a section.
    """
    documents = []
    for name, expected in TOKENS.items():
        text = read_text(folder / name)
        found = len(text.split())
        if found != expected:
            raise InputError(
                f"{folder / name}: {found:,} tokens, expected {expected:,}. Delete the file and fetch it again."
            )
        documents += articles(text)
    return documents


def articles(text: str) -> list[str]:
    """The articles of the raw text, its tokenisation undone; what stands before the first title is dropped."""
    _, *pieces = _TITLE.split(text)  # title, body, title, body ...
    return [_article(title, body) for title, body in zip(pieces[::2], pieces[1::2], strict=True)]


def _article(title: str, body: str) -> str:
    lines = (_SECTION.sub(r"\1", line.strip()) for line in [title, *body.split("\n")])
    return "\n".join(detokenised(line) for line in lines if line)


def detokenised(line: str) -> str:
    """One line as it would be printed: no gaps before marks, hyphens and decimal points closed, GAP for "<unk>"."""
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line


CORPUS = Corpus(
    name="wikitext-2",
    title="WikiText-2, validation and test parts",
    settings=WikiTextSettings,
    load=load,
    licence="CC BY-SA 3.0 (Wikipedia contributors)",
    citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843",
    sources=("wikitext-2",),
)

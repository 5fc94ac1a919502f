"""wikitext-2: hand-written articles, and the pinned counts of the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemsbench.data import wikitext
from gemsbench.data.fetch import fetch
from gemsbench.data.wikitext import CORPUS, TOKENS, WikiTextSettings, articles, detokenised, load
from gemsbench.errors import InputError

RAW = (
    ' \n = Homarus <unk> <unk> ( 2 @.@ 5 m ) = \n \n A lobster , the " <unk> " . \n = 1 <unk> / s = \n'
    " Its weight : 1 @,@ 200 g . \n \n = = Life = = \n \n Short . \n = = = Death = = = \n"
    " \n = x = \n Old . \n \n = Lenses = \n \n Two . \n"
)


def test_articles_begin_at_titles_that_stand_alone() -> None:
    assert articles(RAW) == [
        'Homarus ... (2.5 m)\nA lobster, the "...".\n1 ... / s\nIts weight: 1,200 g.\nLife\nShort.\nDeath\nx\nOld.',
        "Lenses\nTwo.",
    ]


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("a hard @-@ shelled male", "a hard-shelled male"),
        ("born in 1932 @,@", "born in 1932,"),
        ("the men 's team didn 't ( yet ) win", "the men's team didn't (yet) win"),
        ("of 5 \u2013 6 kg [ sic ] ; $ 3 , 50 %", "of 5\u20136 kg [sic]; $3, 50%"),
        ("the <unk> <unk> <unk> , a <unk> .", "the ..., a ...."),
        ('" One " and " two . "', '"One" and "two."'),
        ("Nothing to do.", "Nothing to do."),
    ],
)
def test_tokenisation_is_undone(line: str, printed: str) -> None:
    assert detokenised(line) == printed


def write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TOKENS:
        (folder / name).write_text(RAW)
    monkeypatch.setattr(wikitext, "TOKENS", dict.fromkeys(TOKENS, len(RAW.split())))
    return folder


def test_both_parts_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(write(tmp_path, monkeypatch), WikiTextSettings()) == articles(RAW) * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no text in it"), (b"= \xff =", "byte 2 is not UTF-8"), (b"one two three", "3 tokens, expected")],
)
def test_a_damaged_part_is_named(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write(tmp_path, monkeypatch) / "test.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"test\.txt: {message}"):
        load(tmp_path, WikiTextSettings())


def test_real_files_give_the_pinned_counts(mirror: Path, tmp_path: Path) -> None:
    folder = fetch(CORPUS, WikiTextSettings(), 1, tmp_path, quiet=True)
    documents = load(folder, WikiTextSettings())
    assert TOKENS == {"valid.txt": 213_886, "test.txt": 241_211}
    parts = [articles((folder / name).read_text(encoding="utf-8")) for name in TOKENS]
    assert [len(part) for part in parts] == [60, 60]
    assert documents == parts[0] + parts[1]
    text = "\n".join(documents)
    for mark in ("<unk>", r"@[-,.]@", r" [,;:](?!\S)", r"^ | $", r"\( | \)(?!\S)", r"^= .* =$"):
        assert not re.search(mark, text, flags=re.MULTILINE), mark
    lines = [line for name in TOKENS for line in (folder / name).read_text(encoding="utf-8").split("\n")]
    assert sum(len(document.split("\n")) for document in documents) == sum(bool(line.strip()) for line in lines)

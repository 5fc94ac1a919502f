"""Corpora: told apart from nonsense, fetched as recipes are, and read as UTF-8 or not at all."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data.corpus import Corpus, read_text
from gemsbench.data.fetch import fetch
from gemsbench.data.source import RawFile, Source
from gemsbench.errors import InputError

TEXT = "Caf\u00e9\nFirst line.\n".encode()


def corpus(**fields: Any) -> Corpus:
    return Corpus("test", "Test", object, lambda folder, settings: [read_text(folder / "a.txt")], "", "", **fields)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Corpus]:
    """A corpus whose source has the given content."""

    def of(content: bytes) -> Corpus:
        digest = hashlib.sha256(content).hexdigest()
        raw = RawFile("a.txt", digest, len(content), "http://127.0.0.1:9/a", mirror="there/a.txt.gz")
        source = Source("here", "Here", "", "", "", (raw,))
        monkeypatch.setattr("gemsbench.data.fetch.SOURCES", {"here": source})
        return corpus(sources=("here",))

    return of


def write(folder: Path, settings: Any, seed: int) -> None:
    (folder / "a.txt").write_text(f"{settings} {seed}")


def test_pinned_text_comes_from_the_mirror_and_is_checked(
    pinned: Callable[[bytes], Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror/there").mkdir(parents=True)
    (tmp_path / "mirror/there/a.txt.gz").write_bytes(gzip.compress(TEXT))
    folder = fetch(pinned(TEXT), None, 1, tmp_path, quiet=True)
    assert folder == tmp_path / "data/raw/here"
    assert pinned(TEXT).load(folder, None) == [TEXT.decode()]
    with pytest.raises(InputError, match=r"a\.txt: wrong content: sha256 is"):
        fetch(pinned(TEXT + b"more"), None, 1, tmp_path, quiet=True)


def test_simulated_text_is_written_anew(tmp_path: Path) -> None:
    simulated = corpus(simulate=write, simulated_files=("a.txt",))
    for settings, seed in (("one", 5), ("two", 6)):
        folder = fetch(simulated, settings, seed, tmp_path)
        assert folder == tmp_path / "data/simulated/test"
        assert simulated.load(folder, settings) == [f"{settings} {seed}"]


@pytest.mark.parametrize("fields", [{}, {"simulate": write, "sources": ("wikitext-2",)}], ids=["none", "both"])
def test_a_corpus_is_pinned_simulated_or_sampled(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="corpus 'test': give one of sources, simulate and sample"):
        corpus(**fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.txt: no such file\. Run the step"),
        (b"", r"a\.txt: no text in it"),
        (b" \n\t\n", r"a\.txt: no text in it"),
        (b"caf\xe9 noir", r"a\.txt: byte 3 is not UTF-8"),
        (TEXT[:4], r"a\.txt: byte 3 is not UTF-8"),
    ],
    ids=["missing", "empty", "blank", "latin-1", "cut inside a character"],
)
def test_unreadable_text_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "a.txt")

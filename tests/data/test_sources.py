"""The registry of raw files: consistent with itself, with what reads it, and with the .dvc files in the repository."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gemsbench import registry
from gemsbench.data.corpus import Corpus
from gemsbench.data.dvc_pins import pin_of, read_pin, write_pin
from gemsbench.data.recipe import Recipe
from gemsbench.data.source import RawFile, Source
from gemsbench.data.sources import SOURCES

TARGETS = (*registry.RECIPES.values(), *registry.CORPORA.values())
RAW = [raw for source in SOURCES.values() for raw in source.files]
FILES = [
    pytest.param(source, raw, id=f"{source.name}/{raw.name}") for source in SOURCES.values() for raw in source.files
]
WITH_FILES = [pytest.param(source, id=source.name) for source in SOURCES.values() if source.files]


def readers() -> list[Recipe | Corpus]:
    return [reader for target in TARGETS if (reader := registry.resolve(target)).sources]


def test_names_and_addresses_are_unique() -> None:
    assert all(name == source.name for name, source in SOURCES.items())
    for source in SOURCES.values():
        assert len({raw.name for raw in source.files}) == len(source.files)
    addresses = Counter(
        (url, raw.member) for source in SOURCES.values() for raw in source.files for url in raw.addresses
    )
    assert {address: count for address, count in addresses.items() if count > 1} == {}
    mirrors = Counter(raw.mirror for source in SOURCES.values() for raw in source.files)
    assert max(mirrors.values()) == 1 and "" not in mirrors


def test_every_source_is_read_and_every_source_read_is_there() -> None:
    assert {name for reader in readers() for name in reader.sources} == set(SOURCES)


def test_licence_and_citation_are_those_of_the_first_source() -> None:
    """Recipes repeat them, because a moved address must not make anything anew."""
    for reader in readers():
        source = SOURCES[reader.sources[0]]
        assert reader.licence == source.licence, reader.name
        assert reader.citation.startswith(source.citation), reader.name


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_a_source_says_what_a_reader_needs(source: Source) -> None:
    assert source.title and source.licence and source.citation
    assert source.homepage.startswith(("https://", "http://"))
    assert bool(source.files) != bool(source.hub)


@pytest.mark.parametrize(("source", "raw"), FILES)
def test_hashes_are_hashes_and_come_with_what_checks_them(source: Source, raw: RawFile) -> None:
    for digest, length in ((raw.sha256, 64), (raw.md5, 32)):
        assert not digest or (len(digest) == length and not set(digest) - set("0123456789abcdef"))
    assert bool(raw.sha256) == bool(raw.size), "a sha256 without a size, or a size without a sha256"
    assert all(url.startswith(("https://", "http://")) for url in raw.addresses)
    assert not raw.member or not raw.further, "members of one archive are fetched together, from its one address"


@pytest.mark.parametrize("source", WITH_FILES)
def test_pins_in_the_repository_are_the_registry(source: Source, repository: Path, tmp_path: Path) -> None:
    folder = repository / "data/raw" / source.name
    assert {path.name for path in folder.glob("*.dvc")} == {f"{raw.name}.dvc" for raw in source.files}
    ignored = (folder / ".gitignore").read_text().split()
    for raw in source.files:
        pin = read_pin(folder / raw.name)
        assert pin is not None and f"/{raw.name}" in ignored
        assert not raw.size or pin.size == raw.size
        assert not raw.md5 or pin.md5 == raw.md5
        assert pin.md5 or not raw.sha256
        written = yaml.safe_load(pin_of(folder / raw.name).read_text())
        if "deps" in written:  # nothing else stands in it than what is written here
            write_pin(tmp_path / raw.name, pin, raw.url)
            assert written == yaml.safe_load(pin_of(tmp_path / raw.name).read_text())


def test_large_files_are_pinned_with_their_address_and_no_bytes_are_in_git(repository: Path) -> None:
    for name in ("electronics-2014", "electronics-2018", "kindle-2014", "product-search-electronics"):
        for raw in SOURCES[name].files:
            written = yaml.safe_load(pin_of(repository / "data/raw" / name / raw.name).read_text())
            assert written["frozen"] is True and written["deps"][0]["path"] == raw.url


@pytest.mark.parametrize("raw", [raw for raw in RAW if raw.sha256 and not raw.unpacked], ids=lambda raw: raw.name)
def test_real_files_are_the_registered_ones(raw: RawFile, mirror: Path) -> None:
    path = mirror / raw.mirror
    if not path.is_file():
        pytest.skip("not in this mirror")
    content = path.read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (raw.sha256, raw.size)
    assert not raw.md5 or hashlib.md5(content, usedforsecurity=False).hexdigest() == raw.md5

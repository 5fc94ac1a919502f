"""What every registered identifier scheme must hold, whatever it does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.config import load_settings, settings_dict
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.index_file import read_index, write_index
from gemsbench.identifiers.making import make_identifiers
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.statistics import identifier_statistics
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256
from gemsbench.identifiers.vocabulary import token_strings

N, WIDTH, CLUSTERS = 120, 8, 6
UNKNOWN = (5, 17, 90)  # items without a vector
TWINS = ((3, 4), (40, 80))  # items of equal vectors
# Settings that keep the fit short; every scheme must also build its Config from nothing. The latent width of LETTER is
# that of its vectors of use.
QUANTISER: dict[str, Any] = {
    "hidden": [16],
    "latent": WIDTH,
    "levels": 2,
    "codebook_size": 16,
    "epochs": 15,
    "batch_size": 64,
}
SHORT: dict[str, dict[str, Any]] = {
    "rqvae": {"quantiser": QUANTISER},
    "letter": {"quantiser": QUANTISER, "groups": 4, "regroup_every": 5, "balance_iterations": 10},
    "sem": {"levels": 2, "codebook_size": 16},
}


@dataclass(frozen=True)
class Catalogue:
    """Items, and vectors of them under every encoder."""

    items: pl.DataFrame
    vectors: Mapping[str, ItemVectors]

    @property
    def n_items(self) -> int:
        return self.items.height

    def with_vectors(self, arrays: Mapping[str, np.ndarray], known: np.ndarray) -> Catalogue:
        """The same items with other vectors."""
        sha256 = catalogue_sha256(self.items)
        return Catalogue(self.items, {name: ItemVectors(name, sha256, array, known) for name, array in arrays.items()})

    def renumbered(self, order: np.ndarray) -> Catalogue:
        """Item order[i] + 1 becomes item i + 1, with all that belongs to it."""
        items = self.items.sort("item_id")[order.tolist()]
        moved = Catalogue(items.with_columns(item_id=pl.Series(range(1, N + 1), dtype=pl.Int32)), {})
        rows = np.concatenate([[0], order + 1])
        known = {name: vectors.known[rows] for name, vectors in self.vectors.items()}
        arrays = {name: vectors.vectors[rows] for name, vectors in self.vectors.items()}
        return moved.with_vectors(arrays, next(iter(known.values())))


def catalogue(n: int = N) -> Catalogue:
    """Items in clusters; encoders say different things of them, and nothing of a few."""
    rng = np.random.default_rng(1)
    raw_ids = [f"B{number:04d}" for number in range(n)]
    items = pl.DataFrame(
        {"item_id": range(1, n + 1), "raw_id": raw_ids, "text": [f"thing {raw_id}" for raw_id in raw_ids]},
        schema_overrides={"item_id": pl.Int32},
    )
    known = np.ones(n + 1, np.bool_)
    known[[0, *(item for item in UNKNOWN if item <= n)]] = False
    arrays = {}
    for encoder in sorted({name for entry in registry.SCHEMES.values() for name in entry.encoders}):
        centres = rng.normal(size=(CLUSTERS, WIDTH))
        array = centres[rng.integers(0, CLUSTERS, n + 1)] + 0.4 * rng.normal(size=(n + 1, WIDTH))
        for one, other in TWINS:
            array[min(other, n)] = array[min(one, n)]
        array[~known] = 0
        arrays[encoder] = array.astype(np.float32)
    return Catalogue(items, {}).with_vectors(arrays, known)


@dataclass(frozen=True)
class Contender:
    """A scheme with its short settings; folder is where its files are, if it reads any."""

    name: str
    folder: Path = Path()

    @property
    def entry(self) -> registry.SchemeEntry:
        return registry.SCHEMES[self.name]

    @property
    def values(self) -> dict[str, Any]:
        return {"index": str(self.folder / "Some.index.json")} if self.entry.files else SHORT.get(self.name, {})

    def make(self, given: Catalogue, folder: Path, seed: int = 1) -> Identifiers:
        """Identifiers from the vectors of the registry entry."""
        scheme = registry.resolve(self.entry.target)()
        config = load_settings(scheme.Config, self.values, "test")
        vectors = {encoder: given.vectors[encoder] for encoder in self.entry.encoders if encoder in given.vectors}
        made: Identifiers = scheme.make(config, given.items, vectors, seed, folder / "checkpoint")
        return made


SCHEMES = sorted(registry.SCHEMES)
LEARNED = [name for name in SCHEMES if registry.SCHEMES[name].encoders]


def written_index(folder: Path, given: Catalogue) -> None:
    """An index keyed by raw id in which some items share an identifier."""
    ranks = atomic_codes(given.items).codes[:, 0]
    codes = np.where(np.arange(len(ranks))[:, None] > 0, np.column_stack([ranks // 16, ranks % 16 // 2]), -1)
    rows = ItemCodes("made-up", codes.astype(np.int32), (8, 8))
    index, numbers = write_index(rows, given.items, folder, "Some")
    raw_ids = dict(enumerate(given.items.sort("item_id")["raw_id"]))
    text = index.read_text(encoding="utf-8")
    for number, raw_id in raw_ids.items():
        text = text.replace(f'"{number}":', f'"{raw_id}":')
    index.write_text(text, encoding="utf-8")
    numbers.unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the imported index is."""
    path: Path = tmp_path_factory.mktemp("index")
    written_index(path, catalogue())
    return path


@pytest.fixture(scope="module", params=SCHEMES)
def contender(request: pytest.FixtureRequest, folder: Path) -> Contender:
    """Every name of the registry."""
    return Contender(request.param, folder)


@pytest.fixture(scope="module", params=LEARNED)
def learned(request: pytest.FixtureRequest) -> Contender:
    """Every scheme that reads vectors."""
    return Contender(request.param)


@pytest.fixture(scope="module")
def given() -> Catalogue:
    """The catalogue of all tests."""
    return catalogue()


@pytest.fixture(scope="module")
def made(contender: Contender, given: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Identifiers:
    """The scheme's identifiers of the catalogue."""
    return contender.make(given, tmp_path_factory.mktemp("made"))


def assert_same(one: Identifiers, other: Identifiers) -> None:
    """Equal in every bit, what is recorded of the way there included."""
    np.testing.assert_array_equal(one.codes.codes, other.codes.codes)
    assert identifier_statistics(one) == identifier_statistics(other)
    assert one.record == other.record
    assert timeless(one.log) == timeless(other.log)


def timeless(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a log without what differs between runs."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log]


def test_config_has_defaults(contender: Contender) -> None:
    kind = registry.resolve(contender.entry.target).Config
    assert load_settings(kind, {}, "test") == kind()


def test_every_item_has_an_identifier_of_its_own(contender: Contender, made: Identifiers) -> None:
    codes = made.codes
    assert (codes.scheme, codes.n_items) == (contender.name, N)
    codes.require_injective()
    assert (codes.codes[1:] < codes.sizes).all()
    assert codes.fixed_length
    assert len(set(token_strings(codes))) == sum(codes.sizes)


def test_a_further_level_leaves_the_others_alone(made: Identifiers) -> None:
    before = made.resolved or made.quantised
    if before is not None:
        levels = len(before.sizes)
        np.testing.assert_array_equal(made.codes.codes[:, :levels], before.codes)
        assert made.codes.sizes[:levels] == before.sizes
        assert len(made.codes.sizes) <= levels + 1


def test_same_inputs_and_seed_give_the_same_bytes_whatever_the_row_order(
    contender: Contender, made: Identifiers, given: Catalogue, tmp_path: Path
) -> None:
    shuffled = replace(given, items=given.items.sample(fraction=1, shuffle=True, seed=4))
    again = contender.make(shuffled, tmp_path)
    assert_same(again, made)
    for name, identifiers in (("one", made), ("other", again)):
        identifiers.codes.save(tmp_path / name)
    for file in ("codes.parquet", "codes.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_identifiers_follow_items_that_are_numbered_anew(
    contender: Contender, made: Identifiers, given: Catalogue, tmp_path: Path
) -> None:
    order = np.random.default_rng(2).permutation(N)
    moved = contender.make(given.renumbered(order), tmp_path)
    np.testing.assert_array_equal(moved.codes.codes[1:], made.codes.codes[1:][order])
    assert identifier_statistics(moved) == identifier_statistics(made)
    assert moved.record == made.record
    assert timeless(moved.log) == timeless(made.log)


def test_inputs_are_left_as_they_were(contender: Contender, given: Catalogue, tmp_path: Path) -> None:
    own = catalogue()
    contender.make(own, tmp_path)
    assert own.items.equals(given.items)
    for name, vectors in given.vectors.items():
        np.testing.assert_array_equal(own.vectors[name].vectors, vectors.vectors)


def test_the_job_writes_codes_that_load_and_statistics_that_hide_nothing(
    contender: Contender, made: Identifiers, given: Catalogue, tmp_path: Path
) -> None:
    vectors = {encoder: given.vectors[encoder] for encoder in contender.entry.encoders}
    out = tmp_path / contender.name
    stats = make_identifiers(contender.entry.target, contender.values, given.items, vectors, 1, out, "test")
    np.testing.assert_array_equal(load_codes(out, N).codes, made.codes.codes)
    assert read_json(out / "stats.json") == stats
    assert stats == {**identifier_statistics(made), **made.record}
    assert identifier_statistics(made).keys().isdisjoint(made.record)  # else one would stand in the other's place
    assert sorted(path.name for path in out.iterdir()) == ["codes.json", "codes.parquet", "log.jsonl", "stats.json"]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    assert timeless(lines) == timeless(made.log)
    assert len(lines) == made.record.get("epochs", 0)  # a line per epoch of a training
    assert list(tmp_path.iterdir()) == [out]  # no checkpoint is left behind


def test_what_is_made_can_be_exported_and_read_back(made: Identifiers, given: Catalogue, tmp_path: Path) -> None:
    index, _ = write_index(made.codes, given.items, tmp_path, "Some")
    raw = read_index(index, given.items, sizes=made.codes.sizes)
    np.testing.assert_array_equal(raw.codes, made.codes.codes)


def test_items_of_equal_vectors_share_what_is_learned(learned: Contender, given: Catalogue, tmp_path: Path) -> None:
    quantised = learned.make(given, tmp_path).quantised
    assert quantised is not None
    for one, other in (*TWINS, UNKNOWN[:2], UNKNOWN[1:]):
        np.testing.assert_array_equal(quantised.codes[one], quantised.codes[other])
    distinct = len(np.unique(quantised.codes[1:], axis=0))
    assert distinct > 2 * CLUSTERS  # the vectors are told apart beyond their clusters


def test_equal_vectors_of_all_items_are_refused(learned: Contender, given: Catalogue, tmp_path: Path) -> None:
    known = np.arange(N + 1) > 0
    flat = known[:, None] * np.ones(WIDTH, np.float32)
    with pytest.raises(InputError, match=r"cannot fill a codebook|collapsed|distinct identifiers"):
        learned.make(given.with_vectors(dict.fromkeys(given.vectors, flat.astype(np.float32)), known), tmp_path)


def test_fewer_items_than_codes_are_refused(learned: Contender, tmp_path: Path) -> None:
    defaults = settings_dict(registry.resolve(learned.entry.target).Config())
    if "codebook_size" not in {**defaults, **defaults.get("quantiser", {})}:
        pytest.skip("codes of a fixed number, which no item has to fill")
    with pytest.raises(InputError, match="codebook_size"):
        learned.make(catalogue(12), tmp_path)


def test_vectors_that_are_missing_or_of_other_items_are_refused(
    learned: Contender, given: Catalogue, tmp_path: Path
) -> None:
    for encoder in learned.entry.encoders:
        others = {name: vectors for name, vectors in given.vectors.items() if name != encoder}
        with pytest.raises(InputError, match=encoder):
            learned.make(replace(given, vectors=others), tmp_path)
        fewer = {**given.vectors, encoder: catalogue(N - 1).vectors[encoder]}
        with pytest.raises(InputError, match=f"'{encoder}'.* {N - 1} items"):
            learned.make(replace(given, vectors=fewer), tmp_path)

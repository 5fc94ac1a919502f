"""What every registered method must hold, whatever it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.config import load_settings
from gemsbench.protocol.pack import TrainingData

# Settings that keep the fit short; every method must also build its Config from nothing.
SHORT: dict[str, dict[str, Any]] = {
    "ncf": {"epochs": 2, "batch_size": 256},
    "bsr": {"loop": {"epochs": 2, "batch_size": 64}},
    "sem-bsr": {"loop": {"epochs": 2, "batch_size": 64}},
    "tiger": {"loop": {"epochs": 2, "batch_size": 64}},
    "letter": {"loop": {"epochs": 2, "batch_size": 64}, "temperature": 0.9},
    "sasrec": {},
    "gems": {
        "loop": {"epochs": 2, "batch_size": 64},
        "tuners": {k: {"config": {"rank": 4, "update_gap": 3, "learning_rate": 3e-3}} for k in ("t5", "qwen2")},
    },
}
SAFE_SUFFIXES = {".json", ".jsonl", ".parquet", ".safetensors", ".jinja"}
IN_A_FRESH_PROCESS = """
import sys
import numpy as np
import polars as pl
from gemsbench.registry import METHODS, resolve
name, artefact, cases, out = sys.argv[1:]
from pathlib import Path
np.save(out, np.concatenate(list(resolve(METHODS[name].target)().score(Path(artefact), pl.read_parquet(cases)))))
"""


@dataclass(frozen=True)
class Contender:
    """A method, on one kind of backbone where it needs one."""

    name: str
    kind: str
    backbone: Path | None = None
    basis: Path | None = None  # of methods whose tuner needs one
    identifiers: Path | None = None  # of methods that write them

    @property
    def method(self) -> Any:
        """A new object of the method's class."""
        return registry.resolve(registry.METHODS[self.name].target)()

    def fit(self, data: TrainingData, out: Path, seed: int = 1) -> Path:
        """Fit on data into the folder out, which is returned."""
        settings = load_settings(self.method.Config, SHORT.get(self.name, {}), "test")
        made = {name: path for name in ("basis", "identifiers") if (path := getattr(self, name)) is not None}
        self.method.fit(settings, data, self.backbone, seed, out, **made)
        return out

    def scores(self, artefact: Path, cases: pl.DataFrame) -> list[np.ndarray]:
        """Scores of cases."""
        return list(self.method.score(artefact, cases))

    def assert_same(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Equal scores; products of matrices round differently with the batch that a language model sees."""
        if self.kind:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        else:
            np.testing.assert_array_equal(found, expected)


CONTENDERS = [
    Contender(name, kind)
    for name, entry in sorted(registry.METHODS.items())
    for kind in (("t5", "qwen2") if entry.backbones else ("",))
]

# Methods that write identifiers are all scored by the code of the first one, and a process of theirs takes ten seconds.
FRESH = [contender for contender in CONTENDERS if not contender.kind or contender.name == "bsr"]


@pytest.fixture(scope="module", params=CONTENDERS, ids=lambda contender: f"{contender.name}{contender.kind}")
def contender(
    request: pytest.FixtureRequest,
    backbones: Mapping[str, Path],
    bases: Mapping[str, Path],
    identifiers: Mapping[str, Path],
) -> Contender:
    """Every name of the registry, with a tiny backbone of each kind where it needs one."""
    wanted: Contender = request.param
    entry = registry.METHODS[wanted.name]
    written = identifiers["atomic" if entry.scheme == "atomic" else "semantic"] if entry.scheme else None
    basis = bases[wanted.kind] if entry.tuner == "gems" else None
    return replace(wanted, backbone=backbones.get(wanted.kind), basis=basis, identifiers=written)


@pytest.fixture(scope="module")
def artefact(contender: Contender, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The method fitted once on the small world."""
    return contender.fit(world.data, tmp_path_factory.mktemp(contender.name) / "model")


@pytest.fixture(scope="module")
def questions(contender: Contender, world: Any) -> pl.DataFrame:
    """The test questions of the method's tasks."""
    return world.questions(*registry.METHODS[contender.name].tasks)


def test_config_has_defaults(contender: Contender) -> None:
    kind = contender.method.Config
    assert load_settings(kind, {}, "test") == kind()


def test_one_finite_float32_per_candidate(contender: Contender, artefact: Path, questions: pl.DataFrame) -> None:
    scores = contender.scores(artefact, questions)
    assert [array.shape for array in scores] == [(len(items),) for items in questions["items"]]
    assert {array.dtype for array in scores} == {np.dtype(np.float32)}
    assert np.isfinite(np.concatenate(scores)).all()
    assert len(np.unique(np.concatenate(scores))) > 1  # says something


def test_scores_do_not_depend_on_the_order_of_candidates(
    contender: Contender, artefact: Path, questions: pl.DataFrame
) -> None:
    backwards = questions.with_columns(pl.col("items").list.reverse())
    for straight, reverse in zip(
        contender.scores(artefact, questions), contender.scores(artefact, backwards), strict=True
    ):
        contender.assert_same(straight, reverse[::-1])


def test_scores_do_not_depend_on_the_other_cases(
    contender: Contender, artefact: Path, questions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = dict(zip(questions["case_id"], contender.scores(artefact, questions), strict=True))
    some = questions.sample(7, shuffle=True, seed=3)
    alone = [contender.scores(artefact, some[row])[0] for row in range(some.height)]
    monkeypatch.setattr("gemsbench.methods.candidate_batches.PAIRS_PER_BATCH", 33)
    monkeypatch.setattr("gemsbench.methods.generative_scoring.CASES_PER_BATCH", 3)
    in_small_batches = contender.scores(artefact, some)
    for case_id, single, batched in zip(some["case_id"], alone, in_small_batches, strict=True):
        contender.assert_same(single, together[case_id])
        contender.assert_same(batched, together[case_id])


def test_no_cases_no_scores(contender: Contender, artefact: Path, questions: pl.DataFrame) -> None:
    assert contender.scores(artefact, questions.head(0)) == []


def test_same_inputs_and_seed_give_the_same_artefact_whatever_the_row_order(
    contender: Contender, artefact: Path, reordered: TrainingData, tmp_path: Path
) -> None:
    again = contender.fit(reordered, tmp_path / "again")
    files = (path.relative_to(artefact) for path in sorted(artefact.rglob("*")) if path.is_file())
    kept = [path for path in files if path.suffix != ".jsonl"]  # logs hold seconds
    assert kept
    for file in kept:
        assert (again / file).read_bytes() == (artefact / file).read_bytes(), file


def test_the_seed_matters_exactly_where_the_registry_says(
    contender: Contender, artefact: Path, world: Any, questions: pl.DataFrame, tmp_path: Path
) -> None:
    other = contender.scores(contender.fit(world.data, tmp_path / "other", seed=2), questions)
    same = np.array_equal(np.concatenate(other), np.concatenate(contender.scores(artefact, questions)))
    assert same is not registry.METHODS[contender.name].seeded


def test_artefact_holds_no_pickle(artefact: Path) -> None:
    files = [path for path in artefact.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.suffix in SAFE_SUFFIXES, path
        assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04")), path  # pickle, torch zip
    assert list(artefact.parent.iterdir()) == [artefact]  # no checkpoint or temporary file is left behind


@pytest.mark.parametrize("contender", FRESH, indirect=True, ids=lambda contender: f"{contender.name}{contender.kind}")
def test_a_fresh_process_scores_from_the_artefact_alone(
    contender: Contender,
    artefact: Path,
    questions: pl.DataFrame,
    tmp_path: Path,
    subprocess_environment: Callable[[], Any],
) -> None:
    questions.write_parquet(tmp_path / "cases.parquet")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, contender.name, str(artefact)]
    command += [str(tmp_path / "cases.parquet"), str(tmp_path / "scores.npy")]
    subprocess.run(command, check=True, env=subprocess_environment(), timeout=120)
    np.testing.assert_array_equal(
        np.load(tmp_path / "scores.npy"), np.concatenate(contender.scores(artefact, questions))
    )

"""What every registered method must hold, whatever it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.config import load_settings
from gemsbench.protocol.pack import TrainingData

# Settings that keep the fit short; every method must also build its Config from nothing.
SHORT: dict[str, dict[str, Any]] = {"ncf": {"epochs": 2, "batch_size": 256}}
SAFE_SUFFIXES = {".json", ".jsonl", ".parquet", ".safetensors"}
IN_A_FRESH_PROCESS = """
import sys
import numpy as np
import polars as pl
from gemsbench.registry import METHODS, resolve
name, artefact, cases, out = sys.argv[1:]
from pathlib import Path
np.save(out, np.concatenate(list(resolve(METHODS[name].target)().score(Path(artefact), pl.read_parquet(cases)))))
"""


def _method(name: str) -> Any:
    return registry.resolve(registry.METHODS[name].target)()


def _fit(name: str, data: TrainingData, out: Path, seed: int = 1) -> Path:
    method = _method(name)
    method.fit(load_settings(method.Config, SHORT.get(name, {}), "test"), data, None, seed, out)
    return out


def _scores(name: str, artefact: Path, cases: pl.DataFrame) -> list[np.ndarray]:
    return list(_method(name).score(artefact, cases))


@pytest.fixture(scope="module", params=sorted(registry.METHODS))
def name(request: pytest.FixtureRequest) -> str:
    """Every name of the registry."""
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def artefact(name: str, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The method fitted once on the small world."""
    return _fit(name, world.data, tmp_path_factory.mktemp(name) / "model")


@pytest.fixture(scope="module")
def questions(name: str, world: Any) -> pl.DataFrame:
    """The test questions of the method's tasks."""
    return world.questions(*registry.METHODS[name].tasks)


def test_config_has_defaults(name: str) -> None:
    kind = _method(name).Config
    assert load_settings(kind, {}, "test") == kind()


def test_one_finite_float32_per_candidate(name: str, artefact: Path, questions: pl.DataFrame) -> None:
    scores = _scores(name, artefact, questions)
    assert [array.shape for array in scores] == [(len(items),) for items in questions["items"]]
    assert {array.dtype for array in scores} == {np.dtype(np.float32)}
    assert np.isfinite(np.concatenate(scores)).all()
    assert len(np.unique(np.concatenate(scores))) > 1  # says something


def test_scores_do_not_depend_on_the_order_of_candidates(name: str, artefact: Path, questions: pl.DataFrame) -> None:
    backwards = questions.with_columns(pl.col("items").list.reverse())
    for straight, reverse in zip(_scores(name, artefact, questions), _scores(name, artefact, backwards), strict=True):
        np.testing.assert_array_equal(straight, reverse[::-1])


def test_scores_do_not_depend_on_the_other_cases(
    name: str, artefact: Path, questions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = dict(zip(questions["case_id"], _scores(name, artefact, questions), strict=True))
    some = questions.sample(7, shuffle=True, seed=3)
    alone = [_scores(name, artefact, some[row])[0] for row in range(some.height)]
    monkeypatch.setattr("gemsbench.methods.candidate_batches.PAIRS_PER_BATCH", 33)
    in_small_batches = _scores(name, artefact, some)
    for case_id, single, batched in zip(some["case_id"], alone, in_small_batches, strict=True):
        np.testing.assert_array_equal(single, together[case_id])
        np.testing.assert_array_equal(batched, together[case_id])


def test_no_cases_no_scores(name: str, artefact: Path, questions: pl.DataFrame) -> None:
    assert _scores(name, artefact, questions.head(0)) == []


def test_same_inputs_and_seed_give_the_same_artefact_whatever_the_row_order(
    name: str, artefact: Path, reordered: TrainingData, tmp_path: Path
) -> None:
    again = _fit(name, reordered, tmp_path / "again")
    kept = [path.name for path in sorted(artefact.iterdir()) if path.suffix != ".jsonl"]  # logs hold seconds
    assert kept
    for file in kept:
        assert (again / file).read_bytes() == (artefact / file).read_bytes(), file


def test_the_seed_matters_exactly_where_the_registry_says(
    name: str, artefact: Path, world: Any, questions: pl.DataFrame, tmp_path: Path
) -> None:
    other = _scores(name, _fit(name, world.data, tmp_path / "other", seed=2), questions)
    same = np.array_equal(np.concatenate(other), np.concatenate(_scores(name, artefact, questions)))
    assert same is not registry.METHODS[name].seeded


def test_artefact_holds_no_pickle(artefact: Path) -> None:
    files = [path for path in artefact.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.suffix in SAFE_SUFFIXES, path
        assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04")), path  # pickle, torch zip
    assert list(artefact.parent.iterdir()) == [artefact]  # no checkpoint or temporary file is left behind


def test_a_fresh_process_scores_from_the_artefact_alone(
    name: str, artefact: Path, questions: pl.DataFrame, tmp_path: Path, subprocess_environment: Callable[[], Any]
) -> None:
    questions.write_parquet(tmp_path / "cases.parquet")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, name, str(artefact)]
    command += [str(tmp_path / "cases.parquet"), str(tmp_path / "scores.npy")]
    subprocess.run(command, check=True, env=subprocess_environment(), timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), np.concatenate(_scores(name, artefact, questions)))

"""Fitting and scoring a run: the score file, its header, and scores or settings that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from gemsbench import __version__
from gemsbench.errors import InputError
from gemsbench.evaluation.scores import align, read_scores
from gemsbench.files import read_header, write_json
from gemsbench.methods.contract import NoSettings
from gemsbench.methods.run import checked_scores, fit_and_score, rescore
from gemsbench.profile import MethodSettings, Profile, Run, TableSettings
from gemsbench.protocol.pack import load_pack

HERE = __name__


class Recorder:
    """A method from outside the package: the score is the item id; fit notes what it was given."""

    Config: ClassVar[type] = NoSettings

    def fit(self, config: Any, data: Any, backbone: Path | None, seed: int, out: Path) -> None:
        """Note the splits that fit can see."""
        splits = sorted(set(data.cases["split"]) | set(data.events["split"]))
        write_json(out / "seen.json", {"splits": splits, "seed": seed, "backbone": str(backbone)})

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[np.ndarray]:
        """Item ids; refuses to answer when it can see a label."""
        if {"target_item", "positives", "split"} & set(cases.columns):
            raise AssertionError("labels are visible")
        for items in cases["items"]:
            yield items.to_numpy().astype(np.float32)


class Capped(Recorder):
    """Says in its diagnostics what ended its training."""

    def fit(self, config: Any, data: Any, backbone: Path | None, seed: int, out: Path) -> None:
        """Write diagnostics only."""
        write_json(out / "diagnostics.json", {"stopped": "epochs", "parameters": 1})


class Forgetful(Recorder):
    """Writes no artefact."""

    def fit(self, config: Any, data: Any, backbone: Path | None, seed: int, out: Path) -> None:
        """Do nothing."""


def _profile(methods: dict[str, MethodSettings]) -> Profile:
    return Profile(
        profile="test",
        seeds=(4,),
        history_length=5,
        recipes={"world": {}},
        methods=methods,
        tables=TableSettings(columns={"World": "world"}),
    )


def _run(method: str) -> Run:
    return Run("world", "none", method, 4)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this very module can be imported as a target."""
    import sys

    monkeypatch.setitem(sys.modules, "outside_methods", sys.modules[HERE])
    return "outside_methods"


@pytest.fixture(scope="module")
def pack_folder(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world as a prepared recipe."""
    return world.write_pack(tmp_path_factory.mktemp("pack"))


def test_score_file_of_both_tasks(pack_folder: Path, outside: str, tmp_path: Path) -> None:
    profile = _profile({"mine": MethodSettings(target=f"{outside}:Recorder")})
    path = fit_and_score("mine", profile, _run("mine"), pack_folder, tmp_path / "run", quiet=True)
    assert path == tmp_path / "run" / "scores.parquet"
    pack, scores = load_pack(pack_folder), read_scores(path)
    assert scores.header == {
        "method": "mine",
        "recipe": "world",
        "backbone": "none",
        "seed": 4,
        "profile": "test",
        "tasks": ["rec", "src"],
        "fingerprint": pack.fingerprint,
        "fitted_on": pack.fitted_on,
        "version": __version__,
    }
    candidates = pack.candidates("test")
    aligned = align(scores, candidates, pack.fingerprint)
    np.testing.assert_array_equal(aligned.flat, candidates["items"].explode().to_numpy())
    assert (tmp_path / "run" / "model" / "seen.json").is_file()
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()  # a method without a log of its own
    assert json.loads(line)["stage"] == "fit"


def test_what_ended_the_training_reaches_the_ranks(pack_folder: Path, outside: str, tmp_path: Path) -> None:
    from gemsbench.evaluation import evaluate, write_evaluation

    profile = _profile({"mine": MethodSettings(target=f"{outside}:Capped")})
    path = fit_and_score("mine", profile, _run("mine"), pack_folder, tmp_path, quiet=True)
    assert read_scores(path).header["stopped"] == "epochs"
    write_evaluation(evaluate(path, pack_folder), tmp_path)
    assert read_header(tmp_path / "ranks.parquet")["stopped"] == "epochs"


def test_fit_sees_nothing_of_the_test_split(pack_folder: Path, outside: str, tmp_path: Path) -> None:
    from gemsbench.files import read_json

    profile = _profile({"mine": MethodSettings(target=f"{outside}:Recorder")})
    fit_and_score("mine", profile, _run("mine"), pack_folder, tmp_path, backbone=Path("b"), quiet=True)
    assert read_json(tmp_path / "model" / "seen.json") == {"splits": ["train", "valid"], "seed": 4, "backbone": "b"}


def test_tasks_of_the_profile_narrow_the_file(pack_folder: Path, tmp_path: Path) -> None:
    profile = _profile({"random": MethodSettings(tasks=("src",))})
    path = fit_and_score("random", profile, _run("random"), pack_folder, tmp_path, quiet=True)
    asked = load_pack(pack_folder).questions("test", "src")
    assert read_scores(path).case_ids.tolist() == asked["case_id"].to_list()


def test_rescore_gives_the_same_file_and_the_log_moves_up(pack_folder: Path, tmp_path: Path) -> None:
    short = MethodSettings(config={"epochs": 1, "factors": 4})
    profile, run = _profile({"ncf": short}), _run("ncf")
    path = fit_and_score("ncf", profile, run, pack_folder, tmp_path, quiet=True)
    assert (tmp_path / "log.jsonl").is_file()
    assert not (tmp_path / "model" / "log.jsonl").exists()
    again = rescore("ncf", profile, run, pack_folder, tmp_path / "model", tmp_path / "again.parquet")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match=r"no saved model"):
        rescore("ncf", profile, run, pack_folder, tmp_path / "elsewhere", tmp_path / "again.parquet")


def test_variant_of_a_method_keeps_its_own_name(pack_folder: Path, tmp_path: Path) -> None:
    profile = _profile({"bm25+short": MethodSettings(base="bm25", config={"k1": 0.5})})
    path = fit_and_score("bm25+short", profile, _run("bm25+short"), pack_folder, tmp_path, quiet=True)
    assert read_scores(path).header["method"] == "bm25+short"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MethodSettings(base="ncf", config={"factor": 8}), r"methods: m: config: unknown key 'factor'.*'factors'"),
        (MethodSettings(base="ncf", config={"factors": "8"}), r"methods: m: config: factors: .*integer"),
        (MethodSettings(base="bm25", tasks=("rec",)), r"'m' answers none of the tasks"),
        (MethodSettings(target="gemsbench.methods.contract:NoSettings"), r"not a method: it has no Config, fit, score"),
        (MethodSettings(target="gemsbench.methods.absent:M"), r"cannot import 'gemsbench.methods.absent'"),
    ],
)
def test_wrong_settings_are_named(pack_folder: Path, tmp_path: Path, settings: MethodSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_and_score("m", _profile({"m": settings}), _run("m"), pack_folder, tmp_path, quiet=True)


def test_a_fit_without_artefact_is_refused(pack_folder: Path, outside: str, tmp_path: Path) -> None:
    profile = _profile({"mine": MethodSettings(target=f"{outside}:Forgetful")})
    with pytest.raises(InputError, match="without writing the folder"):
        fit_and_score("mine", profile, _run("mine"), pack_folder, tmp_path, quiet=True)


CASES = pl.DataFrame({"case_id": [31, 32], "items": [[1, 2, 3], [4, 5]]})
GOOD = [np.array([1, 2, 3], dtype=np.float32), np.array([1, -np.inf], dtype=np.float32)]


def test_checked_scores_lays_lists_end_to_end() -> None:
    flat, lengths = checked_scores(iter(GOOD), CASES, "m")
    assert flat.tolist() == [1, 2, 3, 1, -np.inf]
    assert flat.dtype == np.float32
    assert lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (GOOD[:1], "gave 1 score arrays for 2 cases"),
        ([*GOOD, GOOD[0]], "gave 3 score arrays for 2 cases"),
        ([GOOD[0], GOOD[1].astype(np.float64)], "case 32 are float64"),
        ([[1.0, 2.0, 3.0], GOOD[1]], "case 31 are list"),
        ([GOOD[0], GOOD[0]], r"case 32 has 2 candidates but scores of shape \(3,\)"),
        ([GOOD[0].reshape(1, 3), GOOD[1]], r"case 31 has 3 candidates but scores of shape \(1, 3\)"),
        ([GOOD[0], np.array([np.nan, 1], dtype=np.float32)], "NaN among the scores of case 32"),
        ([np.array([1, 1, np.nan], dtype=np.float32), GOOD[1]], "NaN among the scores of case 31"),
    ],
)
def test_scores_that_do_not_fit_are_named(scores: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_scores(scores, CASES, "m")

"""One encoder job: what it writes, what it refuses, and what an earlier kill leaves to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gemsbench import registry
from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.making import make_vectors
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.vectors import load_vectors
from gemsbench.protocol.pack import TrainingData


@dataclass(frozen=True)
class ToySettings:
    width: int = 4
    missing: int = 0  # rows left out
    diverged: bool = False
    stop: bool = False


class Toy:
    """Vectors drawn from the seed; leaves something in its checkpoint folder."""

    Config: ClassVar[type] = ToySettings

    def encode(self, config: ToySettings, data: TrainingData, seed: int, checkpoint: Path) -> Encoded:
        found = sorted(path.name for path in checkpoint.glob("*"))
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state").write_text("x")
        if config.stop:
            raise KeyboardInterrupt
        n = data.n_items + 1 - config.missing
        vectors = np.random.default_rng(seed).standard_normal((n, config.width)).astype(np.float32)
        vectors[0] = 0
        vectors[1, 0] = np.nan if config.diverged else 1.0
        known = np.arange(n) > 0
        return Encoded(vectors, known, {"found": found}, [{"stage": "toy", "n": n}])


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ENCODERS", {"toy": "toy:Toy"})
    monkeypatch.setattr(registry, "resolve", lambda target: {"toy:Toy": Toy}[target])


@pytest.fixture
def data(world: Any) -> TrainingData:
    """Training data of a small world."""
    found: TrainingData = world.data
    return found


def make(data: TrainingData, out: Path, seed: int = 1, **values: Any) -> Mapping[str, Any]:
    return make_vectors("toy", values, data, seed, out, "here: encoders.toy")


def test_vectors_statistics_and_log_are_written_and_the_checkpoint_goes(data: TrainingData, tmp_path: Path) -> None:
    stats = make(data, tmp_path / "toy")
    assert [path.name for path in sorted(tmp_path.rglob("*"), key=lambda path: path.name)] == [
        "log.jsonl",
        "stats.json",
        "toy",
        "vectors.safetensors",
    ]
    assert read_json(tmp_path / "toy/stats.json") == stats
    assert (stats["encoder"], stats["n_items"], stats["width"], stats["known"]) == (
        "toy",
        data.n_items,
        4,
        data.n_items,
    )
    assert stats["tells"]["rec"]["n"] > 0
    assert (tmp_path / "toy/log.jsonl").read_text() == f'{{"stage": "toy", "n": {data.n_items + 1}}}\n'
    assert load_vectors(tmp_path / "toy/vectors.safetensors", data.items).encoder == "toy"


def test_a_killed_job_goes_on_from_its_checkpoint(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(data, tmp_path / "toy", stop=True)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.checkpoint"]
    assert make(data, tmp_path / "toy")["found"] == ["state"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"missing": 2}, r"toy: gave \d+ vectors for \d+ items\. Give one per item"),
        ({"diverged": True}, r"1 items have NaN or inf in their vectors, e\.g\. item 1\. The encoder diverged"),
        ({"widht": 3}, r"here: encoders\.toy: unknown key 'widht'\. Did you mean 'width'"),
    ],
)
def test_wrong_vectors_and_settings_are_named_and_nothing_is_written(
    data: TrainingData, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(data, tmp_path / "toy", **values)
    assert not (tmp_path / "toy").exists()


def test_an_unknown_encoder_is_named(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown encoder 'tyo'\. Did you mean 'toy'"):
        make_vectors("tyo", {}, data, 1, tmp_path / "toy", "here")

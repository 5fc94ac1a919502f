"""The job that makes identifiers: what it writes, what it refuses of a scheme, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.making import make_identifiers
from gemsbench.identifiers.quantiser_training import CHECKPOINT
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.vectors import ItemVectors

N = 40
WHERE = "here.yaml: identifiers.toy.config"


@dataclass(frozen=True)
class ToySettings:
    missing: int = 0  # items left out
    repeated: bool = False
    refuses: str = ""
    stops: bool = False


class Toy:
    """Codes that are item ids; leaves something in its checkpoint folder."""

    Config: ClassVar[type] = ToySettings

    def make(
        self, config: ToySettings, items: pl.DataFrame, vectors: Mapping[str, ItemVectors], seed: int, checkpoint: Path
    ) -> Identifiers:
        found = sorted(path.name for path in checkpoint.glob("*"))
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state").write_text("x")
        if config.stops:
            raise KeyboardInterrupt
        if config.refuses:
            raise InputError(config.refuses)
        n = items.height - config.missing
        codes = np.arange(-1, n, dtype=np.int32)[:, None]
        codes[7] = codes[3] if config.repeated else codes[7]
        return Identifiers(ItemCodes("toy", codes, (n,)), record={"found": found}, log=[{"epoch": 1, "loss": 0.5}])


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, planting: SimpleNamespace, tmp_path: Path) -> Any:
    """Runs the job on 40 items, into the folder toy."""
    monkeypatch.setattr(registry, "resolve", lambda target: {"toy:Toy": Toy}[target])
    items = planting.items(N)
    return lambda **values: make_identifiers("toy:Toy", values, items, {}, 1, tmp_path / "toy", WHERE)


def test_codes_log_and_statistics_are_written_and_the_checkpoint_goes(make: Any, tmp_path: Path) -> None:
    stats = make()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]
    names = ["codes.json", "codes.parquet", "log.jsonl", "stats.json"]
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == names
    assert load_codes(tmp_path / "toy", N).sizes == (N,)
    assert read_json(tmp_path / "toy/stats.json") == stats
    assert (stats["scheme"], stats["n_items"], stats["found"]) == ("toy", N, [])
    assert (tmp_path / "toy/log.jsonl").read_text("utf-8") == '{"epoch": 1, "loss": 0.5}\n'


def test_a_killed_job_goes_on_from_its_checkpoint(make: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(stops=True)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.checkpoint"]
    assert make()["found"] == ["state"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"missing": 2}, r"identifiers for 38 items, the recipe has 40\. Give every item one"),
        ({"repeated": True}, r"identifiers 'toy': items 3 and 7 share the identifier .*further level"),
        ({"refuses": "quantiser: too few."}, r"quantiser: too few\.$"),
        ({"refuses": f"{WHERE}: said already."}, r"said already\.$"),
        ({"mising": 2}, r"unknown key 'mising'\. Did you mean 'missing'"),
    ],
)
def test_wrong_identifiers_and_settings_say_where_once_and_nothing_is_written(
    make: Any, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^here\.yaml: identifiers\.toy\.config: {message}"):
        make(**values)
    assert not (tmp_path / "toy").exists()


def test_a_training_leaves_no_checkpoint_and_its_log(planting: SimpleNamespace, tmp_path: Path) -> None:
    items = planting.items(200)
    vectors = {"item-text": planting.vectors("item-text", items, planting.planted(n=200)[0])}
    quantiser = {"hidden": [16], "latent": 8, "codebook_size": 8, "epochs": 3, "checkpoint_seconds": 0.0}
    target = registry.SCHEMES["rqvae"].target
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ItemCodes, "save", lambda *_: seen.append((tmp_path / "ids.checkpoint" / CHECKPOINT).is_file()))
        make_identifiers(target, {"quantiser": quantiser}, items, vectors, 1, tmp_path / "ids", WHERE)
    assert seen == [True]  # there was one until the codes were written
    assert [path.name for path in tmp_path.iterdir()] == ["ids"]
    lines = [json.loads(line) for line in (tmp_path / "ids/log.jsonl").read_text("utf-8").splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"loss", "used", "reseated", "seconds"} <= lines[0].keys()

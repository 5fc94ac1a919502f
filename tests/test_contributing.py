"""CONTRIBUTING's example of a new identifier scheme: one file and one line, as printed there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.files import read_json
from gemsbench.identifiers.codes import load_codes
from gemsbench.identifiers.making import make_identifiers
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE, LINE = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text("utf-8"), re.DOTALL)
N = 60


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.SchemeEntry:
    """The example as an importable module, and its line of the registry with that module in it."""
    (tmp_path / "hyperplanes_example.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hyperplanes_example", raising=False)
    printed = re.fullmatch(r'\s*"(\w+)": SchemeEntry\("([\w.]+):(\w+)", encoders=\("([\w-]+)",\)\),\s*', LINE)
    assert printed is not None
    name, module, attribute, encoder = printed.groups()
    assert name not in registry.SCHEMES and encoder in registry.ENCODERS
    assert module == f"gemsbench.identifiers.{name}"
    return registry.SchemeEntry(f"hyperplanes_example:{attribute}", (encoder,))


def _items() -> pl.DataFrame:
    number = np.arange(1, N + 1)
    return pl.DataFrame({"item_id": number.astype(np.int32), "raw_id": [f"i{n}" for n in number], "text": "x"})


def test_the_printed_scheme_makes_identifiers(entry: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((N + 1, 8)).astype(np.float32)
    rows[0] = 0
    rows[2] = rows[1]  # two items of one text share their codes until they are numbered
    known = np.arange(N + 1) > 0
    vectors = {"item-text": ItemVectors("item-text", catalogue_sha256(_items()), rows, known)}
    stats = make_identifiers(entry.target, {"levels": 2}, _items(), vectors, 7, tmp_path / "out", "test")
    codes = load_codes(tmp_path / "out", N)
    assert codes.sizes[:2] == (32, 32) and len(codes.sizes) == 3
    assert (codes.codes[1, :2] == codes.codes[2, :2]).all() and codes.codes[1, 2] != codes.codes[2, 2]
    assert stats == read_json(tmp_path / "out/stats.json") and stats["n_items"] == N

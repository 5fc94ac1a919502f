"""CONTRIBUTING's example of a new identifier scheme: one file and one line, as printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench import registry
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.codes import load_codes
from gemsbench.identifiers.making import make_identifiers
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256

ROOT = Path(__file__).parents[1]
FILE, LINE = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
PRINTED = re.fullmatch(r'\s*"(\w+)": SchemeEntry\("([\w.]+):(\w+)", encoders=\("([\w-]+)",\)\),\s*', LINE)
N = 60

# A plugin of pytest: the file lies among the schemes and its line stands in the registry.
REGISTERED = """
from pathlib import Path

import gemsbench.identifiers
from gemsbench.registry import SCHEMES, SchemeEntry

gemsbench.identifiers.__path__.append(str(Path(__file__).parent))
SCHEMES.update({{
{line}
}})
"""


def _printed() -> tuple[str, ...]:
    """Name, module, class and encoder of the printed line."""
    assert PRINTED is not None
    return PRINTED.groups()


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.SchemeEntry:
    """The example as an importable module, and its line of the registry with that module in it."""
    (tmp_path / "hyperplanes_example.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hyperplanes_example", raising=False)
    name, module, attribute, encoder = _printed()
    assert name not in registry.SCHEMES and encoder in registry.ENCODERS
    assert module == f"gemsbench.identifiers.{name}"
    return registry.SchemeEntry(f"hyperplanes_example:{attribute}", (encoder,))


def _items(n: int = N) -> pl.DataFrame:
    number = np.arange(1, n + 1)
    return pl.DataFrame({"item_id": number.astype(np.int32), "raw_id": [f"i{n}" for n in number], "text": "x"})


def _vectors(alike: bool = False, n: int = N) -> ItemVectors:
    """Vectors of items 1..n, of which the first two are equal; alike: all of them."""
    rows = np.random.default_rng(1).standard_normal((n + 1, 8)).astype(np.float32)
    rows[2:] = rows[1] if alike else rows[2:]
    rows[2] = rows[1]
    rows[0] = 0
    return ItemVectors("item-text", catalogue_sha256(_items(n)), rows, np.arange(n + 1) > 0)


@dataclass
class Example:
    """Makes identifiers of the items in a folder."""

    target: str
    folder: Path

    def make(self, name: str, items: pl.DataFrame, vectors: dict[str, ItemVectors]) -> Path:
        """Run the job; the folder it wrote."""
        out = self.folder / name
        make_identifiers(self.target, {"levels": 2}, items, vectors, 7, out, "test")
        return out


@pytest.fixture
def example(entry: registry.SchemeEntry, tmp_path: Path) -> Example:
    """The printed scheme."""
    return Example(entry.target, tmp_path)


def test_the_printed_scheme_makes_identifiers(example: Example) -> None:
    out = example.make("out", _items(), {"item-text": _vectors()})
    codes, stats = load_codes(out, N), read_json(out / "stats.json")
    assert codes.sizes[:2] == (32, 32) and len(codes.sizes) == 3
    # Two items of one text share their codes until they are numbered.
    assert (codes.codes[1, :2] == codes.codes[2, :2]).all() and codes.codes[1, 2] != codes.codes[2, 2]
    assert stats["n_items"] == N


def test_it_makes_the_same_bytes_twice_and_of_rows_in_any_order(example: Example) -> None:
    vectors = {"item-text": _vectors()}
    first = example.make("first", _items(), vectors)
    for name, items in (("again", _items()), ("moved", _items().sample(fraction=1, shuffle=True, seed=2))):
        other = example.make(name, items, vectors)
        for file in ("codes.parquet", "codes.json", "stats.json"):
            assert (first / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (dict, "needs the vectors of 'item-text'"),
        (lambda: {"item-text": _vectors(n=N - 1)}, "are of 59 items of other ids or texts than the 60"),
        (lambda: {"item-text": _vectors(alike=True)}, "60 items have 1 distinct identifiers"),
    ],
)
def test_it_refuses_what_it_cannot_learn_from(
    example: Example, vectors: Callable[[], dict[str, ItemVectors]], message: str
) -> None:
    with pytest.raises(InputError, match=f"^test: identifiers 'hyperplanes': .*{message}"):
        example.make("out", _items(), vectors())
    assert not (example.folder / "out").exists()


@pytest.fixture
def printed_file(tmp_path: Path) -> Path:
    """The example in a file of the name that its line gives it."""
    path = tmp_path / f"{_printed()[0]}.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def _run(*command: str, folder: Path | None = None) -> str:
    """What a Python module prints at the root of the repository, where its settings are; folder is importable."""
    environment = {**os.environ, **({"PYTHONPATH": str(folder)} if folder else {})}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_printed_file_is_as_lint_wants_it(printed_file: Path) -> None:
    settings = ("--no-cache", "--config", "pyproject.toml", str(printed_file))
    assert "All checks passed" in _run("ruff", "check", *settings)
    assert "1 file already formatted" in _run("ruff", "format", "--check", *settings)


@pytest.mark.slow
def test_the_printed_file_passes_mypy(printed_file: Path) -> None:
    """Silent on the files it imports: they have a run of their own."""
    printed = _run("mypy", "--strict", "--follow-imports", "silent", str(printed_file))
    assert "no issues found in 1 source file" in printed


@pytest.mark.slow
def test_the_contract_of_all_schemes_holds_for_it(printed_file: Path, tmp_path: Path) -> None:
    """The tests that CONTRIBUTING names, with the file and the line where they are to be put."""
    (tmp_path / "registered.py").write_text(REGISTERED.format(line=LINE), encoding="utf-8")
    contract = "tests/identifiers/test_scheme_contract.py"
    options = ("-p", "registered", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "runs"), "-k", _printed()[0])
    outcome = _run("pytest", *options, contract, folder=tmp_path).splitlines()[-1]
    assert int(re.findall(r"(\d+) passed", outcome)[0]) >= 11
    assert "1 skipped" in outcome  # it has no codebook that too few items could leave empty

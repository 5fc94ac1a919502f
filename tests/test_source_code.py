"""The static walk over imports that decides which jobs an edit concerns."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gemsbench.errors import InputError
from gemsbench.source_code import source_files, source_sha256

_numbers = itertools.count()
Package = Callable[..., tuple[str, Path]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Write an importable package from {file: text}; {P} in a text is the package's name."""

    def write(files: dict[str, str]) -> tuple[str, Path]:
        name = f"walked_{next(_numbers)}"
        root = tmp_path / name
        for file, text in {"__init__.py": "", **files}.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace("{P}", name), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        return name, root

    return write


def names(root: Path, *targets: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in source_files(*targets)}


@pytest.mark.parametrize(
    "line",
    [
        "import {P}.b",
        "import {P}.b as other",
        "from {P} import b",
        "from {P}.b import something",
        "from . import b",
        "from .b import something",
        "def f():\n    import {P}.b",
        "class A:\n    def f(self):\n        from .b import something",
        "try:\n    import {P}.b\nexcept ImportError:\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from . import b",
    ],
)
def test_an_import_is_followed_wherever_it_stands(package: Package, line: str) -> None:
    name, root = package({"a.py": line, "b.py": "", "unrelated.py": ""})
    assert names(root, f"{name}.a:Thing") == {"__init__.py", "a.py", "b.py"}


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_type_checkers_are_not_followed(package: Package, test: str) -> None:
    name, root = package({"a.py": f"import typing\nfrom typing import *\nif {test}:\n    from . import b", "b.py": ""})
    assert names(root, f"{name}.a") == {"__init__.py", "a.py"}


def test_every_parent_package_is_part_of_it_and_its_imports_too(package: Package) -> None:
    name, root = package({"sub/__init__.py": "from .inner import x", "sub/inner.py": "", "sub/leaf.py": ""})
    assert names(root, f"{name}.sub.leaf") == {"__init__.py", "sub/__init__.py", "sub/inner.py", "sub/leaf.py"}


def test_relative_imports_climb_and_circles_end(package: Package) -> None:
    name, root = package({"sub/__init__.py": "", "sub/a.py": "from ..b import x", "b.py": "from .sub import a"})
    assert names(root, f"{name}.sub.a") == {"__init__.py", "sub/__init__.py", "sub/a.py", "b.py"}


def test_other_packages_are_not_followed(package: Package) -> None:
    name, root = package({"a.py": "import json, numpy\nfrom gemsbench import errors"})
    assert names(root, f"{name}.a") == {"__init__.py", "a.py"}


def test_data_files_named_beside_the_module_belong_to_it(package: Package) -> None:
    text = "WORDS = 'words.txt'\nOTHER = 'absent.txt'\nFOLDER = 'pages'\nCODE = 'sub'"
    files = {"a.py": text, "words.txt": "", "unnamed.txt": "", "pages/one.html": "", "sub/x.py": "", "sub/y.txt": ""}
    name, root = package(files)
    assert names(root, f"{name}.a") == {"__init__.py", "a.py", "words.txt", "pages/one.html"}


def test_a_single_file_outside_any_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely_method.py").write_text("import json\nRESULTS, FLAG = 'results', 'flag'\n", encoding="utf-8")
    (tmp_path / "flag").touch()  # what lies beside a loose module need not belong to it
    (tmp_path / "results").mkdir()
    (tmp_path / "results/table.txt").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_files("lonely_method:Method") == (tmp_path / "lonely_method.py",)


def test_the_hash_follows_content_and_not_time(package: Package) -> None:
    name, root = package({"a.py": "from . import b", "b.py": "x = 1", "c.py": ""})
    before = source_sha256(f"{name}.a")
    (root / "c.py").write_text("y = 2", encoding="utf-8")
    (root / "b.py").write_text("x = 1", encoding="utf-8")
    assert source_sha256(f"{name}.a") == before
    (root / "b.py").write_text("x = 22", encoding="utf-8")
    assert source_sha256(f"{name}.a") != before
    assert source_sha256() == ""


def test_the_hash_does_not_depend_on_where_the_package_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gemsbench.source_code as module

    hashes = []
    for place in ("one", "two"):
        folder = tmp_path / place / "moved"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("x = 1\n", encoding="utf-8")
        monkeypatch.setattr(module, "_root_of_top", lambda top, folder=folder: folder)
        hashes.append(source_sha256("moved"))
    assert hashes[0] == hashes[1]


def test_the_hash_is_the_same_in_every_process_when_one_root_holds_another(tmp_path: Path) -> None:
    (tmp_path / "outer_method.py").write_text("x = 1\n", encoding="utf-8")
    inner = tmp_path / "src" / "inner_package"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("y = 1\n", encoding="utf-8")
    program = "from gemsbench.source_code import source_sha256 as h; print(h('outer_method', 'inner_package'))"
    hashes = set()
    for seed in range(6):  # the order of a set of paths differs between hash seeds
        paths = os.pathsep.join([str(tmp_path), str(tmp_path / "src"), *sys.path])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": str(seed)}
        hashes.add(subprocess.check_output([sys.executable, "-c", program], env=environment, text=True))
    assert len(hashes) == 1


def test_wrong_targets_and_broken_files_are_named(package: Package) -> None:
    name, _ = package({"broken.py": "def f(:\n"})
    with pytest.raises(InputError, match=f"{name}.absent"):
        source_files(f"{name}.absent:Thing")
    with pytest.raises(InputError, match="no_such_package_at_all"):
        source_files("no_such_package_at_all.module")
    with pytest.raises(InputError, match=r"broken\.py:1"):
        source_files(f"{name}.broken")


LAZY = """\
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from {P}.lazy.first import First
    from {P}.lazy.second import Second


def __getattr__(name):
    return getattr(importlib.import_module(f"{__name__}.{name.lower()}"), name)
"""


def test_a_name_that_a_package_looks_up_when_asked_leads_to_its_module(package: Package) -> None:
    files = {"a.py": "from {P}.lazy import First", "lazy/__init__.py": LAZY, "lazy/first.py": "", "lazy/second.py": ""}
    name, root = package(files)
    assert names(root, f"{name}.a") == {"__init__.py", "a.py", "lazy/__init__.py", "lazy/first.py"}
    (root / "lazy/__init__.py").write_text(LAZY.replace("{P}", name).partition("def ")[0])
    assert names(root, f"{name}.a") == {"__init__.py", "a.py", "lazy/__init__.py"}

"""The .dvc files: as dvc writes and reads them, clean after a fetch without a connection, served from a remote."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data import dvc_pins
from gemsbench.data.dvc_pins import Pin, pin_of, read_pin, write_pin
from gemsbench.data.fetch import fetch_source
from gemsbench.data.source import RawFile, Source
from gemsbench.errors import InputError

CONTENT = b"id,name\n" * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
DEAD = "http://127.0.0.1:9/a.csv"


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DVC repository without files."""
    pytest.importorskip("dvc")
    root = tmp_path / "repository"
    (root / "data/raw/test").mkdir(parents=True)
    dvc(root, "init", "--quiet", "--no-scm")
    dvc(root, "config", "core.analytics", "false")
    return root


def source_of(*files: RawFile) -> Source:
    return Source("test", "Test", "", "", "", files)


def get(root: Path, *files: RawFile) -> Path:
    return fetch_source(source_of(*files), root, quiet=True)


@pytest.mark.parametrize("pin", [Pin(), Pin(MD5), Pin(MD5, 8000)])
@pytest.mark.parametrize("url", ["", DEAD])
def test_a_pin_is_read_back(pin: Pin, url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert read_pin(path) is None
    write_pin(path, pin, url)
    assert read_pin(path) == pin
    assert (tmp_path / ".gitignore").read_text() == "/a.csv\n"


def test_git_is_told_once(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("/*.parquet\n")
    for name in ("a.parquet", "b.csv", "b.csv"):
        write_pin(tmp_path / name, Pin())
    assert (tmp_path / ".gitignore").read_text() == "/*.parquet\n/b.csv\n"


@pytest.mark.parametrize("content", ["outs: []", "outs:\n- md5: x\n  size: many", "just text", "a: [", "\ufeff\x00"])
def test_what_is_no_pin_is_refused(content: str, tmp_path: Path) -> None:
    pin_of(tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=r"a\.csv\.dvc: not a \.dvc file"):
        read_pin(tmp_path / "a.csv")


@pytest.mark.slow
def test_pins_are_those_of_import_url(server: Any, root: Path) -> None:
    """With the fields of dvc itself; its checksum of the address is one of the answer's ETag, which may be unknown."""
    import yaml

    server.files["/a.csv"] = CONTENT
    path = root / "data/raw/test/a.csv"
    dvc(root, "import-url", "--no-download", f"{server.url}/a.csv", "data/raw/test/a.csv")
    theirs = yaml.safe_load(pin_of(path).read_text())
    write_pin(path, Pin(), f"{server.url}/a.csv")
    ours = yaml.safe_load(pin_of(path).read_text())
    assert theirs["deps"][0].pop("size", len(CONTENT)) == len(CONTENT)
    theirs["deps"][0].pop("checksum", None)
    assert ours.pop("md5") and theirs.pop("md5")
    assert ours == theirs
    assert "changed checksum" not in dvc(root, "status")


@pytest.mark.slow
@pytest.mark.parametrize("published", [True, False])
def test_dvc_is_clean_after_a_fetch_and_asks_no_address(
    published: bool, server: Any, root: Path, tmp_path: Path
) -> None:
    server.files["/a.csv"] = CONTENT
    path = root / "data/raw/test/a.csv"
    write_pin(path, Pin(MD5, len(CONTENT)) if published else Pin(), DEAD)
    raw = RawFile("a.csv", "", 0, f"{server.url}/a.csv", md5=MD5 if published else "")
    get(root, raw)
    assert len(server.requests) == 1
    assert "up to date" in dvc(root, "status", "data/raw/test/a.csv.dvc")
    assert read_pin(path) == Pin(MD5, len(CONTENT))

    path.unlink()
    get(root, raw)
    assert len(server.requests) == 1 and path.read_bytes() == CONTENT, "from DVC's cache"

    dvc(root, "remote", "add", "--quiet", "--local", "--default", "store", str(tmp_path / "remote"))
    dvc(root, "push", "--quiet")
    path.unlink()
    (root / ".dvc/cache").rename(tmp_path / "cache")
    get(root, raw)
    assert len(server.requests) == 1 and path.read_bytes() == CONTENT, "from the remote"
    assert "up to date" in dvc(root, "status")


@pytest.mark.slow
def test_pins_of_small_files_stay_as_they_are(server: Any, root: Path) -> None:
    server.files["/a.csv"] = CONTENT
    pin = f"outs:\n- md5: {MD5}\n  size: {len(CONTENT)}\n  hash: md5\n  path: a.csv\n"
    path = root / "data/raw/test/a.csv"
    pin_of(path).write_text(pin)
    get(root, RawFile("a.csv", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), f"{server.url}/a.csv"))
    assert "up to date" in dvc(root, "status")
    assert pin_of(path).read_text() == pin


@pytest.mark.slow
def test_pins_without_bytes_stand_in_nobodys_way(server: Any, root: Path, tmp_path: Path) -> None:
    """Results are pulled by name while the files of other pins are nowhere, and no address is asked."""
    server.files |= {"/known.gz": CONTENT, "/unknown.gz": CONTENT}
    write_pin(root / "data/raw/test/known.gz", Pin(MD5, 8000), f"{server.url}/known.gz")
    write_pin(root / "data/raw/test/unknown.gz", Pin(), f"{server.url}/unknown.gz")
    (root / "dvc.yaml").write_text("stages:\n  prepare:\n    cmd: echo 1 > prepared\n    outs:\n    - prepared\n")
    dvc(root, "repro", "--quiet")
    assert dvc(root, "status", "prepare").strip() == "Data and pipelines are up to date."
    assert "changed checksum" not in dvc(root, "status")
    dvc(root, "remote", "add", "--quiet", "--local", "--default", "store", str(tmp_path / "remote"))
    dvc(root, "push", "--quiet", "prepare")
    (root / "prepared").unlink()
    (root / ".dvc/cache").rename(tmp_path / "cache")
    dvc(root, "pull", "prepare")
    assert (root / "prepared").read_text() == "1\n"
    assert "changed" not in dvc(root, "repro")
    # Asked for by a fetch, a remote that lacks the file is no error, and DVC does not go to the address by itself.
    path = root / "data/raw/test/known.gz"
    assert "failed to pull" in dvc_pins.pull(root, [path]) and not path.exists()
    assert dvc_pins.pull(root, [path.with_name("unknown.gz")]) == ""
    assert server.requests == []


@pytest.mark.slow
def test_a_hash_that_has_changed_wins_over_what_dvc_keeps(server: Any, root: Path, capsys: Any) -> None:
    """As after a new listing of a hub: DVC's cache would restore the old file by the old pin again and again."""
    other = CONTENT[::-1]
    server.files |= {"/a.csv": CONTENT, "/new.csv": other}
    old, new = (
        RawFile("a.csv", hashlib.sha256(content).hexdigest(), len(content), f"{server.url}/{name}")
        for content, name in ((CONTENT, "a.csv"), (other, "new.csv"))
    )
    path = get(root, old) / "a.csv"
    assert read_pin(path) == Pin(MD5, len(CONTENT))
    path.unlink()
    get(root, new)
    assert path.read_bytes() == other
    assert "DVC keeps another file" in capsys.readouterr().err
    assert read_pin(path) == Pin(hashlib.md5(other, usedforsecurity=False).hexdigest(), len(other))
    path.unlink()
    server.requests.clear()
    get(root, new)
    assert path.read_bytes() == other and server.requests == []

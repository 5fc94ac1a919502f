"""A disk that is full: said as such wherever it happens, and nothing that has come is lost."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data import fetch as fetch_module
from gemsbench.data.download import FullDiskError
from gemsbench.data.fetch import fetch_source
from gemsbench.data.source import RawFile, Source
from gemsbench.errors import InputError

CONTENT = b"id,name\n" + bytes(range(256)) * 4000


def raw(name: str, content: bytes, url: str, member: str = "", mirror: str = "") -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), url, member, mirror)


@pytest.fixture
def source(server: Any) -> Source:
    server.files["/a.csv"] = CONTENT
    file = raw("a.csv", CONTENT, f"{server.url}/a.csv", mirror="there/a.csv.gz")
    return Source("test", "Test", "", "", "", (file,))


@pytest.fixture
def zipped(server: Any) -> Source:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in {"a": b"A" * 5000, "b": CONTENT}.items():
            opened.writestr(f"in/{name}", content)
    server.files["/all.zip"] = buffer.getvalue()
    url = f"{server.url}/all.zip"
    return Source("test", "Test", "", "", "", (raw("a", b"A" * 5000, url, "in/a"), raw("b", CONTENT, url, "in/b")))


def get(source: Source, root: Path) -> Path:
    return fetch_source(source, root, quiet=True)


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "data/raw/test").iterdir())


def test_a_full_disk(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: object) -> None:
            self.handle.close()

        def write(self, chunk: bytes) -> int:
            if self.handle.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.handle.write(chunk))

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        handle = real(path, mode, *args, **kwargs)
        return Full(handle) if path.suffix == ".part" else handle

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(InputError, match=r"the disk is full.* bytes are kept in .*a\.csv\.download\.part"):
        get(source, tmp_path)
    assert left(tmp_path) == ["a.csv.download.part"]
    monkeypatch.setattr(Path, "open", real)
    assert (get(source, tmp_path) / "a.csv").read_bytes() == CONTENT


class Room:
    """A disk that is full once `free` bytes have been copied with shutil.copyfileobj."""

    def __init__(self, free: int) -> None:
        self.free = free

    def copy(self, source: Any, out: Any) -> None:
        out.write(source.read(self.free))
        if source.read(1):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_while_unpacking_keeps_the_download(
    zipped: Source, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fetch_module.shutil, "copyfileobj", Room(6_000).copy)
        with pytest.raises(
            FullDiskError, match=r"test/b: the disk is full\. Free space.* bytes are kept in .*\.part"
        ) as told:
            get(zipped, tmp_path)
    assert "Without a connection" not in str(told.value)
    assert left(tmp_path) == ["a", "all.zip.download.part"]
    server.requests.clear()
    server.limit = 0
    get(zipped, tmp_path)
    size = len(server.files["/all.zip"])
    assert server.requests == [("/all.zip", f"bytes={size}-")], "nothing is downloaded again"
    assert left(tmp_path) == ["a", "b"]


def test_a_disk_that_is_full_while_copying_from_the_mirror(
    source: Source, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a.csv.gz").write_bytes(gzip.compress(CONTENT))
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(fetch_module.shutil, "copyfileobj", Room(6_000).copy)
        with pytest.raises(InputError, match=r"a\.csv: the disk is full\. Nothing was written\. Free space"):
            get(source, tmp_path)
    assert left(tmp_path) == []
    get(source, tmp_path)
    assert left(tmp_path) == ["a.csv"] and server.requests == []

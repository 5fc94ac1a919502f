"""Downloads over several addresses: continued, refused before anything is stored, and never a mixture unnoticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data import download as download_module
from gemsbench.data.download import FullDiskError, download
from gemsbench.errors import InputError

CONTENT = bytes(range(256)) * 8000  # 2,048,000 bytes
OTHER = CONTENT[::-1] + b"of another length"


@pytest.fixture
def get(server: Any, tmp_path: Path) -> Callable[..., bytes]:
    """download() into tmp_path from paths of the server, or whole addresses; what arrived must be CONTENT."""

    def run(*paths: str, size: int = len(CONTENT)) -> bytes:
        target = tmp_path / "a"

        def accept(url: str) -> None:
            if target.read_bytes() != CONTENT:
                raise InputError(f"{url}: wrong content.")

        download(
            [path if path.startswith("http") else server.url + path for path in paths],
            target,
            accept=accept,
            size=size,
            by_hand="By hand.",
            quiet=True,
        )
        return target.read_bytes()

    return run


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_the_next_address_is_asked(size: int, get: Callable[..., bytes], server: Any, tmp_path: Path) -> None:
    server.files |= {"/page": b"<html>Moved</html>", "/wrong": CONTENT[:-1] + b"!", "/good": CONTENT, "/never": CONTENT}
    other_host = server.url.replace("127.0.0.1", "localhost")
    assert get("/gone", "/page", "/wrong", "/never", f"{other_host}/good", "/never", size=size) == CONTENT
    assert server.requests == [(path, None) for path in ("/gone", "/page", "/wrong", "/good")]
    assert left(tmp_path) == ["a"]


def test_after_wrong_content_the_host_is_not_asked_again(
    get: Callable[..., bytes], server: Any, tmp_path: Path
) -> None:
    """Under another scheme or path it would send the same gigabytes."""
    server.files |= {"/wrong": CONTENT[:-1] + b"!", "/again": CONTENT[:-1] + b"!"}
    with pytest.raises(InputError, match=r"^http://127.*/wrong: wrong content\. By hand\.$"):
        get("/wrong", "/again", f"{server.url.replace('http', 'https')}/again")
    assert server.requests == [("/wrong", None)] and left(tmp_path) == []


@pytest.mark.parametrize("size", [len(CONTENT), 0])
@pytest.mark.parametrize("shift", [1, 1_000])
def test_what_begins_elsewhere_than_asked_is_not_appended(
    shift: int, size: int, get: Callable[..., bytes], server: Any, tmp_path: Path
) -> None:
    server.files["/a"], server.shift = CONTENT, shift
    (tmp_path / "a.part").write_bytes(CONTENT[:1_000])
    assert get("/a", size=size) == CONTENT
    assert server.requests == [("/a", "bytes=1000-"), ("/a", None)]


def test_every_address_is_named_when_none_helps(get: Callable[..., bytes], server: Any, tmp_path: Path) -> None:
    server.files |= {"/page": b"<html>Moved</html>", "/short": CONTENT[:12_345], "/wrong": CONTENT[:-1] + b"!"}
    with pytest.raises(InputError) as caught:
        get("/gone", "/page", "/short", "/wrong")
    said = str(caught.value)
    assert said.startswith(
        f"None of the 4 addresses gave the file. {server.url}/gone: the server answered 404 Not Found."
    )
    assert f"{server.url}/page: a web page came instead of the file" in said
    assert f"{server.url}/short: expected 2,048,000 bytes, the server offers 12,345." in said
    assert f"{server.url}/wrong: wrong content." in said and said.endswith(" By hand.")
    assert left(tmp_path) == []


def test_another_size_is_refused_before_anything_is_stored(
    get: Callable[..., bytes], server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(*_: Any) -> int:
        raise AssertionError("stored")

    monkeypatch.setattr(download_module, "_store", store)
    server.files["/long"] = CONTENT + b"."
    with pytest.raises(InputError, match=r"/long: expected 2,048,000 bytes, the server offers 2,048,001\."):
        get("/long")
    assert left(tmp_path) == []


def test_a_part_is_continued_at_another_address_of_the_same_size(get: Callable[..., bytes], server: Any) -> None:
    server.files |= {"/one": CONTENT, "/short": CONTENT[:1_500_000], "/two": CONTENT}
    server.limit = 200_000
    with pytest.raises(
        InputError, match=r"cut off after 800000 of 2048000 bytes \(4 attempts\)\. 800000 bytes are kept"
    ):
        get("/one")
    server.limit = None
    server.requests.clear()
    assert get("/gone", "/short", "/two") == CONTENT
    assert server.requests == [(path, "bytes=800000-") for path in ("/gone", "/short", "/two")]


def test_without_a_known_size_a_part_is_not_continued_by_a_file_of_another_size(
    get: Callable[..., bytes], server: Any
) -> None:
    server.files |= {"/one": OTHER, "/two": CONTENT}
    server.limit = 1_500_000  # twice that is more than the files, so that /two is whole after one cut
    server.statuses = []
    asked = server.answer

    def answer(request: Any) -> None:
        if request.path == "/one" and request.headers.get("Range"):
            server.statuses.append(500)
        asked(request)

    server.answer = answer
    assert get("/one", "/two", size=0) == CONTENT
    wanted = [wanted for path, wanted in server.requests if path == "/two"]
    assert wanted == ["bytes=1500000-", None, "bytes=1500000-"]


def test_attempts_that_bring_much_do_not_count(
    get: Callable[..., bytes], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"] = CONTENT
    server.limit = 100_000  # 21 answers
    monkeypatch.setattr(download_module, "PROGRESS", 100_000)
    assert get("/a") == CONTENT
    monkeypatch.setattr(download_module, "PROGRESS", 100_001)
    with pytest.raises(InputError, match="cut off after 400000 of 2048000 bytes"):
        get("/a")


def test_a_part_that_is_whole_needs_no_connection(get: Callable[..., bytes], server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert get("/a") == CONTENT
    assert server.requests == [] and left(tmp_path) == ["a"]


def test_a_web_page_leaves_the_part_alone(get: Callable[..., bytes], server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    server.files["/a"] = b"<html>Please sign in</html>" * 100
    server.types["/a"] = "text/html"
    with pytest.raises(InputError, match=r"a web page came.*1000 bytes are kept in"):
        get("/a")
    server.files["/a"], server.types["/a"] = CONTENT, "application/gzip"
    assert get("/a") == CONTENT
    assert server.requests[-1] == ("/a", "bytes=1000-")


@pytest.mark.parametrize("have", [0, 48_000])
def test_room_is_looked_for_before_the_download(
    have: int, get: Callable[..., bytes], server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"/a": CONTENT, "/b": CONTENT}
    if have:
        (tmp_path / "a.part").write_bytes(CONTENT[:have])
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=2_048_000 - have - 1))
    message = rf"a\.part: {2_048_000 - have:,} bytes are still to come, and {2_048_000 - have - 1:,} are free"
    with pytest.raises(FullDiskError, match=message):
        get("/a", "/b")
    assert len(server.requests) == 1, "no other address helps"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=2_048_000 - have))
    assert get("/a", "/b") == CONTENT

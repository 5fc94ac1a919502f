"""Fetching: each source in its turn, each way of going wrong with its own message and nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data import download as download_module
from gemsbench.data.fetch import fetch
from gemsbench.data.recipe import RawFile, Recipe
from gemsbench.errors import InputError

CONTENT = b"id,name\n" + bytes(range(256)) * 4000


@dataclass
class Served:
    """A local server with the Range requests of the real ones; `limit` cuts every answer off."""

    files: dict[str, bytes]
    types: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # answered first, one per request
    limit: int | None = None
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        body = self.files.get(request.path)
        if self.statuses or body is None:
            request.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start and start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Type", self.types.get(request.path, "application/octet-stream"))
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start:][: self.limit])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(download_module, "BACKOFF_S", 0.0)
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Served({})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    http.shutdown()
    thread.join()
    http.server_close()


@dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


def raw(name: str, content: bytes, url: str, member: str = "", mirror: str = "") -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), url, member, mirror)


BuildRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(server: Served, build_recipe: BuildRecipe) -> Recipe:
    server.files["/a.csv"] = CONTENT
    return build_recipe(raw_files=(raw("a.csv", CONTENT, f"{server.url}/a.csv", mirror="there/a.csv.gz"),))


def get(recipe: Recipe, root: Path, settings: Any = None) -> Path:
    return fetch(recipe, settings, 1, root, quiet=True)


def left(root: Path) -> list[str]:
    return sorted(
        str(p.relative_to(root / "data/raw/test")) for p in (root / "data/raw/test").rglob("*") if p.is_file()
    )


def test_download_once(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    folder = get(recipe, tmp_path)
    assert folder == tmp_path / "data/raw/test" and (folder / "a.csv").read_bytes() == CONTENT
    assert get(recipe, tmp_path) == folder
    assert server.requests == [("/a.csv", None)] and left(tmp_path) == ["a.csv"]


def test_a_cut_download_continues_where_it_ended(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.limit = 400_000
    get(recipe, tmp_path)
    assert [wanted for _, wanted in server.requests] == [None, "bytes=400000-", "bytes=800000-"]
    assert left(tmp_path) == ["a.csv"]


def test_a_download_that_stays_cut_is_kept_named_and_continued(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.limit = 1_000
    with pytest.raises(
        InputError, match=r"cut off after 4000 of 1024008 bytes \(4 attempts\)\. 4000 bytes are kept in .*\.part"
    ):
        get(recipe, tmp_path)
    assert left(tmp_path) == ["a.csv.download.part"]
    server.limit = None
    server.requests.clear()
    get(recipe, tmp_path)
    assert server.requests == [("/a.csv", "bytes=4000-")] and left(tmp_path) == ["a.csv"]


def test_a_server_without_ranges_starts_again(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.ranges = False
    part = tmp_path / "data/raw/test/a.csv.download.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 100)
    assert (get(recipe, tmp_path) / "a.csv").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"and more"], ids=["complete", "too long"])
def test_a_part_that_needs_nothing_more(kept: bytes, recipe: Recipe, server: Served, tmp_path: Path) -> None:
    part = tmp_path / "data/raw/test/a.csv.download.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(kept)
    assert (get(recipe, tmp_path) / "a.csv").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.csv"]


def test_a_busy_server_is_asked_again(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    get(recipe, tmp_path)
    assert len(server.requests) == 3


def test_a_refusal_is_final(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(
        InputError, match=r"answered 404 Not Found\. Without this address: put a\.csv \(unpacked\) into"
    ):
        get(recipe, tmp_path)
    assert len(server.requests) == 1 and left(tmp_path) == []


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("text/html; charset=utf-8", b"<p>Please sign in</p>"),
        ("application/octet-stream", b"\n  <!DOCTYPE html><html><body>Please sign in</body></html>"),
        ("text/plain", b"<HTML><body>Moved</body></html>"),
    ],
)
def test_a_web_page_is_not_a_file(declared: str, body: bytes, recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.files["/a.csv"] = body
    server.types["/a.csv"] = declared
    with pytest.raises(InputError, match="a web page came instead of the file"):
        get(recipe, tmp_path)
    assert len(server.requests) == 1 and left(tmp_path) == []


def test_other_content_is_refused(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    server.files["/a.csv"] = CONTENT[:-1] + b"!"
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InputError, match=f"sha256 is [0-9a-f]{{64}} .*expected {digest}"):
        get(recipe, tmp_path)
    assert left(tmp_path) == []


def test_a_changed_file_is_refused_not_replaced(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    path = get(recipe, tmp_path) / "a.csv"
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(
        InputError, match=r"a\.csv: wrong content: .*\(1000 bytes\).*\(1024008 bytes\).*Delete .*a\.csv"
    ):
        get(recipe, tmp_path)
    assert len(server.requests) == 1


def test_no_connection(recipe: Recipe, build_recipe: BuildRecipe, tmp_path: Path) -> None:
    lost = build_recipe(raw_files=(raw("a.csv", CONTENT, "http://127.0.0.1:9/a.csv", mirror="there/a.csv.gz"),))
    with pytest.raises(InputError) as caught:
        get(lost, tmp_path)
    for word in ("http://127.0.0.1:9/a.csv: no connection", "GEMSBENCH_MIRROR", "there/a.csv.gz", str(tmp_path)):
        assert word in str(caught.value)
    assert left(tmp_path) == []


def test_a_full_disk(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

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
        get(recipe, tmp_path)
    assert left(tmp_path) == ["a.csv.download.part"]
    monkeypatch.setattr(Path, "open", real)
    assert (get(recipe, tmp_path) / "a.csv").read_bytes() == CONTENT


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"in/{name}", content)
    return buffer.getvalue()


@pytest.fixture
def zipped(server: Served, build_recipe: BuildRecipe) -> Recipe:
    server.files["/all.zip"] = archive(a=b"A" * 5000, b=CONTENT, c=b"not wanted")
    url = f"{server.url}/all.zip"
    return build_recipe(raw_files=(raw("a", b"A" * 5000, url, "in/a"), raw("b", CONTENT, url, "in/b")))


def test_members_of_one_archive_need_one_download(zipped: Recipe, server: Served, tmp_path: Path) -> None:
    get(zipped, tmp_path)
    assert left(tmp_path) == ["a", "b"] and len(server.requests) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-500], "not a whole zip archive"),
        (lambda content: archive(a=b"A" * 5000), "the archive has no 'in/b'"),
        (lambda content: archive(a=b"A" * 5000, b=b"other"), r"\(in/b\): wrong content: sha256 is"),
    ],
    ids=["cut", "without the member", "another member"],
)
def test_a_wrong_archive(
    change: Callable[[bytes], bytes], words: str, zipped: Recipe, server: Served, tmp_path: Path
) -> None:
    server.files["/all.zip"] = change(server.files["/all.zip"])
    with pytest.raises(InputError, match=words):
        get(zipped, tmp_path)
    assert set(left(tmp_path)) <= {"a"}  # what was right may stay


def test_the_mirror_comes_before_the_network(
    recipe: Recipe, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "there").mkdir(parents=True)
    packed = mirror / "there/a.csv.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(mirror))
    assert (get(recipe, tmp_path) / "a.csv").read_bytes() == CONTENT
    assert server.requests == []
    (tmp_path / "data/raw/test/a.csv").unlink()
    packed.write_bytes(gzip.compress(CONTENT)[:-2000])
    with pytest.raises(InputError, match=r"a\.csv\.gz: cut off or damaged"):
        get(recipe, tmp_path)
    packed.write_bytes(gzip.compress(b"another edition"))
    with pytest.raises(InputError, match=r"a\.csv\.gz: wrong content.*The mirror named by GEMSBENCH_MIRROR"):
        get(recipe, tmp_path)
    assert left(tmp_path) == []
    packed.unlink()
    server.files.clear()
    with pytest.raises(InputError, match=r"GEMSBENCH_MIRROR is .*, but there is no .*there/a\.csv\.gz"):
        get(recipe, tmp_path)


def test_simulated_files_replace_what_was_there(build_recipe: BuildRecipe, tmp_path: Path) -> None:
    def simulate(folder: Path, settings: Any, seed: int) -> None:
        (folder / f"{settings}.txt").write_text(str(seed))

    simulated = build_recipe(simulate=simulate)
    assert fetch(simulated, "one", 5, tmp_path) == tmp_path / "data/simulated/test"
    folder = fetch(simulated, "two", 6, tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"two.txt": "6"}


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_dvc_is_clean_afterwards_and_serves_later_fetches(recipe: Recipe, server: Served, tmp_path: Path) -> None:
    pytest.importorskip("dvc")
    root = tmp_path / "repository"
    folder = root / "data/raw/test"
    folder.mkdir(parents=True)
    dvc(root, "init", "--quiet", "--no-scm")
    dvc(root, "config", "core.analytics", "false")
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    pin = f"outs:\n- md5: {md5}\n  size: {len(CONTENT)}\n  hash: md5\n  path: a.csv\n"
    (folder / "a.csv.dvc").write_text(pin)
    get(recipe, root)
    assert len(server.requests) == 1
    assert "up to date" in dvc(root, "status", "data/raw/test/a.csv.dvc")
    assert (folder / "a.csv.dvc").read_text() == pin

    dvc(root, "remote", "add", "--quiet", "--local", "--default", "store", str(tmp_path / "remote"))
    dvc(root, "push", "--quiet")
    (folder / "a.csv").unlink()
    get(recipe, root)
    assert len(server.requests) == 1 and (folder / "a.csv").read_bytes() == CONTENT


def test_pins_in_the_repository_are_the_recipes(repository: Path) -> None:
    from gemsbench.data import journey, lastfm, movielens

    for recipe in (journey.RECIPE, lastfm.RECIPE, movielens.RECIPE):
        folder = repository / "data/raw" / recipe.name
        assert {p.name for p in folder.glob("*.dvc")} == {f"{file.name}.dvc" for file in recipe.raw_files}
        ignored = (folder / ".gitignore").read_text().split()
        for file in recipe.raw_files:
            assert f"  size: {file.size}\n" in (folder / f"{file.name}.dvc").read_text()
            assert f"/{file.name}" in ignored

"""Fetching: each source in its turn, each way of going wrong with its own message and nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data import fetch as fetch_module
from gemsbench.data.fetch import fetch, fetch_source
from gemsbench.data.recipe import Recipe
from gemsbench.data.source import RawFile, Source
from gemsbench.errors import InputError

CONTENT = b"id,name\n" + bytes(range(256)) * 4000


def raw(name: str, content: bytes, url: str, member: str = "", mirror: str = "", **fields: Any) -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), url, member, mirror, **fields)


def source_of(*files: RawFile) -> Source:
    return Source("test", "Test", "", "", "", files)


@pytest.fixture
def source(server: Any) -> Source:
    server.files["/a.csv"] = CONTENT
    return source_of(raw("a.csv", CONTENT, f"{server.url}/a.csv", mirror="there/a.csv.gz"))


def get(source: Source, root: Path) -> Path:
    return fetch_source(source, root, quiet=True)


def left(root: Path) -> list[str]:
    return sorted(
        str(p.relative_to(root / "data/raw/test")) for p in (root / "data/raw/test").rglob("*") if p.is_file()
    )


def test_download_once(source: Source, server: Any, tmp_path: Path) -> None:
    folder = get(source, tmp_path)
    assert folder == tmp_path / "data/raw/test" and (folder / "a.csv").read_bytes() == CONTENT
    assert get(source, tmp_path) == folder
    assert server.requests == [("/a.csv", None)] and left(tmp_path) == ["a.csv"]


def test_a_cut_download_continues_where_it_ended(source: Source, server: Any, tmp_path: Path) -> None:
    server.limit = 400_000
    get(source, tmp_path)
    assert [wanted for _, wanted in server.requests] == [None, "bytes=400000-", "bytes=800000-"]
    assert left(tmp_path) == ["a.csv"]


def test_a_download_that_stays_cut_is_kept_named_and_continued(source: Source, server: Any, tmp_path: Path) -> None:
    server.limit = 1_000
    with pytest.raises(
        InputError, match=r"cut off after 4000 of 1024008 bytes \(4 attempts\)\. 4000 bytes are kept in .*\.part"
    ):
        get(source, tmp_path)
    assert left(tmp_path) == ["a.csv.download.part"]
    server.limit = None
    server.requests.clear()
    get(source, tmp_path)
    assert server.requests == [("/a.csv", "bytes=4000-")] and left(tmp_path) == ["a.csv"]


def test_a_server_without_ranges_starts_again(source: Source, server: Any, tmp_path: Path) -> None:
    server.ranges = False
    part = tmp_path / "data/raw/test/a.csv.download.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 100)
    assert (get(source, tmp_path) / "a.csv").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"and more"], ids=["complete", "too long"])
def test_a_part_that_needs_nothing_more(kept: bytes, source: Source, server: Any, tmp_path: Path) -> None:
    part = tmp_path / "data/raw/test/a.csv.download.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(kept)
    assert (get(source, tmp_path) / "a.csv").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.csv"]


def test_a_busy_server_is_asked_again(source: Source, server: Any, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    get(source, tmp_path)
    assert len(server.requests) == 3


def test_a_refusal_is_final(source: Source, server: Any, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(
        InputError, match=r"answered 404 Not Found\. Without a connection: put a\.csv \(unpacked\) into"
    ):
        get(source, tmp_path)
    assert len(server.requests) == 1 and left(tmp_path) == []


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("text/html; charset=utf-8", b"<p>Please sign in</p>"),
        ("application/octet-stream", b"\n  <!DOCTYPE html><html><body>Please sign in</body></html>"),
        ("text/plain", b"<HTML><body>Moved</body></html>"),
    ],
)
def test_a_web_page_is_not_a_file(declared: str, body: bytes, source: Source, server: Any, tmp_path: Path) -> None:
    server.files["/a.csv"] = body
    server.types["/a.csv"] = declared
    with pytest.raises(InputError, match="a web page came instead of the file"):
        get(source, tmp_path)
    assert len(server.requests) == 1 and left(tmp_path) == []


def test_other_content_is_refused(source: Source, server: Any, tmp_path: Path) -> None:
    server.files["/a.csv"] = CONTENT[:-1] + b"!"
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InputError, match=f"sha256 is [0-9a-f]{{64}} .*expected {digest}"):
        get(source, tmp_path)
    assert left(tmp_path) == []


def test_a_changed_file_is_refused_not_replaced(source: Source, server: Any, tmp_path: Path) -> None:
    path = get(source, tmp_path) / "a.csv"
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(
        InputError, match=r"a\.csv: wrong content: .*\(1000 bytes\).*\(1024008 bytes\).*Delete .*a\.csv"
    ):
        get(source, tmp_path)
    assert len(server.requests) == 1


def test_no_connection(server: Any, tmp_path: Path) -> None:
    lost = source_of(raw("a.csv", CONTENT, "http://127.0.0.1:9/a.csv", mirror="there/a.csv.gz"))
    with pytest.raises(InputError) as caught:
        get(lost, tmp_path)
    for word in ("http://127.0.0.1:9/a.csv: no connection", "GEMSBENCH_MIRROR", "there/a.csv.gz", str(tmp_path)):
        assert word in str(caught.value)
    assert left(tmp_path) == []


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"in/{name}", content)
    return buffer.getvalue()


@pytest.fixture
def zipped(server: Any) -> Source:
    server.files["/all.zip"] = archive(a=b"A" * 5000, b=CONTENT, c=b"not wanted")
    url = f"{server.url}/all.zip"
    return source_of(raw("a", b"A" * 5000, url, "in/a"), raw("b", CONTENT, url, "in/b"))


def test_members_of_one_archive_need_one_download(zipped: Source, server: Any, tmp_path: Path) -> None:
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
    change: Callable[[bytes], bytes], words: str, zipped: Source, server: Any, tmp_path: Path
) -> None:
    server.files["/all.zip"] = change(server.files["/all.zip"])
    with pytest.raises(InputError, match=words):
        get(zipped, tmp_path)
    assert set(left(tmp_path)) <= {"a"}  # what was right may stay


@pytest.mark.parametrize("set_", [True, False])
def test_files_without_a_mirror_are_not_looked_for_there(
    set_: bool, zipped: Source, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if set_:
        monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path))
    server.files.clear()
    with pytest.raises(
        InputError,
        match=r"404 Not Found\. Without a connection: put a .unpacked., b .unpacked. into .*data/raw/test\.$",
    ):
        get(zipped, tmp_path)


def test_the_mirror_comes_before_the_network(
    source: Source, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "there").mkdir(parents=True)
    packed = mirror / "there/a.csv.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(mirror))
    assert (get(source, tmp_path) / "a.csv").read_bytes() == CONTENT
    assert server.requests == []
    (tmp_path / "data/raw/test/a.csv").unlink()
    packed.write_bytes(gzip.compress(CONTENT)[:-2000])
    with pytest.raises(InputError, match=r"a\.csv\.gz: cut off or damaged"):
        get(source, tmp_path)
    packed.write_bytes(gzip.compress(b"another edition"))
    with pytest.raises(InputError, match=r"a\.csv\.gz: wrong content.*The mirror named by GEMSBENCH_MIRROR"):
        get(source, tmp_path)
    assert left(tmp_path) == []
    packed.unlink()
    server.files.clear()
    with pytest.raises(InputError, match=r"GEMSBENCH_MIRROR is .*, but there is no .*there/a\.csv\.gz"):
        get(source, tmp_path)


def test_a_recipe_gets_all_its_sources(
    build_recipe: Callable[..., Recipe], server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= {"/a": CONTENT, "/b": b"B" * 100}
    two = {
        name: Source(name, name, "", "", "", (raw(name, server.files[f"/{name}"], f"{server.url}/{name}"),))
        for name in "ab"
    }
    monkeypatch.setattr(fetch_module, "SOURCES", two)
    folder = fetch(build_recipe(sources=("a", "b")), None, 1, tmp_path, quiet=True)
    assert folder == tmp_path / "data/raw/a" and (folder / "a").read_bytes() == CONTENT
    assert (folder.parent / "b/b").read_bytes() == b"B" * 100


def test_simulated_files_replace_what_was_there(build_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    def simulate(folder: Path, settings: Any, seed: int) -> None:
        (folder / f"{settings}.txt").write_text(str(seed))

    simulated = build_recipe(simulate=simulate)
    assert fetch(simulated, "one", 5, tmp_path) == tmp_path / "data/simulated/test"
    folder = fetch(simulated, "two", 6, tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"two.txt": "6"}


@pytest.mark.parametrize("stored", ["a.json.gz", "a.json"])
def test_gzip_is_kept_or_unpacked_as_the_stored_name_says(
    stored: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    wanted = packed if stored.endswith(".gz") else CONTENT
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path))
    (tmp_path / "there.json.gz").write_bytes(packed)
    source = source_of(raw(stored, wanted, f"{server.url}/x", mirror="there.json.gz"))
    assert (get(source, tmp_path) / stored).read_bytes() == wanted
    assert server.requests == []


def test_both_published_hashes_must_agree(server: Any, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    wrong = raw("a", CONTENT, f"{server.url}/a", md5="0" * 32)
    with pytest.raises(InputError, match=r"/a: wrong content: md5 is [0-9a-f]{32} .*expected 0{32}"):
        get(source_of(wrong), tmp_path)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    only_md5 = RawFile("a", "", 0, f"{server.url}/a", md5=md5)
    get(source_of(only_md5), tmp_path)
    (tmp_path / "data/raw/test/a").write_bytes(CONTENT + b".")
    with pytest.raises(InputError, match=r"a: wrong content: md5 is .* expected .*Delete"):
        get(source_of(only_md5), tmp_path)
    assert left(tmp_path) == ["a"], "a published hash needs no record outside a DVC repository"


def test_without_a_hash_the_first_download_is_recorded(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = gzip.compress(CONTENT)
    md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    server.files["/a.gz"] = packed
    unknown = source_of(RawFile("a.gz", "", 0, f"{server.url}/a.gz"))
    folder = get(unknown, tmp_path)
    said = capsys.readouterr().err
    assert f"md5 {md5}, {len(packed):,} bytes. Commit that file" in said and "a.gz.dvc" in said
    pin = folder / "a.gz.dvc"
    recorded = pin.read_text()
    assert f"- md5: {md5}\n  size: {len(packed)}\n" in recorded and f"path: {server.url}/a.gz" in recorded
    assert "/a.gz" in (folder / ".gitignore").read_text().split()

    get(unknown, tmp_path)
    assert capsys.readouterr().err == "" and pin.read_text() == recorded
    (folder / "a.gz").unlink()
    server.files["/a.gz"] = gzip.compress(CONTENT + b"more")
    with pytest.raises(InputError, match=f"expected {len(packed):,} bytes, the server offers"):
        get(unknown, tmp_path)
    server.files["/a.gz"] = packed[:-1] + bytes([packed[-1] ^ 1])
    with pytest.raises(InputError, match=rf"md5 is .*expected {md5} .*first download, recorded in a\.gz\.dvc"):
        get(unknown, tmp_path)
    assert left(tmp_path) == [".gitignore", "a.gz.dvc"] and pin.read_text() == recorded


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", gzip.compress(CONTENT)[:-3000]),
        ("a.gz", gzip.compress(CONTENT)[:-1]),
        ("a.gz", b"plain text"),
        ("a.zip", b"PK\x03\x04 and nothing else"),
        ("a.parquet", b"PAR1 and nothing else"),
        ("a.txt", b""),
    ],
)
def test_without_a_hash_the_container_must_be_whole(name: str, content: bytes, server: Any, tmp_path: Path) -> None:
    server.files["/x"] = content
    unknown = source_of(RawFile(name, "", 0, f"{server.url}/x"))
    with pytest.raises(InputError, match=r"/x: (cut off or damaged|an empty file)"):
        get(unknown, tmp_path)
    assert left(tmp_path) == []


def test_a_file_put_in_place_by_hand_is_recorded_too(server: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data/raw/test"
    folder.mkdir(parents=True)
    (folder / "a.gz").write_bytes(gzip.compress(CONTENT)[:-10])
    unknown = source_of(RawFile("a.gz", "", 0, f"{server.url}/a.gz"))
    with pytest.raises(InputError, match=r"a\.gz: cut off or damaged .*Delete"):
        get(unknown, tmp_path)
    assert left(tmp_path) == ["a.gz"]
    (folder / "a.gz").write_bytes(gzip.compress(CONTENT))
    get(unknown, tmp_path)
    assert left(tmp_path) == [".gitignore", "a.gz", "a.gz.dvc"] and server.requests == []


def test_what_has_come_stays_when_a_later_file_fails(server: Any, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    two = source_of(raw("a", CONTENT, f"{server.url}/a"), raw("b", CONTENT, f"{server.url}/b"))
    with pytest.raises(InputError, match="/b: the server answered 404"):
        get(two, tmp_path)
    server.files["/b"] = CONTENT
    server.requests.clear()
    get(two, tmp_path)
    assert server.requests == [("/b", None)]

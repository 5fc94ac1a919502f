"""Datasets of the hub: the listing asked once and kept, the files fetched at its commit and held against its hashes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench.data.fetch import fetch_source
from gemsbench.data.hub_listing import FETCHED, FURTHER_HUB, LISTING, Listing, listing_of, raw_files
from gemsbench.data.source import HubDataset, Source
from gemsbench.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = HubDataset("owner/set", ("notes", "search_train"))
SOURCE = Source("test", "Test", "", "", "", hub=HUB)
RESOLVE = f"/datasets/owner/set/resolve/{COMMIT}"
ASKED = "/api/datasets/owner/set/revision/main"
CARD = {
    "configs": [
        {"config_name": "notes", "data_files": [{"split": "train", "path": "notes/train-*"}]},
        {"config_name": "search_train", "data_files": "data/search.parquet"},
    ]
}


def parquet(number: int) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"n": range(number, number + 3000)}).write_parquet(buffer, compression="uncompressed")
    return buffer.getvalue()


PATHS = {
    "notes/train-00000-of-00002.parquet": parquet(1),
    "notes/train-00001-of-00002.parquet": parquet(2),
    "data/search.parquet": parquet(3),
    "dqa/train-00000-of-00001.parquet": parquet(4),
    "README.md": b"# A set",
}
NAMES = {
    "notes-00000-of-00002.parquet": "notes/train-00000-of-00002.parquet",
    "notes-00001-of-00002.parquet": "notes/train-00001-of-00002.parquet",
    "search_train.parquet": "data/search.parquet",
}


def answer(paths: dict[str, bytes], card: Any = CARD, lfs: bool = True) -> bytes:
    """What the hub says of a dataset."""
    siblings = []
    for path, content in paths.items():
        entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": "b" * 40}
        if lfs and path.endswith(".parquet"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    return json.dumps({"id": "owner/set", "sha": COMMIT, "siblings": siblings, "cardData": card}).encode()


@pytest.fixture
def hub(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of the hub's layout."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files |= {f"{RESOLVE}/{path}": content for path, content in PATHS.items()} | {ASKED: answer(PATHS)}
    return server


@pytest.fixture
def get(tmp_path: Path) -> Callable[[], Path]:
    return lambda: fetch_source(SOURCE, tmp_path, quiet=True)


def test_the_files_of_the_wanted_configs_come_at_the_commit(hub: Any, get: Callable[[], Path]) -> None:
    folder = get()
    assert {path.name for path in folder.iterdir()} == {*NAMES, LISTING, FETCHED}
    assert all((folder / name).read_bytes() == PATHS[path] for name, path in NAMES.items())
    listing = json.loads((folder / LISTING).read_text())
    assert (listing["repository"], listing["revision"]) == ("owner/set", COMMIT)
    assert listing["files"] == [
        {"name": name, "path": path, "size": len(PATHS[path]), "sha256": hashlib.sha256(PATHS[path]).hexdigest()}
        for name, path in NAMES.items()
    ]
    assert (folder / FETCHED).read_bytes() == (folder / LISTING).read_bytes()


def test_with_a_listing_the_hub_is_asked_nothing(hub: Any, get: Callable[[], Path]) -> None:
    folder = get()
    hub.files[ASKED] = answer({path: parquet(9) for path in PATHS})
    hub.requests.clear()
    get()
    assert hub.requests == []
    (folder / "search_train.parquet").unlink()
    get()
    assert hub.requests == [(f"{RESOLVE}/data/search.parquet", None)]


def test_a_cut_download_continues(hub: Any, get: Callable[[], Path]) -> None:
    get_info = hub.answer

    def cut(request: Any) -> None:
        hub.limit = None if request.path.startswith("/api") else 10_000
        get_info(request)

    hub.answer = cut
    folder = get()
    assert all((folder / name).read_bytes() == PATHS[path] for name, path in NAMES.items())
    assert (f"{RESOLVE}/data/search.parquet", "bytes=10000-") in hub.requests


def test_another_content_is_refused(hub: Any, get: Callable[[], Path]) -> None:
    path = f"{RESOLVE}/data/search.parquet"
    hub.files[path] = hub.files[path][:-1] + b"?"
    with pytest.raises(InputError, match=r"data/search\.parquet: wrong content: sha256 is"):
        get()
    hub.files[path] = PATHS["data/search.parquet"] + b"more"
    with pytest.raises(InputError, match=r"expected [\d,]+ bytes, the server offers [\d,]+"):
        get()
    del hub.files[path]
    with pytest.raises(InputError, match=r"data/search\.parquet: the server answered 404"):
        get()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "gone, or open only to those who log in"), (403, "accepted its terms"), (404, "no such repository")],
)
def test_a_closed_or_missing_repository_is_named(
    status: int, words: str, hub: Any, get: Callable[[], Path], tmp_path: Path
) -> None:
    hub.statuses = [status] * 20
    with pytest.raises(InputError, match=rf"/datasets/owner/set at main: the server answered {status}: .*{words}"):
        get()
    assert list((tmp_path / "data/raw/test").iterdir()) == []


def test_no_connection_says_what_to_do(get: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        get()
    for word in ("http://127.0.0.1:9/datasets/owner/set at main: cannot be asked (", "HF_ENDPOINT", FURTHER_HUB):
        assert word in str(caught.value)
    assert "GEMSBENCH_MIRROR to a folder that holds test/ with notes.parquet, search_train.parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("card", "paths", "words"),
    [
        (
            CARD,
            {"notes/train-0.parquet": b"", "dqa/x.parquet": b""},
            "of the config 'search_train'; there is dqa/x.parq",
        ),
        (CARD, {"notes.csv": b""}, "of the config 'notes'; there is no parquet file"),
        (
            {"configs": [{"config_name": "notes", "data_files": [{"split": s, "path": s} for s in ("train", "test")]}]},
            PATHS,
            "the config 'notes' has the splits test, train; one is expected",
        ),
    ],
)
def test_a_config_without_its_parquet_is_named(
    card: Any, paths: dict[str, bytes], words: str, hub: Any, get: Callable[[], Path]
) -> None:
    hub.files[ASKED] = answer(paths, card)
    with pytest.raises(InputError, match=words):
        get()


@pytest.mark.parametrize(
    ("card", "paths"),
    [
        (None, ["notes/a.parquet", "notes/deep/b.parquet", "data/search_train/0.parquet", "other/notes.csv"]),
        ({"license": "x"}, ["notes-00000-of-00002.parquet", "notes-00001-of-00002.parquet", "d/search_train.parquet"]),
        (
            {
                "configs": [
                    {
                        "config_name": "notes",
                        "data_files": [{"split": "train", "path": ["x/**/*.parquet", "?.parquet"]}],
                    },
                    {"config_name": "search_train", "data_files": ["./*/s-*"]},
                ]
            },
            ["x/1/2/a.parquet", "b.parquet", "y/s-1.parquet", "y/z/s-2.parquet", "bb.parquet"],
        ),
    ],
    ids=["folders", "names", "patterns"],
)
def test_files_are_found_by_the_card_or_by_their_names(card: Any, paths: list[str], hub: Any, tmp_path: Path) -> None:
    hub.files[ASKED] = answer(dict.fromkeys(paths, b"x"), card)
    listing = listing_of("test", HUB, tmp_path, None)
    assert [file.name for file in listing.files] == list(NAMES)
    parquet_files = sorted(path for path in paths if path.endswith(".parquet"))
    assert {file.path for file in listing.files} <= set(parquet_files)
    assert listing.files[-1].path in ("data/search_train/0.parquet", "d/search_train.parquet", "y/s-1.parquet")


def test_a_file_without_a_hash_is_recorded(hub: Any, get: Callable[[], Path], capsys: Any) -> None:
    hub.files[ASKED] = answer(PATHS, lfs=False)
    folder = get()
    assert "search_train.parquet.dvc" in capsys.readouterr().err
    content = PATHS["data/search.parquet"]
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() in (folder / "search_train.parquet.dvc").read_text()
    (folder / "search_train.parquet").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"md5 is .*recorded in search_train"):
        get()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_cut_off_file_in_a_mirror_is_not_listed(
    kept: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, get: Callable[[], Path]
) -> None:
    mirror = tmp_path / "mirror/test"
    mirror.mkdir(parents=True)
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path / "mirror"))
    for name, path in NAMES.items():
        (mirror / name).write_bytes(PATHS[path])
    cut = mirror / "search_train.parquet"
    cut.write_bytes(cut.read_bytes()[: int(kept * cut.stat().st_size)])
    with pytest.raises(InputError, match=r"mirror/test/search_train\.parquet: (cut off or damaged|an empty file)"):
        get()
    assert list((tmp_path / "data/raw/test").iterdir()) == []


def test_what_was_listed_by_the_hub_is_to_be_committed(hub: Any, get: Callable[[], Path], capsys: Any) -> None:
    folder = get()
    assert capsys.readouterr().err.splitlines() == [
        f"Commit {folder}/files.json and the .dvc files beside it: they pin what was fetched."
    ]
    get()
    assert capsys.readouterr().err == "", "said once"


def test_a_mirror_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, get: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = tmp_path / "mirror/test"
    mirror.mkdir(parents=True)
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (mirror / "notes-00000-of-00002.parquet").write_bytes(PATHS[NAMES["notes-00000-of-00002.parquet"]])
    with pytest.raises(InputError, match=r"not all of notes\.parquet or its shards .*there is notes-00000-of-00002"):
        get()
    for name, path in NAMES.items():
        (mirror / name).write_bytes(PATHS[path])
    folder = get()
    assert {path.name for path in folder.iterdir()} == {*NAMES, LISTING, FETCHED}
    assert json.loads((folder / LISTING).read_text())["revision"] == ""
    said = capsys.readouterr().err
    assert "files.json and the .dvc files beside it" in said and "hashes are those of the mirror folder's files" in said
    (folder / "search_train.parquet").unlink()
    (mirror / "search_train.parquet").unlink()
    with pytest.raises(
        InputError, match=r"files\.json: names no address of search_train\.parquet: .*delete the listing"
    ):
        get()
    (mirror / LISTING).write_text(json.dumps({"repository": "owner/other", "revision": COMMIT, "files": []}))
    (folder / LISTING).unlink()
    with pytest.raises(InputError, match=r"mirror/test/files\.json: lists owner/other at"):
        get()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content | {"files": []}, "not all of notes.parquet"),
        (lambda content: content | {"files": content["files"][:-1]}, "not all of search_train.parquet"),
        (lambda content: content | {"repository": "owner/other"}, "lists owner/other at"),
        (
            lambda content: content | {"files": [{**content["files"][0], "name": "../x"}, *content["files"]]},
            "no file name",
        ),
        (lambda content: {"files": 3}, "not a listing"),
        (lambda content: [], "not a listing"),
    ],
)
def test_a_wrong_listing_is_refused(
    change: Callable[[Any], Any], words: str, hub: Any, get: Callable[[], Path]
) -> None:
    path = get() / LISTING
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + re.escape(words)):
        get()


def test_a_pinned_commit_and_the_listing_must_agree(hub: Any, get: Callable[[], Path], tmp_path: Path) -> None:
    folder = get()
    assert listing_of("test", HubDataset(HUB.repository, HUB.configs, COMMIT), folder, None).revision == COMMIT
    with pytest.raises(InputError, match=f"lists owner/set at '{COMMIT}', wanted is owner/set at 'ffff"):
        listing_of("test", HubDataset(HUB.repository, HUB.configs, "f" * 40), folder, None)


def test_the_second_host_is_asked_only_without_a_choice_of_the_user(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = listing_of("test", HUB, tmp_path, None)
    assert {raw.further for raw in raw_files("test", HUB, listing)} == {()}
    monkeypatch.delenv("HF_ENDPOINT")
    raw = raw_files("test", HUB, listing)[-1]
    assert raw.addresses == tuple(
        f"{host}{RESOLVE}/data/search.parquet" for host in ("https://huggingface.co", "https://hf-mirror.com")
    )
    odd = Listing("owner/set", COMMIT, (listing.files[0].__class__("a.parquet", "a b#c.parquet", 1, ""),))
    assert raw_files("test", HUB, odd)[0].url.endswith("/a%20b%23c.parquet")


@pytest.mark.slow
def test_a_job_that_is_offline_for_others_may_ask(hub: Any, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from gemsbench.data.hub_listing import listing_of\n"
        "from gemsbench.data.source import HubDataset\n"
        f"hub = HubDataset({HUB.repository!r}, {HUB.configs!r})\n"
        f"print(listing_of('test', hub, Path({str(tmp_path)!r}), None).revision)"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == COMMIT, done.stderr


@pytest.mark.slow
def test_in_a_dvc_repository_the_files_are_pinned_and_clean(hub: Any, get: Callable[[], Path], tmp_path: Path) -> None:
    pytest.importorskip("dvc")

    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--quiet", "--no-scm")
    dvc("config", "core.analytics", "false")
    folder = get()
    assert {path.name for path in folder.glob("*.dvc")} == {f"{name}.dvc" for name in NAMES}
    assert f"path: {hub.url}{RESOLVE}/data/search.parquet" in (folder / "search_train.parquet.dvc").read_text()
    assert "up to date" in dvc("status")
    hub.files.clear()
    for name in NAMES:
        (folder / name).unlink()
    get()
    assert all((folder / name).read_bytes() == PATHS[path] for name, path in NAMES.items()), "from DVC's cache"

"""With a connection, one command prepares every recipe of the paper profile: simulated bytes behind local servers.

The files have the formats and names of the real ones; addresses, hashes and pinned counts are exchanged in a copy of
the checkout, everything else is what runs with the real bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest

from gemsbench.data.simulation.amazon_files import METADATA, REVIEWS, write_amazon
from gemsbench.data.simulation.qilin_files import write_qilin
from gemsbench.data.simulation.request_world import RequestWorldSettings
from gemsbench.data.simulation.world import WorldSettings
from gemsbench.data.source import RawFile
from gemsbench.data.sources import SOURCES

COMMIT = "c" * 40
WORLD = WorldSettings(users=500, items=300, listed_items=330, topics=12, communities=4)
GONE = "/gone/meta_Electronics.json.gz"
BUSY = "/product-search-electronics/query_text.txt.gz"
CUT = "/electronics-2014/reviews_Electronics_5.json.gz"
PREPARED = ("qilin", "electronics-2014", "qilin-reference", "electronics-2014-reference", "kindle-2014")


@dataclass
class Hosts:
    """What local servers offer: path -> bytes; asked: path and first byte of each GET request that was answered.

    failures: path -> what the next GET requests get instead, "cut" (half of the file) or a status.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hosts: Hosts, *arguments: Any) -> None:
        self.hosts = hosts
        super().__init__(*arguments)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        content = self.hosts.files.get(path)
        if content is None:
            self.send_error(404)
            return
        failures = self.hosts.failures.get(path, [])
        failure = failures.pop(0) if body and failures else ""
        if failure.isdigit():
            self.send_error(int(failure))
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/json" if path.startswith("/api/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.hosts.asked.append((path, start))
            self.wfile.write(content[start : len(content) // 2 if failure == "cut" else None])

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    offered = Hosts()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, offered))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    offered.url = f"http://127.0.0.1:{server.server_port}"
    yield offered
    server.shutdown()
    thread.join()
    server.server_close()


def packed(lines: list[str]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def amazon(folder: Path, seed: int) -> tuple[bytes, bytes]:
    folder.mkdir()
    write_amazon(folder, WORLD, seed, core=5)
    return (folder / REVIEWS).read_bytes(), (folder / METADATA).read_bytes()


def searches(reviews: bytes) -> dict[str, bytes]:
    """Judged searches in the layout of the product search data: three of four purchases have one."""
    bought = pl.read_ndjson(gzip.decompress(reviews)).select("reviewerID", "asin")
    rows = [f"{user}_{n % 7} 0 {item} 1" for n, (user, item) in enumerate(bought.iter_rows()) if n % 4]
    queries = [f"word{n} thing" for n in range(7)]
    return {
        "query_text.txt.gz": packed(queries),
        "train.qrels.gz": packed(rows[10:]),
        "test.qrels.gz": packed(rows[:10]),
    }


def hub(folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """The hub's description of the Qilin repository, and its files by path; the notes come in two shards."""
    folder.mkdir()
    write_qilin(folder, RequestWorldSettings(users=260, notes=500, topics=16, communities=5), 5)
    notes = pl.read_parquet(folder / "notes.parquet")
    for shard, part in enumerate((notes[:300], notes[300:])):
        part.write_parquet(folder / f"notes-{shard:05d}-of-00002.parquet")
    (folder / "notes.parquet").unlink()
    files = {}
    for path in sorted(folder.iterdir()):
        config, _, shard_name = path.stem.partition("-")
        files[f"{config}/train-{shard_name or '00000-of-00001'}.parquet"] = path.read_bytes()
    siblings = [{"rfilename": path, "size": len(c), "lfs": _lfs(c)} for path, c in files.items()]
    described = {
        "_id": "0", "id": "THUIR/Qilin", "sha": COMMIT, "private": False, "gated": False, "disabled": False,
        "downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": "README.md", "size": 3}, *siblings],
    }  # fmt: skip
    return json.dumps(described).encode(), files


def _lfs(content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"size": len(content), "sha256": digest, "oid": digest, "pointerSize": 130}


def offer(hosts: Hosts, folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Put simulated files behind the server; return source -> file -> what the registry is to say of it."""
    reviews, metadata = amazon(folder / "electronics", 3)
    kindle_reviews, kindle_metadata = amazon(folder / "kindle", 4)
    files = {
        "electronics-2014": {"reviews_Electronics_5.json.gz": reviews, "meta_Electronics.json.gz": metadata},
        "kindle-2014": {"reviews_Kindle_Store_5.json.gz": kindle_reviews, "meta_Kindle_Store.json.gz": kindle_metadata},
        "product-search-electronics": searches(reviews),
    }
    description, shards = hub(folder / "hub")
    hosts.files |= {f"/{source}/{name}": content for source, named in files.items() for name, content in named.items()}
    hosts.files |= {f"/datasets/THUIR/Qilin/resolve/{COMMIT}/{path}": content for path, content in shards.items()}
    hosts.files |= dict.fromkeys(("/api/datasets/THUIR/Qilin", "/api/datasets/THUIR/Qilin/revision/main"), description)
    return {
        source: {
            name: known_of(f"{hosts.url}/{source}/{name}", content, SOURCES[source].files)
            for name, content in named.items()
        }
        for source, named in files.items()
    }


def known_of(address: str, content: bytes, files: Sequence[RawFile]) -> dict[str, Any]:
    """What is known of a simulated file: hashes and size of the same kinds as the registry has of the real one."""
    (real,) = (file for file in files if file.name == address.rpartition("/")[2])
    return {
        "url": address,
        "sha256": hashlib.sha256(content).hexdigest() if real.sha256 else "",
        "md5": hashlib.md5(content).hexdigest() if real.md5 else "",
        "size": len(content) if real.size else 0,
        "further": (),
        "mirror": "",
    }


def hinder(hosts: Hosts, known: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A first address that has nothing, a server that is busy once, and a download that is cut off once."""
    elsewhere = known["electronics-2014"]["meta_Electronics.json.gz"]
    elsewhere |= {"url": f"{hosts.url}{GONE}", "further": (elsewhere["url"],)}
    hosts.failures |= {BUSY: ["503"], CUT: ["cut"]}


def exchange(workspace: Any, known: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Other addresses, hashes and sizes in the registry of sources; no pinned counts in the recipes."""
    with (workspace.root / "src/gemsbench/data/sources.py").open("a") as out:
        out.write(
            f"""
import dataclasses

_OFFERED = {known!r}


def _exchanged(source: Source) -> Source:
    offered = _OFFERED.get(source.name, {{}})
    files = tuple(
        dataclasses.replace(f, **offered[f.name]) for f in source.files if f.name in offered
    )
    return dataclasses.replace(source, files=files) if offered else source


SOURCES = {{name: _exchanged(source) for name, source in SOURCES.items()}}
"""
        )
    for module in ("electronics", "electronics_reference", "kindle", "qilin_recipe", "qilin_reference"):
        with (workspace.root / f"src/gemsbench/data/{module}.py").open("a") as out:
            out.write("\nimport dataclasses\n\nRECIPE = dataclasses.replace(RECIPE, pins={})\n")


@pytest.mark.slow
def test_one_command_prepares_the_paper_profile(
    checkout: Any, hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hosts.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert set(SOURCES) >= {"electronics-2014", "kindle-2014", "product-search-electronics", "qilin"}
    known = offer(hosts, tmp_path)
    kindle = known["kindle-2014"]
    # As with the real files: of one only the md5 is published, of the other nothing.
    assert [bool(file["md5"]) and not file["sha256"] for file in kindle.values()] == [True, False]
    assert not any(kindle["meta_Kindle_Store.json.gz"][name] for name in ("sha256", "md5", "size"))
    hinder(hosts, known)
    exchange(checkout, known)
    command = ("--configfile", "config/paper.yaml", "--", "prepared")
    checkout.snakemake(*command)
    results = checkout.root / "results/paper/prepared"
    for recipe in PREPARED:
        assert (results / recipe / "stats.json").is_file()
        checkout.gemsbench("data", "validate", recipe, "--config", "config/paper.yaml")
    # Two recipes read the files of one source, which are fetched once; the cut one is continued where it ended.
    fetched = [(path, start) for path, start in hosts.asked if not path.startswith("/api/")]
    rest = (CUT, len(hosts.files[CUT]) // 2)
    whole = [path for path, start in fetched if (path, start) != rest]
    assert rest in fetched and set(whole) == {path for path in hosts.files if not path.startswith("/api/")}
    assert len(whole) == len(set(whole)) == len(fetched) - 1
    assert not any(hosts.failures.values()) and "/electronics-2014/meta_Electronics.json.gz" in whole
    assert checkout.pending(*command) == {}
    listing = json.loads((checkout.root / "data/raw/qilin/files.json").read_text())
    assert listing["revision"] == COMMIT and len(listing["files"]) == 6

    shown = checkout.gemsbench("data", "stats", "electronics-2014", "--config", "config/paper.yaml").stdout
    assert "158,296" in shown and "62,909" in shown
    # One file is known by its md5 alone; the unknown one is known from now on.
    for name in kindle:
        path = checkout.root / "data/raw/kindle-2014" / name
        right = path.read_bytes()
        path.write_bytes(packed(["{'asin': 'B000000001'}"]))
        refused = checkout.gemsbench("data", "fetch", "kindle-2014", "--config", "config/paper.yaml", check=False)
        assert refused.returncode == 1 and name in refused.stderr and "md5" in refused.stderr, refused.stderr
        path.write_bytes(right)

"""Small raw logs and recipes; a local server of files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl
import pytest

from gemsbench.data import download as download_module
from gemsbench.data.canonical import RAW_EVENTS, RAW_ITEMS
from gemsbench.data.recipe import RawLog, Recipe

EVENT_DEFAULTS = {
    "task": "rec",
    "query": "",
    "query_source": "",
    "timestamp": None,
    "pair": "",
    "group": "",
    "rating": None,
    "position": 0,
}
ITEM_DEFAULTS = {"description": "", "brand": "", "category_paths": [], "queries": []}


def raw_log(events: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]) -> RawLog:
    """A RawLog of rows with defaults: pair is (user, item), title and text are the item's id."""
    event_rows = [{**EVENT_DEFAULTS, "pair": f"{row['user']} {row['item']}", **row} for row in events]
    item_rows = [{"title": row["raw_id"], "text": row["raw_id"], **ITEM_DEFAULTS, **row} for row in items]
    return RawLog(pl.DataFrame(event_rows, schema=RAW_EVENTS), pl.DataFrame(item_rows, schema=RAW_ITEMS), {})


@pytest.fixture(scope="session")
def build_log() -> Callable[..., RawLog]:
    """raw_log, as a fixture: test files cannot import each other."""
    return raw_log


def plain_recipe(**fields: Any) -> Recipe:
    """A recipe without raw files; split by purchase unless said otherwise."""
    values: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "settings": object,
        "load": lambda folder, settings: None,
        "split_unit": "pair",
        "time_kind": {"rec": "exact", "src": "exact"},
        "licence": "",
        "citation": "",
    }
    return Recipe(**(values | fields))


@pytest.fixture(scope="session")
def build_recipe() -> Callable[..., Recipe]:
    """plain_recipe, as a fixture."""
    return plain_recipe


@dataclass
class Served:
    """A local server with the Range requests of the real ones; `limit` cuts every answer off."""

    files: dict[str, bytes]
    types: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # answered first, one per request
    limit: int | None = None
    ranges: bool = True
    shift: int = 0  # how far behind the place that was asked for an answer begins
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        path = request.path.partition("?")[0]
        self.requests.append((path, wanted))
        body = self.files.get(path)
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
        partial, start = bool(start), start - min(self.shift, start)
        request.send_response(206 if partial else 200)
        if partial:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Type", self.types.get(path, "application/octet-stream"))
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

"""Hub models: fetched from a server laid out like the hub, resumed, checked, or copied from a mirror."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gemsbench.backbones import hub
from gemsbench.backbones.catalogue import FLAN_T5_SMALL, BackboneSpec, Kind
from gemsbench.backbones.loading import Backbone, load_backbone, save_backbone
from gemsbench.errors import InputError

# The files of the server are those of a small model; only its shapes differ from the catalogue's.
TINY = replace(FLAN_T5_SMALL, shapes={"d_model": 16, "feed_forward_proj": "gated-gelu"})
FETCH = """
import sys
from dataclasses import replace
from pathlib import Path
from gemsbench.backbones.catalogue import FLAN_T5_SMALL
from gemsbench.backbones.hub import fetch_hub_model
from gemsbench.errors import InputError
from huggingface_hub import constants
assert constants.HF_HUB_OFFLINE
spec = replace(FLAN_T5_SMALL, shapes={"d_model": 16, "feed_forward_proj": "gated-gelu"})
try:
    fetch_hub_model(spec, Path(sys.argv[1]))
except InputError as error:
    sys.exit(str(error))
assert constants.HF_HUB_OFFLINE
"""


@dataclass
class Hub:
    """A server with the paths and headers of huggingface.co."""

    endpoint: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)  # "GET <name> <range>"


@pytest.fixture
def tiny_files(made: dict[Kind, Backbone], tmp_path: Path) -> dict[str, bytes]:
    save_backbone(made["t5"], tmp_path / "tiny")
    (tmp_path / "tiny" / "special_tokens_map.json").write_text("{}")
    return {name: (tmp_path / "tiny" / name).read_bytes() for name in TINY.downloaded}


@pytest.fixture
def server(tiny_files: dict[str, bytes]) -> Iterator[Hub]:
    found = Hub("", {**tiny_files, "pytorch_model.bin": b"never asked for"})
    prefix = f"/{TINY.repository}/resolve/{TINY.revision}/"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            name = self.path.removeprefix(prefix)
            content = found.files.get(name) if self.path.startswith(prefix) else None
            if with_body and self.path.startswith(prefix):
                found.asked.append(f"{name} {self.headers.get('Range') or ''}".strip())
            body = content or b""
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", TINY.revision)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    found.endpoint = f"http://127.0.0.1:{httpd.server_port}"
    yield found
    httpd.shutdown()
    httpd.server_close()


def _fetch(out: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Fetch in a fresh process with the environment of a job: offline, as far as the libraries know."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1", "HF_HOME": str(out.parent / "home")}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment.pop(hub.MIRROR, None)
    command = [sys.executable, "-c", FETCH, str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_the_pinned_files_arrive_and_load(server: Hub, tmp_path: Path) -> None:
    out = tmp_path / "flan-t5-small"
    result = _fetch(out, server.endpoint)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {file.name for file in out.iterdir()} == set(TINY.files)
    assert {line.split()[0] for line in server.asked} == set(TINY.downloaded)
    record = json.loads((out / "backbone.json").read_text())
    assert record["revision"] == FLAN_T5_SMALL.revision
    assert (
        record["weights_sha256"]["model.safetensors"] == hashlib.sha256(server.files["model.safetensors"]).hexdigest()
    )
    assert not out.with_name("flan-t5-small.checkpoint").exists()


def test_what_has_arrived_is_not_fetched_again(server: Hub, tmp_path: Path) -> None:
    out = tmp_path / "flan-t5-small"
    weights = server.files.pop("model.safetensors")
    failed = _fetch(out, server.endpoint)
    assert failed.returncode == 1
    assert "model.safetensors cannot be fetched" in failed.stderr
    assert not out.exists()
    server.files["model.safetensors"] = weights
    server.asked.clear()
    assert _fetch(out, server.endpoint).returncode == 0
    assert [line.split()[0] for line in server.asked] == ["model.safetensors"]


@pytest.mark.slow
def test_without_a_connection_the_message_says_what_to_do(tmp_path: Path) -> None:
    result = _fetch(tmp_path / "flan-t5-small", "http://127.0.0.1:9")
    assert result.returncode == 1
    for part in ("gemsbench backbone flan-t5-small", "GEMSBENCH_MIRROR", "backbones/flan-t5-small/", TINY.revision):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "flan-t5-small").exists()


def _mirror(folder: Path, files: dict[str, bytes], spec: BackboneSpec = TINY) -> Path:
    for name, content in files.items():
        path = folder / "backbones" / spec.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_mirror_serves_without_a_connection(
    tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hub.MIRROR, str(_mirror(tmp_path / "mirror", tiny_files)))
    hub.fetch_hub_model(TINY, tmp_path / "out")
    for name, content in tiny_files.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    (tmp_path / "out" / "backbone.json").unlink()  # its shapes are not those of the name in it
    assert load_backbone(tmp_path / "out").kind == "t5"


def test_a_mirror_that_lacks_a_file_is_named(
    tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del tiny_files["model.safetensors"]
    monkeypatch.setenv(hub.MIRROR, str(_mirror(tmp_path / "mirror", tiny_files)))
    with pytest.raises(InputError, match=r"flan-t5-small/model\.safetensors: no such file"):
        hub.fetch_hub_model(TINY, tmp_path / "out")


def test_another_model_under_the_name_is_refused(
    tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hub.MIRROR, str(_mirror(tmp_path / "mirror", tiny_files)))
    with pytest.raises(InputError, match="but flan-t5-small has"):
        hub.fetch_hub_model(FLAN_T5_SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from gemsbench.encoders.item_text import ItemText, ItemTextSettings
from gemsbench.encoders.text_models import MODELS, TextModel, embed_texts, load_text_model, query_prompt
from gemsbench.errors import InputError

WORDS = ["kettle", "lamp", "carpet", "number", "of", "kind", "a", "good", *map(str, range(30))]
TEXTS = ["lamp number 3", "kettle", "a good carpet of kind 2 number 11", "lamp number 4", "kettle"]


def save_tiny_model(folder: Path) -> Any:
    """A two-layer BERT with mean pooling, written as sentence-transformers writes its models."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **named)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        bert = BertModel(BertConfig(vocab_size=len(special) + len(WORDS), max_position_embeddings=32, **sizes))
    bert.save_pretrained(folder / "bert")
    wrapped.save_pretrained(folder / "bert")
    model = SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(24)], device="cpu")
    model.save(str(folder / "model"))
    return model


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of the model, and the model that was saved."""
    folder = tmp_path_factory.mktemp("text model")
    return folder / "model", save_tiny_model(folder)


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty cache"))
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    yield


class TestCatalogue:
    @pytest.mark.parametrize("name", MODELS)
    def test_each_model_is_pinned_to_a_commit(self, name: str) -> None:
        model = MODELS[name]
        assert re.fullmatch("[0-9a-f]{40}", model.revision)
        assert model.repository.endswith(f"/{name}")
        assert min(model.width, model.max_tokens) > 0

    def test_only_a_named_model_has_a_prompt(self) -> None:
        assert query_prompt("bge-base-zh-v1.5", "")
        assert query_prompt("all-mpnet-base-v2", "") == query_prompt("", "some/folder") == ""

    def test_an_unknown_name_is_told_the_nearest(self) -> None:
        with pytest.raises(InputError, match="Did you mean 'all-mpnet-base-v2'"):
            load_text_model("all-mpnet-base-v1", "", 0)


class TestFolder:
    def test_what_was_saved_gives_the_same_vectors(self, tiny_model: tuple[Path, Any]) -> None:
        folder, saved = tiny_model
        model, record = load_text_model("", str(folder), 0)
        vectors = embed_texts(model, TEXTS)
        wanted = saved.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert vectors == pytest.approx(wanted, abs=1e-5)
        assert vectors.dtype == np.float32
        weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert record == {"model": "model", "source": "folder", "weights_sha256": {"model.safetensors": weights}}

    def test_equal_texts_are_equal_and_neither_order_nor_batch_size_matters(self, tiny_model: tuple[Path, Any]) -> None:
        model, _ = load_text_model("", str(tiny_model[0]), 0)
        vectors = embed_texts(model, TEXTS)
        assert vectors[1].tobytes() == vectors[4].tobytes()
        assert embed_texts(model, TEXTS[::-1])[::-1].tobytes() == vectors.tobytes()
        assert embed_texts(model, TEXTS, batch_size=1) == pytest.approx(vectors, abs=1e-5)

    def test_texts_are_cut_to_the_most_tokens(self, tiny_model: tuple[Path, Any]) -> None:
        model, _ = load_text_model("", str(tiny_model[0]), 4)
        long, cut = embed_texts(model, ["lamp number 3 of kind 4", "lamp number"])
        assert long == pytest.approx(cut, abs=1e-5)  # [CLS] lamp number [SEP]
        whole = embed_texts(load_text_model("", str(tiny_model[0]), 0)[0], ["lamp number 3 of kind 4"])
        assert not np.allclose(long, whole, atol=1e-3)

    @pytest.mark.parametrize("broken", ["no modules", "cut weights"])
    def test_a_folder_that_is_no_model_is_named(
        self, tiny_model: tuple[Path, Any], tmp_path: Path, broken: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(tiny_model[0], copy)
        if broken == "no modules":
            (copy / "modules.json").unlink()
        else:
            weights = next(copy.rglob("model.safetensors"))
            weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(InputError, match=re.escape(str(copy))):
            load_text_model("", str(copy), 0)

    def test_item_text_reads_it(self, world: Any, tiny_model: tuple[Path, Any]) -> None:
        config = ItemTextSettings(folder=str(tiny_model[0]))
        made, again = (ItemText().encode(config, world.data, 1, Path("unused")) for _ in range(2))
        assert made.vectors.shape == (61, 24)
        assert made.known.sum() == 59
        assert made.record["model"] == "model"
        assert list(made.record["weights_sha256"]) == ["model.safetensors"]
        assert made.record["tells_src"]["n"] == 30
        assert made.vectors.tobytes() == again.vectors.tobytes()
        text = world.data.items.filter(item_id=5)["text"][0]
        wanted = tiny_model[1].encode([text], normalize_embeddings=True, show_progress_bar=False)
        assert made.vectors[5] == pytest.approx(wanted[0], abs=1e-5)


class TestPickledWeights:
    @pytest.mark.parametrize("where", ["", "2_Dense"])
    def test_a_folder_with_pickled_weights_alone_is_refused(
        self, tiny_model: tuple[Path, Any], tmp_path: Path, where: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(tiny_model[0], copy)
        weights = load_file(copy / "model.safetensors")
        (copy / where).mkdir(exist_ok=True)
        torch.save(weights, copy / where / "pytorch_model.bin")
        if not where:
            assert load_text_model("", str(copy), 0)  # never read where safetensors stand beside it
            (copy / "model.safetensors").unlink()
        named = re.escape(f"{copy}: {where}/pytorch_model.bin".replace(": /", ": "))
        with pytest.raises(InputError, match=f"{named} is a pickle.*safetensors"):
            load_text_model("", str(copy), 0)


@dataclass
class Hub:
    """A server with the paths and headers of huggingface.co, and one model."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)  # names of files that were downloaded


REPOSITORY, REVISION = "someone/tiny", "0" * 40


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/")
            body = hub.files.get(name)
            if body is not None and with_body:
                hub.asked.append(name)
            if path == f"/api/models/{REPOSITORY}/tree/{REVISION}":
                sizes = {name: len(content) for name, content in hub.files.items()}
                listing = [{"type": "file", "path": n, "size": size, "oid": "0" * 40} for n, size in sizes.items()]
                body = json.dumps(listing).encode()
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if with_body:
                self.wfile.write(body or b"")

    return Handler


@pytest.fixture
def hub(tiny_model: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, _offline: None) -> Iterator[Hub]:
    """A hub that holds the tiny model, while the libraries believe to be offline."""
    from huggingface_hub import constants

    folder = tiny_model[0]
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found = Hub({name: (folder / name).read_bytes() for name in names})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    template = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    known = {"tiny": TextModel(REPOSITORY, REVISION, 24, 16)}
    monkeypatch.setattr("gemsbench.encoders.text_models.MODELS", known)
    yield found
    httpd.shutdown()
    httpd.server_close()


class TestHub:
    def test_a_named_model_is_downloaded_within_a_job_and_only_once(
        self, hub: Hub, tiny_model: tuple[Path, Any]
    ) -> None:
        from huggingface_hub import constants

        hub.files |= {"pytorch_model.bin": b"never asked for", "onnx/model.json": b"{}"}
        model, record = load_text_model("tiny", "", 0)
        assert constants.HF_HUB_OFFLINE
        wanted = tiny_model[1].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert embed_texts(model, TEXTS) == pytest.approx(wanted, abs=1e-5)
        weights = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
        assert record == {
            "model": "tiny",
            "source": REPOSITORY,
            "revision": REVISION,
            "weights_sha256": {"model.safetensors": weights},
        }
        assert {"modules.json", "model.safetensors"} < set(hub.asked)
        assert not {"pytorch_model.bin", "onnx/model.json"} & set(hub.asked)
        hub.asked.clear()
        load_text_model("tiny", "", 0)
        assert hub.asked == []

    def test_pickled_weights_alone_are_refused_and_not_downloaded(self, hub: Hub) -> None:
        hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
        with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*GEMSBENCH_MIRROR/encoders/tiny"):
            load_text_model("tiny", "", 0)
        assert "pytorch_model.bin" not in hub.asked

    def test_what_cannot_be_had_says_what_to_do(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = {"tiny": TextModel(REPOSITORY, "1" * 40, 24, 16)}
        monkeypatch.setattr("gemsbench.encoders.text_models.MODELS", elsewhere)
        with pytest.raises(InputError, match="cannot be had") as caught:
            load_text_model("tiny", "", 0)
        for part in (REPOSITORY, "1" * 40, "$GEMSBENCH_MIRROR/encoders/tiny"):
            assert part in str(caught.value)
        assert hub.asked == []

    @pytest.mark.usefixtures("_offline")
    def test_the_mirror_is_read_first(
        self, tiny_model: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "encoders").mkdir()
        (tmp_path / "encoders" / "tiny").symlink_to(tiny_model[0])
        monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path))
        known = {
            "tiny": TextModel("someone/tiny", "0" * 40, 24, 16),
            "wide": TextModel("someone/wide", "0" * 40, 48, 16),
        }
        monkeypatch.setattr("gemsbench.encoders.text_models.MODELS", known)
        model, record = load_text_model("tiny", "", 100)
        assert record["source"] == "someone/tiny" and list(record["weights_sha256"]) == ["model.safetensors"]
        assert model.max_seq_length == 16
        wanted = tiny_model[1].encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
        assert embed_texts(model, TEXTS) == pytest.approx(wanted, abs=1e-5)
        (tmp_path / "encoders" / "wide").symlink_to(tiny_model[0])
        with pytest.raises(InputError, match="24 dimensions, not 48"):
            load_text_model("wide", "", 0)

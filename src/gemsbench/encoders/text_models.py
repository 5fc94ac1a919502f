"""Sentence-transformers models that give vectors to texts: a small catalogue at pinned revisions, or a local folder.

Revisions are commits of the hub, as the model metas of the MTEB project name them. Weights are read from safetensors
files only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from gemsbench.backbones.hub import MIRROR
from gemsbench.config import nearest
from gemsbench.encoders.text_model_files import file_names, hub_snapshot, require_safetensors, weights_sha256
from gemsbench.errors import InputError
from gemsbench.identifiers.vectors import Float32Array

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODULES = "modules.json"  # names the modules of a sentence-transformers folder


@dataclass(frozen=True)
class TextModel:
    """A model of the hub; width: of its vectors, max_tokens: of a text, query_prompt: written before a query."""

    repository: str
    revision: str
    width: int
    max_tokens: int
    query_prompt: str = ""


MODELS: Mapping[str, TextModel] = {
    "sentence-t5-base": TextModel(
        "sentence-transformers/sentence-t5-base", "50c53e206f8b01c9621484a3c0aafce4e55efebf", 768, 256
    ),
    "all-mpnet-base-v2": TextModel(
        "sentence-transformers/all-mpnet-base-v2", "9a3225965996d404b775526de6dbfe85d3368642", 768, 384
    ),
    # Public listings of its files name pickled weights only. Then it is refused until the mirror holds a conversion.
    "bge-base-zh-v1.5": TextModel(
        "BAAI/bge-base-zh-v1.5",
        "f03589ceff5aac7111bd60cfc7d497ca17ecac65",
        768,
        512,
        "为这个句子生成表示以用于检索相关文章\N{FULLWIDTH COLON}",
    ),
    "paraphrase-multilingual-mpnet-base-v2": TextModel(
        "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
        "79f2382ceacceacdf38563d7c5d16b9ff8d725d6",
        768,
        128,
    ),
}


def query_prompt(model: str, folder: str) -> str:
    """What the model wants before a query; nothing for a model of a folder."""
    return "" if folder else _spec(model).query_prompt


def check_model_choice(model: str, folder: str, where: str) -> None:
    """Raise InputError when both a name and a folder are given, or the name is not in the catalogue."""
    if model and folder:
        raise InputError(f"{where}: model is '{model}' and folder is '{folder}'. Give one of them.")
    if model:
        _spec(model)


def load_text_model(model: str, folder: str, max_tokens: int) -> tuple[SentenceTransformer, dict[str, Any]]:
    """The model called `model`, or the one in `folder`; texts are cut to max_tokens (0: as many as it was made for).

    A named model is read from $GEMSBENCH_MIRROR/encoders/<name> when that folder exists, else from the hub's cache or
    the hub. Code from the hub is never run, pickled weights are never read. The record says in JSON values where the
    model comes from: name, source, revision, and weights_sha256 of its files.
    Raises InputError when the model cannot be had, has pickled weights only, or is of another width.
    """
    if folder:
        files = Path(folder)
        loaded = _read_folder(files)
        most = max_tokens
        record: dict[str, Any] = {"model": files.name, "source": "folder"}
    else:
        spec = _spec(model)
        files = _files_of(model, spec)
        loaded = _read_folder(files)
        if loaded.get_embedding_dimension() != spec.width:
            raise InputError(
                f"{model}: its vectors have {loaded.get_embedding_dimension()} dimensions, not {spec.width}. "
                f"{files} holds another model."
            )
        most = min(max_tokens or spec.max_tokens, spec.max_tokens)
        record = {"model": model, "source": spec.repository, "revision": spec.revision}
    if most:
        _cut_texts(loaded, most)
    return loaded, {**record, "weights_sha256": weights_sha256(files)}


def _cut_texts(model: SentenceTransformer, most: int) -> None:
    """Let the model read at most this many tokens of a text."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    first = model[0]
    if isinstance(first, StaticEmbedding):  # its max_seq_length is infinite and cannot be set
        first.tokenizer.enable_truncation(most)
    else:
        model.max_seq_length = min(most, model.max_seq_length or most)


def embed_texts(model: SentenceTransformer, texts: Sequence[str], batch_size: int = 64) -> Float32Array:
    """Unit vectors of texts, float32 [n, D]; each text is encoded once, in an order that is a function of the set."""
    unique, rows = np.unique(np.array(texts, dtype=object), return_inverse=True)
    encoded = model.encode(unique.tolist(), batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True)
    vectors: Float32Array = np.asarray(encoded, dtype=np.float32)
    return vectors[rows]


def _spec(model: str) -> TextModel:
    if model not in MODELS:
        raise InputError(f"unknown text model '{model}'. {nearest(model, MODELS)} Or set folder to one of your own.")
    return MODELS[model]


def _read_folder(folder: Path) -> SentenceTransformer:
    if not (folder / _MODULES).is_file():
        raise InputError(
            f"{folder}: not a folder of a sentence-transformers model (no {_MODULES}). Write one with "
            "SentenceTransformer.save, or copy a snapshot of the hub."
        )
    require_safetensors(file_names(folder), str(folder), "its place")
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"{folder}: cannot be read as a sentence-transformers model ({_first_line(error)})."
        ) from error


def _files_of(model: str, spec: TextModel) -> Path:
    """The folder of a named model: the mirror's where there is one, else the hub's snapshot."""
    mirror = Path(os.environ.get(MIRROR, "")) / "encoders" / model
    if os.environ.get(MIRROR) and mirror.is_dir():
        return mirror
    return hub_snapshot(model, spec.repository, spec.revision)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""How much of a dataset's text a tokenizer cannot write: the share of unknown tokens, per tokenizer.

Only the tokenizers library is used, so that no model and no torch is loaded.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from gemsbench.backbones.catalogue import ALL, BackboneSpec, Kind
from gemsbench.errors import InputError
from gemsbench.profile import Profile
from gemsbench.seeds import hash64_many, mix64, stream_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 20_000  # texts of a kind at most
MIRROR = "GEMSBENCH_MIRROR"  # a folder of downloaded things; vocabularies lie in tokenizers/t5 and tokenizers/qwen
FILE = "tokenizer.json"
_PUBLISHED: Mapping[Kind, tuple[str, str]] = {"t5": ("t5", "T5 (published)"), "qwen2": ("qwen", "Qwen (published)")}
_BATCH = 1_000


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer under the name it is printed with; folder: holds tokenizer.json, or vocab.json and merges.txt."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Unknown:
    """What a tokenizer makes of some texts; special tokens at the ends are not counted."""

    texts: int
    tokens: int
    unknown_tokens: int
    texts_with_unknown: int


def find_vocabularies(profile: Profile, results: Path, config: Path) -> tuple[list[Vocabulary], list[str]]:
    """The tokenizers of the profile's table blocks and the published T5 and Qwen ones, and a line for each missing.

    Looked for in results/backbones/<backbone>, then below $GEMSBENCH_MIRROR: backbones/<backbone>, and for a hub model
    the published vocabulary of its family, tokenizers/t5 or tokenizers/qwen.
    """
    mirror = Path(os.environ[MIRROR]) if os.environ.get(MIRROR) else None
    found: list[Vocabulary] = []
    missing: list[str] = []
    for name in dict.fromkeys(profile.tables.blocks.values()):
        folders = _folders(ALL[name], results, mirror)
        folder = next((folder for folder in folders if _has_vocabulary(folder)), None)
        if folder is not None:
            found.append(Vocabulary(name, folder))
        else:
            missing.append(
                f"{name}: no {folders[0] / FILE}. Make it: gemsbench backbone {name} --config {config}{_or(name)}"
            )
    taken = {vocabulary.folder for vocabulary in found}
    for below, label in _PUBLISHED.values():
        folder = mirror / "tokenizers" / below if mirror else None
        if folder is not None and folder not in taken and _has_vocabulary(folder):
            found.append(Vocabulary(label, folder))
    return found, missing


def _folders(spec: BackboneSpec, results: Path, mirror: Path | None) -> list[Path]:
    folders = [results / "backbones" / spec.name]
    if mirror is not None:
        folders.append(mirror / "backbones" / spec.name)
        if spec.repository:  # a stand-in has a vocabulary of its own
            folders.append(mirror / "tokenizers" / _PUBLISHED[spec.kind][0])
    return folders


def _or(name: str) -> str:
    family = _PUBLISHED[ALL[name].kind][0]
    return f", or set {MIRROR} to a folder that holds tokenizers/{family}/." if ALL[name].repository else "."


def _has_vocabulary(folder: Path) -> bool:
    return any(_file(folder, name) is not None for name in (FILE, "vocab.json"))


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def sample_texts(table: pl.DataFrame, key: str, text: str, seed: int) -> list[str]:
    """Texts of at most SAMPLE rows, those with the smallest keyed hashes of column `key`, whatever the row order."""
    table = table.select(pl.col(key).alias("key"), pl.col(text).alias("text"))
    if table.height > SAMPLE:
        drawn = mix64(stream_seed(seed, "texts of data stats", key), hash64_many(table["key"]))
        table = table.with_columns(drawn=pl.Series(drawn, dtype=pl.UInt64)).bottom_k(SAMPLE, by="drawn")
    return table.sort("key")["text"].to_list()


def unknown_tokens(vocabulary: Vocabulary, texts: Mapping[str, Sequence[str]]) -> dict[str, Unknown]:
    """Count, for each kind of text, the tokens that stand for something outside the vocabulary.

    A byte-level vocabulary has no such token, because it holds every byte. Raises InputError for files that cannot be
    read, and for a vocabulary with neither an unknown token nor every byte.
    """
    tokenizer, unknown_id = _load(vocabulary)
    return {kind: _counted(tokenizer, unknown_id, some) for kind, some in texts.items()}


def _counted(tokenizer: Tokenizer, unknown_id: int | None, texts: Sequence[str]) -> Unknown:
    tokens = unknown = touched = 0
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]), add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in batch]
        row = np.repeat(np.arange(len(ids)), [len(some) for some in ids])
        is_unknown = np.concatenate(ids) == (-1 if unknown_id is None else unknown_id)
        tokens += len(is_unknown)
        unknown += int(is_unknown.sum())
        touched += len(np.unique(row[is_unknown]))
    return Unknown(len(texts), tokens, unknown, touched)


def _load(vocabulary: Vocabulary) -> tuple[Tokenizer, int | None]:
    """The tokenizer, neither cutting nor padding, and the id of its unknown token, None for byte-level ones."""
    path = _file(vocabulary.folder, FILE)
    try:
        tokenizer = _from_json(path) if path is not None else _byte_level(vocabulary.folder)
        model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{vocabulary.folder}: its tokenizer cannot be read ({reason}). Copy the files again."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = model.get("unk_id")
    if unknown is None and model.get("unk_token") is not None:
        unknown = tokenizer.token_to_id(model["unk_token"])
    if unknown is None:
        from tokenizers.pre_tokenizers import ByteLevel

        lacking = sorted(set(ByteLevel.alphabet()) - set(tokenizer.get_vocab()))
        if lacking:
            raise InputError(
                f"{vocabulary.folder}: the tokenizer has no unknown token and lacks {len(lacking)} of the 256 bytes, "
                "so it drops text without a word. Copy the files again."
            )
    return tokenizer, unknown


def _from_json(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_read(path))


def _byte_level(folder: Path) -> Tokenizer:
    """A byte-level BPE tokenizer of vocab.json and merges.txt, split into words as GPT-2 does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    ranks, merges = _file(folder, "vocab.json"), _file(folder, "merges.txt")
    if ranks is None or merges is None:
        raise InputError(f"{folder}: vocab.json or merges.txt is missing.")
    lines = [line for line in _read(merges).split("\n") if line and not line.startswith("#version")]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    tokenizer = Tokenizer(models.BPE(json.loads(_read(ranks)), pairs))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")

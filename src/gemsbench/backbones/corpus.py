"""Plain text for pre-training: documents, the held-out ones, and windows of token ids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from gemsbench import seeds
from gemsbench.errors import InputError

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from and documents to test on."""

    train: Sequence[str]
    heldout: Sequence[str]


@contextmanager
def text_file(documents: Sequence[str]) -> Iterator[Path]:
    """Within the block: a temporary file that `read_corpus` reads, with blank lines between the documents (UTF-8)."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text("\n\n".join(documents), encoding="utf-8")
        yield path


def read_corpus(path: Path, heldout_share: float) -> Corpus:
    """Read a text file (UTF-8, documents separated by blank lines); equal documents count once.

    The documents with the smallest hashes are held out, so the choice depends on no order. Raises InputError when the
    file is missing, not UTF-8, or has fewer than two different documents.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such text file. Make or fetch the corpus first.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Convert it.") from error
    documents = list(dict.fromkeys(document for part in text.split("\n\n") if (document := part.strip())))
    if len(documents) < 2:
        raise InputError(
            f"{path}: {len(documents)} documents. Pre-training needs at least two different ones, separated by blank "
            "lines: one to learn from and one held out."
        )
    hashes = seeds.hash64_many(documents)
    held_out = np.zeros(len(documents), dtype=bool)
    held_out[np.argsort(hashes, kind="stable")[: math.ceil(heldout_share * len(documents))]] = True
    return Corpus(
        [document for document, held in zip(documents, held_out, strict=True) if not held],
        [document for document, held in zip(documents, held_out, strict=True) if held],
    )


def token_windows(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[str], window: int, separator: int | None = None
) -> Int64Array:
    """Token ids of the documents laid end to end and cut into windows, int64 [windows, window]; the rest is left out.

    separator: the id that closes each document; None: nothing does.
    """
    end = [] if separator is None else [separator]
    encodings = tokenizer.backend_tokenizer.encode_batch(list(documents), add_special_tokens=False)
    ids = np.concatenate([np.array(encoding.ids + end, dtype=np.int64) for encoding in encodings])
    return ids[: len(ids) // window * window].reshape(-1, window)

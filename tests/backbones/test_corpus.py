"""Corpora: documents, which of them are held out, and windows of their tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gemsbench.backbones.corpus import read_corpus, text_file, token_windows
from gemsbench.backbones.loading import Backbone
from gemsbench.errors import InputError


def _write(path: Path, documents: list[str]) -> Path:
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


def test_the_held_out_documents_do_not_depend_on_the_order(tmp_path: Path) -> None:
    documents = [f"document {n}\nwith two lines" for n in range(50)]
    first = read_corpus(_write(tmp_path / "a.txt", documents), 0.1)
    second = read_corpus(_write(tmp_path / "b.txt", documents[::-1]), 0.1)
    assert set(first.heldout) == set(second.heldout)
    assert len(first.heldout) == 5
    assert sorted([*first.train, *first.heldout]) == sorted(documents)


def test_a_text_file_holds_the_documents_as_they_are_read_again() -> None:
    documents = ["naïve café\nwith two lines", "你好", "three"]
    with text_file(documents) as path:
        corpus = read_corpus(path, 0.3)
    assert sorted([*corpus.train, *corpus.heldout]) == sorted(documents)
    assert not path.exists()


def test_a_document_is_never_on_both_sides(tmp_path: Path) -> None:
    corpus = read_corpus(_write(tmp_path / "a.txt", ["one", "two", "one", " two ", "three", "", "one"]), 0.5)
    assert sorted([*corpus.train, *corpus.heldout]) == ["one", "three", "two"]


@pytest.mark.parametrize("text", ["", "\n\n \n\n", "one document only\nof two lines\n", "twice\n\ntwice"])
def test_an_empty_corpus_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="at least two different"):
        read_corpus(path, 0.05)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such text file"):
        read_corpus(tmp_path / "none.txt", 0.05)
    (tmp_path / "latin.txt").write_bytes("naïve\n\nçà".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_corpus(tmp_path / "latin.txt", 0.05)


def test_windows_hold_the_text_in_order(made: dict[str, Backbone]) -> None:
    tokenizer = made["qwen2"].tokenizer
    documents = ["The lamp stands in the garden.", "Another kettle.", "The end of it all."]
    end = tokenizer.pad_token_id
    windows = token_windows(tokenizer, documents, 5, separator=end)
    ids = [i for document in documents for i in [*tokenizer(document).input_ids, end]]
    assert windows.shape == (len(ids) // 5, 5) and windows.dtype == np.int64
    assert windows.reshape(-1).tolist() == ids[: windows.size]
    assert token_windows(made["t5"].tokenizer, documents, 1000).shape == (0, 1000)
    assert 1 not in token_windows(made["t5"].tokenizer, documents, 4)  # no end token inside

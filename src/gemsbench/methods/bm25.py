"""BM25: a sanity row for search; the query against title and description of each candidate.

Robertson & Zaragoza (2009) in the form of Lucene, computed by the bm25s library (arXiv 2407.03618), which stores the
contribution of every (item, term) pair; a candidate's score is the sum over the query's terms. Words are tokens,
Chinese characters and Hiragana single tokens, as in Lucene's standard tokenizer; no stemming, no stop words.
The categories that make synthetic queries are not part of the text. Cost: one pass over the text, then about one
microsecond per candidate; nothing of size queries x items is formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bm25s
import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors.numpy import load_file, save
from scipy.sparse import csc_matrix, csr_matrix

from gemsbench.errors import InputError
from gemsbench.files import atomic_path, read_table, write_table
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import ScoreArray

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

_TOKEN = r"[\p{Han}\p{Hiragana}]|[\w--[\p{Han}\p{Hiragana}]]+"


@dataclass(frozen=True)
class BM25Settings:
    """Config of BM25; the defaults are Lucene's."""

    k1: float = 1.2  # saturation of the term frequency
    b: float = 0.75  # normalisation by length, 0 to 1


@dataclass(frozen=True)
class _Terms:
    """Token ids of N texts laid end to end: text n holds ids[starts[n]:starts[n + 1]]."""

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]  # [N + 1]


def tokenize(texts: pl.Series) -> pl.Series:
    """Tokens of each text (list[str]): NFKC, lower case, words, and single Han or Hiragana characters."""
    return texts.str.normalize("NFKC").str.to_lowercase().str.extract_all(_TOKEN).alias("token")


def _known_terms(tokens: pl.Series, vocabulary: pl.Series) -> _Terms:
    terms = pl.DataFrame({"token": vocabulary}).with_row_index("term")
    flat = (
        pl.DataFrame({"token": tokens})
        .with_row_index("text")
        .explode("token")
        .join(terms, on="token", how="inner", maintain_order="left")
    )
    counts = np.bincount(flat["text"].to_numpy(), minlength=len(tokens))
    return _Terms(flat["term"].cast(pl.Int64).to_numpy(), np.concatenate([[0], np.cumsum(counts)]))


class BM25:
    """Score = sum over the query's terms of idf x saturated term frequency in the item's text."""

    Config = BM25Settings

    def fit(self, config: BM25Settings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Index the text of the whole catalogue; raises InputError when no item has any text."""
        items = data.items.sort("item_id")
        tokens = tokenize(items.select(pl.concat_str("title", "description", separator=" "))["title"])
        vocabulary = tokens.explode().drop_nulls().unique().sort()
        if vocabulary.is_empty():
            raise InputError("bm25: no item has a title or a description, so there is nothing to index.")
        terms = _known_terms(tokens, vocabulary)
        index = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
        documents = np.split(terms.ids, terms.starts[1:-1])
        vocabulary_ids = {token: term for term, token in enumerate(vocabulary)}
        index.index((documents, vocabulary_ids), create_empty_token=False, show_progress=False)
        shape = (items.height, len(vocabulary))
        matrix = csc_matrix(
            (index.scores["data"], index.scores["indices"], index.scores["indptr"]), shape=shape
        ).tocsr()
        matrix.sort_indices()
        arrays: dict[str, npt.NDArray[Any]] = {
            "data": matrix.data.astype(np.float32),
            "indices": matrix.indices.astype(np.int32),
            "indptr": matrix.indptr.astype(np.int64),
        }
        with atomic_path(out / "index.safetensors") as temporary:
            temporary.write_bytes(save(arrays))
        write_table(out / "vocabulary.parquet", vocabulary.to_frame("token"))

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 arrays; 0 where the item's text shares no term with the query."""
        vocabulary = read_table(artefact / "vocabulary.parquet")["token"]
        arrays = load_file(artefact / "index.safetensors")
        n_items = len(arrays["indptr"]) - 1
        matrix = csr_matrix(
            (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n_items, len(vocabulary))
        )  # [items, terms]

        def sum_over_terms(batch: CandidateBatch) -> npt.NDArray[np.float64]:
            queries = batch.cases["query"]
            texts = queries.unique(maintain_order=True)
            terms = _known_terms(tokenize(texts), vocabulary)
            text_of_case = queries.replace_strict(texts, range(len(texts)), return_dtype=pl.Int64).to_numpy()
            return _sum_over_terms(matrix, terms, text_of_case[batch.rows], batch.items - 1)

        yield from score_in_batches(cases, sum_over_terms, n_items)


def _sum_over_terms(
    matrix: csr_matrix, terms: _Terms, texts: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Sum of matrix[items[p], t] over the terms t of text texts[p]: float64 [P]; no term gives 0."""
    n_terms = np.diff(terms.starts)[texts]
    pairs = np.repeat(np.arange(len(texts)), n_terms)
    position_in_text = np.arange(len(pairs)) - np.repeat(np.cumsum(n_terms) - n_terms, n_terms)
    columns = terms.ids[terms.starts[texts[pairs]] + position_in_text]
    if not pairs.size:
        return np.zeros(len(texts))
    parts = np.asarray(matrix[items[pairs], columns], dtype=np.float64).ravel()
    sums: npt.NDArray[np.float64] = np.bincount(pairs, weights=parts, minlength=len(texts)).astype(np.float64)
    return sums

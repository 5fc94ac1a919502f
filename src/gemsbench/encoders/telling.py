"""What vectors tell of the answers before anything is trained on them, beside what chance gives on the same lists.

The validation cases with their candidates are ranked by cosine alone: for recommendation against the mean of the unit
vectors of the history's known items, for search against the vector of the query. Equal scores count with the
expectation over random order, so items that share a text cost no more than they must.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from gemsbench.evaluation.metrics import expected_hit, expected_ndcg, rank_positives
from gemsbench.evaluation.ragged import flatten
from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.identifiers.vectors import BoolArray, Float32Array, ItemVectors

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

_CANDIDATES_AT_A_TIME = 1 << 16  # bounds the gathered rows: 65,536 x 768 floats are 200 MB
Embed = Callable[[Sequence[str]], Float32Array]  # texts -> unit vectors [n, D]


@dataclass(frozen=True, eq=False)
class AskedCases:
    """The validation cases of one task that have candidates, by case_id.

    cases: case_id, query_id, hist_items, hist_tasks, one row per case; lists: their candidates, in the same order.
    """

    cases: pl.DataFrame
    lists: ValidationLists

    @staticmethod
    def of(data: TrainingData, task: str) -> AskedCases | None:
        """The cases of a task; None when there are none."""
        asked = data.cases.filter((pl.col("split") == "valid") & (pl.col("task") == task))
        asked = asked.join(data.valid_candidates, on="case_id", how="semi").sort("case_id")
        if asked.is_empty():
            return None
        lists = ValidationLists.of(asked, data.valid_candidates, task)
        return AskedCases(asked.select("case_id", "query_id", "hist_items", "hist_tasks"), lists)


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Rows scaled to length 1, float32 of the same shape; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Float32Array = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def history_profiles(cases: pl.DataFrame, unit: Float32Array) -> Float32Array:
    """Mean of the history's known unit vectors up to its length, float32 [Q, D]; zeros where none is known.

    unit: float32 [n_items + 1, D] with zeros for unknown items.
    """
    items, offsets = flatten(cases["hist_items"])
    shape = (cases.height, len(unit))
    chosen = csr_matrix((np.ones(len(items), np.float32), items.astype(np.int64), offsets), shape=shape)
    return unit_rows(np.asarray(chosen @ unit, dtype=np.float32))


def cosine_scores(asked: Float32Array, lists: ValidationLists, unit: Float32Array, known: BoolArray) -> Float32Array:
    """Cosine of every candidate with what its case asks for, float32 [N].

    asked: unit vectors [Q, D]; unit: [n_items + 1, D]. An unknown candidate stands last; when a case asks for nothing
    (a row of zeros) all its candidates are equal.
    """
    owner = np.repeat(np.arange(lists.n_cases), np.diff(lists.offsets))
    scores = np.empty(len(owner), np.float32)
    for start in range(0, len(owner), _CANDIDATES_AT_A_TIME):
        rows = slice(start, start + _CANDIDATES_AT_A_TIME)
        scores[rows] = np.einsum("nd,nd->n", asked[owner[rows]], unit[lists.items[rows]])
    scores[~known[lists.items]] = -np.inf
    asks: BoolArray = (asked != 0).any(axis=1)
    scores[~asks[owner]] = 0
    return scores


def hit10(scores: Float32Array, lists: ValidationLists) -> float:
    """Mean Hit@10 of scores (float32 [N]), in expectation over the order of equal scores."""
    return float(expected_hit(rank_positives(scores, lists.offsets, lists.positive), 10).mean())


def figures(scores: Float32Array, lists: ValidationLists) -> dict[str, Any]:
    """ndcg@10 of scores (float32 [N]), chance (the exact expectation of a random order on these lists) and n cases."""

    def mean_ndcg(values: Float32Array) -> float:
        return float(expected_ndcg(rank_positives(values, lists.offsets, lists.positive), 10).mean())

    return {"ndcg@10": mean_ndcg(scores), "chance": mean_ndcg(np.zeros_like(scores)), "n": lists.n_cases}


def what_vectors_tell(data: TrainingData, vectors: ItemVectors) -> dict[str, Any]:
    """What item vectors tell of the recommendation cases, and how many items share a vector.

    Returns {"tells": {"rec": figures}, "duplicates": {...}}; "tells" is empty without recommendation cases.
    """
    tells: dict[str, Any] = {}
    asked = AskedCases.of(data, "rec")
    if asked is not None:
        unit = unit_rows(vectors.vectors)
        scores = cosine_scores(history_profiles(asked.cases, unit), asked.lists, unit, vectors.known)
        tells["rec"] = figures(scores, asked.lists)
    return {"tells": tells, "duplicates": equal_vectors(vectors)}


def equal_vectors(vectors: ItemVectors) -> dict[str, Any]:
    """Share of known items whose vector another known item has too, and the size of the largest such group."""
    rows = np.ascontiguousarray(vectors.vectors[vectors.known] + np.float32(0))  # -0.0 becomes 0.0
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    counts = np.unique(as_bytes, return_counts=True)[1]
    return {"share": float(counts[counts > 1].sum() / len(rows)), "largest": int(counts.max())}


def what_queries_tell(data: TrainingData, vectors: Float32Array, known: BoolArray, embed: Embed) -> dict[str, Any]:
    """What vectors tell of the search cases: {"tells_src": figures}, or {} when there are none.

    vectors: float32 [n_items + 1, D]; embed: gives queries vectors in the same space, it is asked for each text once.
    """
    asked = AskedCases.of(data, "src")
    if asked is None:
        return {}
    scores = cosine_scores(query_vectors(data, asked.cases, embed), asked.lists, unit_rows(vectors), known)
    return {"tells_src": figures(scores, asked.lists)}


def query_vectors(data: TrainingData, cases: pl.DataFrame, embed: Embed) -> Float32Array:
    """Unit vectors of the cases' queries, float32 [Q, D]; embed is asked for each text once, in sorted order."""
    asked = cases.join(data.queries.select("query_id", "text"), on="query_id", how="left", maintain_order="left")
    asked_texts = asked["text"].fill_null("")
    texts = asked_texts.unique().sort()
    rows = asked_texts.replace_strict(texts, range(len(texts)), return_dtype=pl.Int64).to_numpy()
    vectors: Float32Array = unit_rows(embed(texts.to_list()))[rows]
    return vectors

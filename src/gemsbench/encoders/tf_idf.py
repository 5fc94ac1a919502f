"""TF-IDF of words and character n-grams, cut to its leading singular directions (latent semantic analysis)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion
from threadpoolctl import threadpool_limits

from gemsbench.encoders.telling import unit_rows
from gemsbench.errors import InputError
from gemsbench.identifiers.vectors import Float32Array

# Words; Han characters and Kana stand alone, since nothing separates their words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = rf"[{_CJK}]|[^\W{_CJK}]+"
_LEAST = 1e-6  # a shorter projection of a unit vector is rounding, not a direction
_MOST_FEATURES = 200_000  # words, and as many n-grams: the most frequent ones; bounds memory
_LEAST_VARIANCE = 1e-12  # of rows of length sqrt(2); less is rounding
_ITERATIONS = 7  # of the randomised SVD


@dataclass(frozen=True, eq=False)
class TfIdf:
    """Fitted vectoriser and singular directions.

    directions: float64 [n_features, D], largest first; their signs make the largest entry of each positive. explained:
    share of the variance of the texts' TF-IDF vectors, 0 where these are all the same.
    """

    vectoriser: Any
    directions: Any
    explained: float
    threads: int

    @staticmethod
    def fit(texts: Sequence[str], width: int, random_state: int, threads: int) -> TfIdf:
        """Fit on texts; width: of the vectors, lower when there are fewer texts or features.

        Bit-equal for equal texts in equal order, random_state and threads. Raises InputError when the texts hold no
        word and no sign.
        """
        kept: dict[str, Any] = {"sublinear_tf": True, "max_features": _MOST_FEATURES}
        vectoriser = FeatureUnion(
            [
                ("words", TfidfVectorizer(token_pattern=_WORDS, **kept)),
                ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **kept)),
            ]
        )
        try:
            matrix = csr_matrix(vectoriser.fit_transform(texts))
        except ValueError as error:
            raise InputError(f"item-text: the items' texts cannot be indexed ({error}).") from error
        width = min(width, *matrix.shape)
        svd = TruncatedSVD(width, n_iter=_ITERATIONS, random_state=random_state)
        with threadpool_limits(threads), np.errstate(invalid="ignore", divide="ignore"):
            svd.fit(matrix)
        explained = float(svd.explained_variance_ratio_.sum()) if _variance(matrix) > _LEAST_VARIANCE else 0.0
        directions = svd.components_
        largest = np.abs(directions).argmax(axis=1)
        signs = np.sign(directions[np.arange(width), largest])
        directions = np.ascontiguousarray((directions * np.where(signs == 0, 1, signs)[:, None]).T)
        return TfIdf(vectoriser, directions, explained, threads)

    @property
    def n_features(self) -> int:
        """Number of distinct words and character n-grams."""
        return len(self.directions)

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """Unit vectors float32 [n, D]; zeros for a text that shares no direction with the fitted ones."""
        matrix = csr_matrix(self.vectoriser.transform(texts))
        with threadpool_limits(self.threads):
            projected = np.asarray(matrix @ self.directions)
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return unit_rows(np.where(lengths > _LEAST, projected, 0).astype(np.float32))


def _variance(matrix: csr_matrix) -> float:
    """Variance of the rows, summed over columns."""
    mean = np.asarray(matrix.mean(axis=0))
    return float(matrix.multiply(matrix).sum() / matrix.shape[0] - (mean**2).sum())

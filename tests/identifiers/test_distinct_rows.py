"""Equal rows are found whatever their order, however far apart they stand."""

from __future__ import annotations

import numpy as np

from gemsbench.identifiers import distinct_rows as module
from gemsbench.identifiers.distinct_rows import distinct_rows


def test_rows_are_equal_when_their_numbers_are() -> None:
    vectors = np.array([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [0.0, 2.0], [2.0, 3.0]], np.float32)
    first, inverse = distinct_rows(vectors)
    assert sorted(first.tolist()) == [0, 1, 3]
    assert inverse[0] == inverse[2]
    assert inverse[1] == inverse[4]
    assert len({inverse[0], inverse[1], inverse[3]}) == 3


def test_every_row_is_given_back_and_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3)).astype(np.float32)[rng.integers(0, 40, 2 * module._CHUNK)]
    first, inverse = distinct_rows(vectors)
    assert len(first) == 40
    np.testing.assert_array_equal(vectors[first][inverse], vectors)
    shuffled = vectors[rng.permutation(len(vectors))]
    np.testing.assert_array_equal(shuffled[distinct_rows(shuffled)[0]], vectors[first])

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemsbench.decoding import Trie, pack
from gemsbench.decoding.trie import identifier_rows, with_end

Table = npt.NDArray[np.int64]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Random identifiers of 1 to 4 tokens out of few codes, so that prefixes are shared and rows repeat."""
    rows = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=12))
    return np.array([row + [-1] * (4 - len(row)) for row in rows])


def tuples(table: Table) -> list[tuple[int, ...]]:
    return [tuple(token for token in row if token >= 0) for row in table.tolist()]


@given(tables())
@settings(max_examples=200, deadline=None)
def test_nodes_are_the_distinct_proper_prefixes_and_steps_the_distinct_prefixes(table: Table) -> None:
    tree = pack(table)
    proper = {row[:depth] for row in tuples(table) for depth in range(1, len(row))}
    prefixes = {row[:depth] for row in tuples(table) for depth in range(1, len(row) + 1)}
    assert tree.n_nodes == 1 + len(proper)
    assert len(tree.step_nodes) == len(prefixes)
    seen = [()] * tree.n_nodes
    for node in range(1, tree.n_nodes):  # parents come first
        assert tree.parents[node] < node
        assert tree.depths[node] == tree.depths[tree.parents[node]] + 1
        seen[node] = (*seen[tree.parents[node]], int(tree.tokens[node]))
    assert set(seen) == proper | {()}
    steps = [(*seen[node], int(token)) for node, token in zip(tree.step_nodes, tree.step_tokens, strict=True)]
    assert set(steps) == prefixes
    assert (np.diff(tree.step_nodes) >= 0).all()
    for row, path in zip(tuples(table), tree.paths, strict=True):
        assert [steps[step] for step in path if step >= 0] == [row[: d + 1] for d in range(len(row))]


@given(tables())
@settings(max_examples=50, deadline=None)
def test_totals_are_sums_along_the_paths(table: Table) -> None:
    tree = pack(table)
    log_probs = -np.random.default_rng(0).random(len(tree.step_nodes)).astype(np.float32)
    totals = tree.totals(log_probs)
    for path in tree.paths:
        steps = path[path >= 0]
        np.testing.assert_allclose(totals[steps], np.cumsum(log_probs[steps].astype(np.float64)))
    np.testing.assert_array_equal(tree.last_steps(), [path[path >= 0][-1] for path in tree.paths])


@given(tables())
@settings(max_examples=50, deadline=None)
def test_a_trie_knows_exactly_its_identifiers(table: Table) -> None:
    trie, rows = Trie(table), set(tuples(table))
    for prefix in {row[:depth] for row in rows for depth in range(5)} | {(9,), (0, 9), (3, 3, 3, 3, 3)}:
        following = sorted(
            {row[len(prefix)] for row in rows if row[: len(prefix)] == prefix and len(row) > len(prefix)}
        )
        assert trie.children(prefix).tolist() == following
        assert trie.contains(prefix) == (prefix in rows)


def test_some_rows_of_a_trie_are_packed_like_their_own_table() -> None:
    table = np.random.default_rng(0).integers(0, 4, (50, 3))
    chosen = np.array([4, 9, 9, 31])
    ours, own = Trie(table).pack(chosen), pack(table[chosen])
    np.testing.assert_array_equal(ours.paths, own.paths)
    np.testing.assert_array_equal(ours.tokens, own.tokens)


def test_a_hundred_uniform_codes_have_the_expected_number_of_nodes() -> None:
    rng = np.random.default_rng(0)
    sizes = [pack(rng.integers(0, 256, (100, 4))).n_nodes for _ in range(50)]
    assert abs(np.mean(sizes) - 284) < 2


def test_the_end_token_stands_behind_every_last_token() -> None:
    rows = identifier_rows(np.array([[1, 2, -1], [3, -1, -1]]))
    assert with_end(rows, 7).tolist() == [[1, 2, 7], [3, 7, -1]]
    assert with_end(rows, None) is rows


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((0, 3), dtype=np.int64),
        np.zeros((3, 0), dtype=np.int64),
        np.zeros(3, dtype=np.int64),
        np.zeros((2, 2)),
        np.array([[1, 2], [-1, -1]]),
        np.array([[1, -1, 2]]),
        np.array([[1, -2]]),
    ],
)
def test_a_malformed_table_is_refused(table: npt.NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="identifier"):
        pack(table)

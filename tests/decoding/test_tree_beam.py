from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gemsbench.decoding import BeamResult, beam_search, certified, pack


def random_case(rng: np.random.Generator) -> tuple[BeamResult, npt.NDArray[np.float32]]:
    """A beam of 10 to 30 over at most 100 identifiers with random log-probabilities, and the exact scores."""
    n, beams = int(rng.integers(20, 101)), int(rng.integers(10, 31))
    tree = pack(rng.integers(0, int(rng.integers(4, 64)), (n, 3)))
    totals = tree.totals(-rng.exponential(float(rng.uniform(0.2, 3.0)), len(tree.step_nodes)))
    return beam_search(tree, totals, beams), totals[tree.last_steps()].astype(np.float32)


def test_a_certified_ranking_is_exact() -> None:
    rng = np.random.default_rng(0)
    certificates, exact_anyway = 0, 0
    for _ in range(200):
        found, exact = random_case(rng)
        returned = np.isfinite(found.scores)
        np.testing.assert_array_equal(found.scores[returned], exact[returned])
        for k in (1, 5, 10):
            same = np.array_equal(np.sort(found.scores)[::-1][:k], np.sort(exact)[::-1][:k])
            assert same or not found.certified(k)
            certificates += found.certified(k)
            exact_anyway += same
    assert 60 < certificates < exact_anyway < 600  # it says yes and no, and it is careful


def test_as_many_beams_as_prefixes_lose_nothing() -> None:
    rng = np.random.default_rng(1)
    tree = pack(rng.integers(0, 10, (80, 3)))
    totals = tree.totals(-rng.exponential(1.0, len(tree.step_nodes)))
    found = beam_search(tree, totals, 80)
    np.testing.assert_array_equal(found.scores, totals[tree.last_steps()].astype(np.float32))
    assert found.best_lost == -np.inf
    assert found.certified(100)


def test_the_best_candidate_is_lost_when_other_prefixes_beat_its_prefix() -> None:
    tree = pack(np.array([[1, 5], [2, 5], [3, 5]]))
    totals = tree.totals(np.log(np.array([0.4, 0.35, 0.25, 0.1, 0.1, 0.9])))
    found = beam_search(tree, totals, 2)
    np.testing.assert_allclose(found.scores, [np.log(0.04), np.log(0.035), -np.inf], rtol=1e-6)
    assert found.best_lost == pytest.approx(np.log(0.25))
    assert not found.certified(1)


def test_a_score_at_the_bound_is_not_certified() -> None:
    scores = np.array([-1.0, -2.0, -np.inf], dtype=np.float32)
    assert certified(scores, -1.5, 1)
    assert not certified(scores, -1.5, 2)
    assert not certified(scores, -1.0, 1)
    assert certified(scores, -np.inf, 3)
    assert not certified(scores, -5.0, 3)


def test_beams_are_counted_and_ends_are_needed() -> None:
    tree = pack(np.array([[1, 2], [1, -1]]))
    with pytest.raises(ValueError, match="end token"):
        beam_search(tree, np.array([-1.0, -2.0]), 2)
    with pytest.raises(ValueError, match="num_beams"):
        beam_search(pack(np.array([[1]])), np.array([-1.0]), 0)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gemsbench.decoding import CandidateScorer, constrained_beam
from gemsbench.decoding.beam import _returned

Table = npt.NDArray[np.int64]
Cases = tuple[list[list[int]], list[Table]]
Build = Callable[..., Any]
END = 1


def shortened(tables: list[Table]) -> list[Table]:
    """Every third identifier loses its last two tokens."""
    shorter = [table.copy() for table in tables]
    for table in shorter:
        table[::3, 2:] = -1
    return shorter


def order(scores: npt.NDArray[np.float32], table: Table) -> list[list[int]]:
    """The distinct identifiers, best first."""
    _, first = np.unique(table, axis=0, return_index=True)
    return table[first][np.argsort(-scores[first])].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["t5", "t5-tied", "qwen2"])
@pytest.mark.parametrize("end_token", [None, END])
def test_a_beam_as_wide_as_the_candidates_gives_the_exact_scores(
    kind: str, end_token: int | None, build: Build, cases: Cases
) -> None:
    prompts, tables = cases
    tables = tables if end_token is None else shortened(tables)
    model = build(kind)
    exact = CandidateScorer(model, end_token=end_token).score(prompts, tables)
    found = constrained_beam(model, prompts, tables, 60, end_token)
    for ours, theirs, table in zip(exact, found, tables, strict=True):  # 5 identifiers of the last case, 60 beams
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert order(ours, table) == order(theirs, table)


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
@pytest.mark.parametrize("end_token", [None, END])
def test_the_beam_played_on_exact_scores_returns_what_generate_returns(
    kind: str, end_token: int | None, build: Build, cases: Cases
) -> None:
    prompts, tables = cases
    tables = tables if end_token is None else shortened(tables)
    lost = 0
    for seed in range(3):
        model = build(kind, seed)
        for beams in (2, 5, 20):
            played = CandidateScorer(model, end_token=end_token).beam(prompts, tables, beams)
            for ours, theirs in zip(played, constrained_beam(model, prompts, tables, beams, end_token), strict=True):
                np.testing.assert_allclose(ours.scores, theirs, atol=1e-3)
                lost += int(np.isneginf(theirs).sum())
    assert lost > 100


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
def test_certified_beams_of_random_models_are_exact(kind: str, build: Build, cases: Cases) -> None:
    certificates = 0
    for seed in range(35):
        scorer = CandidateScorer(build(kind, seed))
        for exact, found in zip(scorer.score(*cases), scorer.beam(*cases, 10), strict=True):
            for k in (1, 3, 10):
                same = np.array_equal(np.sort(found.scores)[::-1][:k], np.sort(exact)[::-1][:k])
                assert same or not found.certified(k)
                certificates += found.certified(k)
    assert certificates > 100


def test_only_real_sequences_count() -> None:
    table = np.array([[5, 1, -1], [5, 6, 1], [7, 1, -1]])
    sequences = np.array([[5, 6, 1], [5, 1, 0], [5, 6, 1], [7, 1, 0]])
    scores = np.array([-2.0, -3.0, -1e9, -1e9], dtype=np.float32)  # copies start at -1e9
    np.testing.assert_array_equal(_returned(table, sequences, scores), np.array([-3.0, -2.0, -np.inf], np.float32))
    np.testing.assert_array_equal(_returned(table, sequences[:, :2], scores)[0], np.float32(-3.0))


def test_generation_settings_of_the_model_neither_matter_nor_change(build: Build, cases: Cases) -> None:
    model, tables = build("qwen2"), cases[1]
    prompts = [[*prompt, *table[0].tolist()] for prompt, table in zip(*cases, strict=True)]  # a history of identifiers
    plain = constrained_beam(model, prompts, tables, 20)
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.eos_token_id = int(tables[0][0, 0])
    settings = model.generation_config.to_dict()
    for one, other in zip(plain, constrained_beam(model, prompts, tables, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.generation_config.to_dict() == settings
    assert model.training


def test_what_a_beam_cannot_rank_is_refused(build: Build, cases: Cases) -> None:
    prompts, tables = cases
    with pytest.raises(ValueError, match="give the end token"):
        constrained_beam(build("t5"), prompts, shortened(tables), 5)
    with pytest.raises(ValueError, match="num_beams"):
        constrained_beam(build("t5"), prompts, tables, 1)
    assert constrained_beam(build("t5"), [], [], 5) == []
    assert torch.is_grad_enabled()

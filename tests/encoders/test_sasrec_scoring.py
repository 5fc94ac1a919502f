"""Scores of a SASRec model: the product of state and row, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemsbench.encoders.sasrec_model import START, SASRecModel
from gemsbench.encoders.sasrec_scoring import SASRecScorer
from gemsbench.training.token_lists import TokenLists

PAST = [[3, 7], [], [1, 2, 3, 4, 5], [9]]
UNKNOWN = [6, 10]


@pytest.fixture
def model() -> SASRecModel:
    """Ten items, two of them unknown; dropout is on, but a scorer has none."""
    model = SASRecModel(n_items=10, width=4, blocks=1, heads=1, max_length=5, dropout=0.5)
    model.initialize(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.items.mul_(40)
        model.known[1:] = True
        model.known[UNKNOWN] = False
    return model


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    rows, items = np.meshgrid(np.arange(len(PAST)), np.arange(1, 11), indexing="ij")
    return rows.ravel(), items.ravel()


def test_score_is_the_last_state_times_the_row_of_the_item(model: SASRecModel) -> None:
    found = SASRecScorer(model).scores(TokenLists.of(PAST), *_pairs()).reshape(len(PAST), 10)
    model.eval()
    for past, scores in zip(PAST, found, strict=True):
        state = model(torch.tensor([[START, *past]]))[0, -1]
        known = [item for item in range(1, 11) if item not in UNKNOWN]
        expected = (model.items[known] @ state).detach().numpy()
        np.testing.assert_allclose(scores[np.array(known) - 1], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[np.array(UNKNOWN) - 1], expected.mean(), rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter(model: SASRecModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, items = _pairs()
    together = SASRecScorer(model).scores(TokenLists.of(PAST), rows, items)
    monkeypatch.setattr("gemsbench.encoders.sasrec_scoring.HISTORIES_AT_A_TIME", 1)
    monkeypatch.setattr("gemsbench.encoders.sasrec_scoring.PAIRS_AT_A_TIME", 3)
    np.testing.assert_array_equal(SASRecScorer(model).scores(TokenLists.of(PAST), rows, items), together)


def test_no_pair_no_score(model: SASRecModel) -> None:
    empty = np.empty(0, dtype=np.int64)
    found = SASRecScorer(model).scores(TokenLists.of([]), empty, empty)
    assert found.shape == (0,)
    assert found.dtype == np.float32


def test_the_model_is_left_as_it_was(model: SASRecModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    SASRecScorer(model).scores(TokenLists.of(PAST), *_pairs())
    assert model.training
    assert model.items.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

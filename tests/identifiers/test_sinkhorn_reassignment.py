"""Re-assignment of equal codes on the last level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers import sinkhorn_reassignment
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser
from gemsbench.identifiers.sinkhorn import sinkhorn
from gemsbench.identifiers.sinkhorn_reassignment import Reassigned, ReassignmentSettings, reassign

SETTINGS = ReassignmentSettings()
K = 16


def plain_model(codebooks: Any) -> ResidualQuantiser:
    """A quantiser whose latent is the vector itself; codebooks [L, K, d]."""
    books = torch.as_tensor(codebooks, dtype=torch.float32)
    levels, size, width = books.shape
    model = ResidualQuantiser(width, [], width, levels, size, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.encoder[0].weight.copy_(torch.eye(width))
        model.encoder[0].bias.zero_()
        model.codebooks.copy_(books)
    return model.eval()


def crowd(n: int = 400, seed: int = 0) -> tuple[ResidualQuantiser, np.ndarray, np.ndarray]:
    """A model, vectors of which many share their codes, and the codes; vectors 3 k and 3 k + 1 < 30 are equal."""
    rng = seeds.stream(seed, "crowd")
    centres = rng.normal(size=(30, 4)) * 4
    vectors = (centres[rng.integers(0, 30, n)] + 0.3 * rng.normal(size=(n, 4))).astype(np.float32)
    vectors[1:30:3] = vectors[0:30:3]
    books = np.stack([rng.normal(size=(K, 4)) * scale for scale in (4.0, 1.0, 0.4)])
    model = plain_model(books)
    return model, vectors, model.codes(torch.from_numpy(vectors)).numpy()


def settle(model: ResidualQuantiser, vectors: np.ndarray, codes: np.ndarray, **settings: Any) -> Reassigned:
    return reassign(model, vectors, codes, ReassignmentSettings(**settings))


def sharing(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which items have codes that an item of another vector has."""
    pairs = np.unique(np.column_stack([codes, np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1)]), axis=0)
    rows, counts = np.unique(pairs[:, :-1], axis=0, return_counts=True)
    crowded = {tuple(row) for row in rows[counts > 1].tolist()}
    return np.array([tuple(row) in crowded for row in codes.tolist()])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_colliding_items_move_and_only_on_the_last_level(seed: int) -> None:
    model, vectors, codes = crowd(seed=seed)
    before = codes.copy()
    made = settle(model, vectors, codes)
    np.testing.assert_array_equal(codes, before)  # the input is left alone
    colliding = sharing(vectors, codes)
    assert colliding.sum() > 50
    np.testing.assert_array_equal(made.codes[~colliding], codes[~colliding])
    np.testing.assert_array_equal(made.codes[:, :-1], codes[:, :-1])
    moved = (made.codes != codes).any(axis=1)
    assert made.moved == moved.sum() > 0
    assert 0 < made.rounds <= 20
    assert made.codes.min() >= 0
    assert made.codes.max() < K


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_collided_stands_alone_wherever_a_prefix_has_codes_enough(seed: int) -> None:
    model, vectors, codes = crowd(seed=seed)
    made = settle(model, vectors, codes)
    prefix, distinct = codes[:, :-1], np.unique(np.column_stack([codes[:, :-1], vectors]), axis=0)
    crowded = {
        tuple(row) for row, n in zip(*np.unique(distinct[:, :2], axis=0, return_counts=True), strict=True) if n > K
    }
    roomy = np.array([tuple(row) not in crowded for row in prefix.astype(float).tolist()])
    assert roomy.sum() > len(codes) / 4
    assert sharing(vectors, codes)[roomy].any()
    assert not sharing(vectors, made.codes)[roomy].any()


def test_equal_vectors_stay_together() -> None:
    model, vectors, codes = crowd()
    made = settle(model, vectors, codes)
    np.testing.assert_array_equal(made.codes[0:30:3], made.codes[1:30:3])


def test_the_order_of_the_items_changes_nothing() -> None:
    model, vectors, codes = crowd()
    order = seeds.stream(0, "order").permutation(len(vectors))
    made, again = settle(model, vectors, codes), settle(model, vectors[order], codes[order])
    np.testing.assert_array_equal(again.codes, made.codes[order])
    assert (again.moved, again.rounds) == (made.moved, made.rounds)


def test_codes_that_are_all_different_stay() -> None:
    model = plain_model([[[0.0], [10.0]], [[-1.0], [1.0]]])
    vectors = np.array([[-1.0], [1.0], [9.0], [9.0]], np.float32)  # the last two are equal
    codes = model.codes(torch.from_numpy(vectors)).numpy()
    made = settle(model, vectors, codes)
    np.testing.assert_array_equal(made.codes, codes)
    assert (made.moved, made.rounds) == (0, 0)


def _one_level_of_places(places: list[float], vectors: list[float]) -> list[int]:
    """Last codes of one-dimensional vectors that share their first code, given and placed relative to it."""
    model = plain_model([[[7.0]] * len(places), [[place] for place in places]])
    rows = np.array(vectors, np.float32)[:, None] + np.float32(7)
    return settle(model, rows, model.codes(torch.from_numpy(rows)).numpy()).codes[:, 1].tolist()


def test_they_go_where_all_together_are_nearest() -> None:
    assert _one_level_of_places([0.0, 1.0, 5.0], [0.1, 0.2]) == [0, 1]  # 0.01 + 0.64 beats 0.81 + 0.04
    assert _one_level_of_places([0.0, -1.0, 5.0], [0.1, 0.2]) == [1, 0]
    assert _one_level_of_places([0.0, 1.0, 2.0, -1.0, -9.0], [-0.1, 0.0, 0.1]) == [3, 0, 1]


def test_what_another_vector_holds_is_not_for_choice() -> None:
    assert _one_level_of_places([0.0, 1.0, 5.0], [0.1, 0.2, 1.0]) == [0, 2, 1]


def test_more_vectors_than_codes_keep_to_the_codes_there_are() -> None:
    codes = _one_level_of_places([0.0, 1.0, 2.0], [0.01 * number for number in range(10)])
    assert set(codes) <= {0, 1, 2}
    assert len(set(codes)) > 1
    full = plain_model([[[0.0]] * 2, [[0.0], [1.0]]])
    rows = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32)
    before = full.codes(torch.from_numpy(rows)).numpy()
    assert settle(full, rows, before).codes[:, 1].tolist() == [0, 0, 1, 1]


def test_of_vectors_that_a_round_gives_one_code_the_one_with_most_of_it_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = iter([([0, 0, 1], [0.2, 0.7, 1.0]), ([0], [1.0])])
    monkeypatch.setattr(sinkhorn_reassignment, "_one_each", lambda *_: tuple(map(np.array, next(rounds))))
    codes, used = sinkhorn_reassignment._settled(np.zeros((3, 4)), np.zeros(4, np.bool_), np.zeros(3, int), SETTINGS)
    assert codes.tolist() == [2, 0, 1]
    assert used == 2


def test_rounds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that put all vectors but one on one code separate two each: 16 vectors need 8 of them."""
    model = plain_model([[[0.0]] * K, [[float(place)] for place in range(K)]])
    rows = np.linspace(0, 0.4, K, dtype=np.float32)[:, None]
    codes = model.codes(torch.from_numpy(rows)).numpy()
    assert (codes[:, 1] == 0).all()

    def lopsided(distances: np.ndarray, settings: ReassignmentSettings) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(np.arange(len(distances)), 1), np.ones(len(distances))

    monkeypatch.setattr(sinkhorn_reassignment, "_one_each", lopsided)
    assert [settle(model, rows, codes, rounds=rounds).rounds for rounds in (1, 3, 20)] == [1, 3, 8]
    assert sharing(rows, settle(model, rows, codes, rounds=3).codes).sum() == K - 5  # one of them holds the code
    assert not sharing(rows, settle(model, rows, codes, rounds=8).codes).any()


def test_near_vectors_lose_less_than_by_balancing_over_all_free_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, vectors, codes = crowd()

    def error(found: np.ndarray) -> float:
        rebuilt = model.codewords(torch.from_numpy(found)).sum(dim=1).detach().numpy()
        return float(np.square(vectors - rebuilt).sum(axis=1).mean())

    ours = error(settle(model, vectors, codes).codes)

    def over_all(distances: np.ndarray, settings: ReassignmentSettings) -> tuple[np.ndarray, np.ndarray]:
        shares, columns = sinkhorn(torch.from_numpy(distances), settings.epsilon, settings.iterations).max(dim=1)
        return columns.numpy(), shares.numpy()

    monkeypatch.setattr(sinkhorn_reassignment, "_one_each", over_all)
    balanced = error(settle(model, vectors, codes).codes)
    assert error(codes) <= ours < balanced


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"iterations": 0}, {"rounds": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"reassignment: {next(iter(wrong))} is .*; it must be"):
        ReassignmentSettings(**wrong)


def test_no_rounds_change_nothing() -> None:
    model, vectors, codes = crowd()
    made = settle(model, vectors, codes, rounds=0)
    np.testing.assert_array_equal(made.codes, codes)
    assert (made.moved, made.rounds) == (0, 0)

"""Residual k-means: greedy by an oracle, by faiss's own encoder, and the same for every order of rows."""

from __future__ import annotations

from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from gemsbench.errors import InputError
from gemsbench.identifiers.rqkmeans import residual_codes, residual_k_means

LEVELS, CODES = 3, 16


def test_every_code_is_the_nearest_centroid_of_what_is_left(planting: SimpleNamespace) -> None:
    vectors = planting.planted(n=1200)[0]
    fitted = residual_k_means(vectors, LEVELS, CODES, seed=0)
    assert fitted.codebooks.shape == (LEVELS, CODES, 16)
    residuals, left = vectors.astype(np.float64), []
    for level, book in enumerate(fitted.codebooks):
        codes = ((residuals[:, None] - book) ** 2).sum(2).argmin(1)
        np.testing.assert_array_equal(fitted.codes[:, level], codes)
        residuals = residuals - book[codes]
        left.append((residuals**2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())
        assert len(np.unique(codes)) == CODES
    np.testing.assert_allclose(fitted.variance_left, left, rtol=1e-4)
    assert 1 > left[0] > left[1] > left[2] > 0


def test_faiss_with_a_beam_of_one_gives_the_same_codes_from_the_same_codebooks(planting: SimpleNamespace) -> None:
    vectors = planting.planted(n=800)[0]
    fitted = residual_k_means(vectors, LEVELS, CODES, seed=0)
    peer = faiss.ResidualQuantizer(vectors.shape[1], LEVELS, int(np.log2(CODES)))
    peer.train_type, peer.max_beam_size = faiss.ResidualQuantizer.Train_default, 1
    faiss.copy_array_to_vector(fitted.codebooks.ravel(), peer.codebooks)
    peer.is_trained = True
    packed = peer.compute_codes(vectors)
    codes = faiss.unpack_bitstrings(packed, LEVELS, int(np.log2(CODES)))
    np.testing.assert_array_equal(codes, fitted.codes)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_order_of_rows_changes_nothing(planting: SimpleNamespace, threads: int) -> None:
    vectors = planting.planted(n=900)[0]
    vectors[700:] = vectors[:200]
    order = np.random.default_rng(1).permutation(900)
    one = residual_k_means(vectors, LEVELS, CODES, seed=0, threads=threads)
    other = residual_k_means(vectors[order], LEVELS, CODES, seed=0, threads=threads)
    np.testing.assert_array_equal(other.codes, one.codes[order])
    assert other.codebooks.tobytes() == one.codebooks.tobytes()
    assert other.variance_left == one.variance_left
    np.testing.assert_array_equal(one.codes[700:], one.codes[:200])
    np.testing.assert_array_equal(residual_codes(vectors[order], one.codebooks, threads), one.codes[order])
    assert residual_k_means(vectors, LEVELS, CODES, seed=1).codebooks.tobytes() != one.codebooks.tobytes()


def test_equal_rows_count_as_often_as_they_stand_there() -> None:
    vectors = np.array([[0.0], [0.0], [0.0], [4.0], [100.0], [100.0], [103.0]], np.float32)
    fitted = residual_k_means(vectors, 1, 2, seed=0)
    np.testing.assert_allclose(np.sort(fitted.codebooks[0, :, 0]), [1.0, 101.0])
    # (3 x 1 + 9) + (2 x 1 + 4) is left of the squares around the mean.
    assert fitted.variance_left[0] == pytest.approx(18 / np.square(vectors - vectors.mean()).sum())


def test_the_vectors_given_stay_as_they_are(planting: SimpleNamespace) -> None:
    vectors = planting.planted(n=300)[0]
    before = vectors.copy()
    fitted = residual_k_means(vectors, 2, 8, seed=0)
    residual_codes(vectors, fitted.codebooks)
    np.testing.assert_array_equal(vectors, before)


def test_a_planted_group_shares_its_first_code(planting: SimpleNamespace) -> None:
    vectors, coarse, _ = planting.planted(n=1000, coarse=8)
    first = residual_k_means(vectors, LEVELS, CODES, seed=0).codes[:, 0]
    same_group = coarse[:, None] == coarse
    same_code = first[:, None] == first
    inside, outside = same_code[same_group].mean(), same_code[~same_group].mean()
    assert inside > 20 * outside
    assert inside > 0.3


def test_a_level_with_too_few_residuals_is_named() -> None:
    vectors = np.arange(16, dtype=np.float32)[:, None].repeat(2, axis=1)
    with pytest.raises(InputError, match=r"level 1 of 2: .* codebook of 17"):
        residual_k_means(vectors, 2, 17, seed=0)
    with pytest.raises(InputError, match=r"level 2 of 2: .* 1 vectors .* Lower codebook_size"):
        residual_k_means(vectors, 2, 16, seed=0)

"""Named sub-streams: deterministic, distinct, independent of order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.seeds import hash64, hash64_many, mix64, stream, stream_seed


def test_hash64_is_blake2b_of_the_utf8_text() -> None:
    # The first 16 hex digits that `printf %s user-1 | b2sum` prints.
    assert hash64("user-1").to_bytes(8, "little").hex() == "0b674fe8e4b805aa"
    assert hash64("\u7528\u6237").to_bytes(8, "little").hex() == "8a3968a9ce8f73dc"


@given(st.lists(st.text(), max_size=20))
def test_many_equals_one_by_one(texts: list[str]) -> None:
    assert hash64_many(texts).tolist() == [hash64(text) for text in texts]


@given(st.integers(0, 2**31), st.text(max_size=8), st.text(max_size=8))
def test_streams_repeat_and_differ_by_name(seed: int, first: str, second: str) -> None:
    assert np.array_equal(stream(seed, first).integers(0, 2**60, 8), stream(seed, first).integers(0, 2**60, 8))
    if first != second:
        assert stream_seed(seed, first) != stream_seed(seed, second)


def test_names_do_not_run_together() -> None:
    assert stream_seed(1, "ab", "c") != stream_seed(1, "a", "bc")


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=50, unique=True), st.integers(0, 2**63))
def test_mix_is_elementwise_and_injective_in_one_part(values: list[int], salt: int) -> None:
    keys = np.array(values, dtype=np.uint64)
    mixed = mix64(keys, salt)
    assert mixed[0] == mix64(keys[:1], salt)[0]
    assert len(set(mixed.tolist())) == len(values)


def test_mix_is_uniform_over_sequential_keys() -> None:
    buckets = np.bincount((mix64(np.arange(100_000, dtype=np.uint64), 7) % np.uint64(10)).astype(int), minlength=10)
    assert abs(buckets - 10_000).max() < 4.5 * np.sqrt(10_000 * 0.9)

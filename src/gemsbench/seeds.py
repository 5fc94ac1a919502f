"""Randomness: named sub-streams of one seed, independent of row order and process count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]


def hash64(text: str) -> int:
    """First 8 bytes of the (64-byte) blake2b digest of the utf-8 text, read as a little-endian unsigned integer."""
    return int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "little")


def hash64_many(texts: Iterable[str]) -> UInt64Array:
    """hash64 of every text; call it on unique ids, once per table."""
    return np.fromiter((hash64(text) for text in texts), dtype=np.uint64)


def stream_seed(seed: int, *names: str | int) -> int:
    """A 64-bit seed for the sub-stream called by names, e.g. (recipe, task, split, purpose)."""
    return hash64("\x1f".join(str(part) for part in (seed, *names)))


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for the sub-stream called by names."""
    return np.random.default_rng(stream_seed(seed, *names))


def mix64(*parts: UInt64Array | int) -> UInt64Array:
    """Combine 64-bit values element by element into well-mixed 64-bit keys (splitmix64 rounds)."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(part) for part in parts)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state + np.asarray(part, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state

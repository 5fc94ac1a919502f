"""Simulated raw files as long as the real ones: their lines, made longer by plain words and ids.

The real Electronics files hold 1,689,188 reviews (496 MB, gzip) and 498,196 products (187 MB); what the simulation
writes has as many lines and a fifth of the bytes.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gemsbench import seeds
from gemsbench.data.simulation.amazon_files import METADATA, REVIEWS, write_amazon
from gemsbench.data.simulation.world import WorldSettings

REVIEW_BYTES, METADATA_BYTES = 495_854_086, 186_594_679
_LINES = 50_000
_WORDS, _TEXTS = 40_000, 60_000


def write_true_size(folder: Path, scale: float, seed: int) -> dict[str, int]:
    """Write reviews and metadata of scale times the real numbers of lines and bytes; return the sizes in bytes."""
    size = (round(192_403 * scale), round(63_001 * scale), round(498_196 * scale))
    with tempfile.TemporaryDirectory() as name:
        short = Path(name)
        write_amazon(short, WorldSettings(*size, 960, 60, 8.8), seed, core=5)
        _lengthen(short / REVIEWS, folder / REVIEWS, '"reviewText": "', _texts(seed), seed)
        _lengthen(short / METADATA, folder / METADATA, "'related': {", _bought_together(seed), seed)
    return {name: (folder / name).stat().st_size for name in (REVIEWS, METADATA)}


def _lengthen(source: Path, target: Path, mark: str, texts: pl.Series, seed: int) -> None:
    """Put one of the texts behind mark, in every line that has it."""
    rng = seeds.stream(seed, "true size", source.name)
    with gzip.open(target, "wb", compresslevel=5) as out:
        for lines in _chunks(source):
            put = pl.select(pl.lit(mark) + texts.gather(rng.integers(texts.len(), size=lines.len()))).to_series()
            frame = pl.DataFrame({"line": lines, "put": put})
            longer = frame.select(pl.col("line").str.replace(mark, pl.col("put"), literal=True)).to_series()
            out.write(("\n".join(longer) + "\n").encode())


def _chunks(path: Path) -> Iterator[pl.Series]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        part: list[str] = []
        for line in lines:
            part.append(line.rstrip("\n"))
            if len(part) == _LINES:
                yield pl.Series("line", part)
                part = []
        if part:
            yield pl.Series("line", part)


def _texts(seed: int) -> pl.Series:
    """Review-like texts: words with Zipf's frequencies, lengths as skewed as those of reviews."""
    rng = seeds.stream(seed, "true size", "words")
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    words = ["".join(rng.choice(letters, size=length)) for length in rng.integers(2, 11, size=_WORDS)]
    weight = 1.0 / np.arange(1, _WORDS + 1)
    lengths = np.minimum(rng.lognormal(3.97, 0.9, size=_TEXTS).astype(int) + 5, 2_000)
    drawn = rng.choice(_WORDS, size=int(lengths.sum()), p=weight / weight.sum())
    return _joined(pl.Series(words).gather(drawn), lengths, " ")


def _bought_together(seed: int) -> pl.Series:
    """Entries of `related`: up to 129 ten-character product ids."""
    rng = seeds.stream(seed, "true size", "ids")
    lengths = rng.integers(1, 130, size=_TEXTS // 3)
    signs = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    ids = pl.Series(["B00" + "".join(row) for row in rng.choice(signs, size=(int(lengths.sum()), 7))])
    return pl.select("'also_viewed': ['" + pl.lit(_joined(ids, lengths, "', '")) + "'], ").to_series()


def _joined(words: pl.Series, lengths: np.ndarray, separator: str) -> pl.Series:
    owner = np.repeat(np.arange(lengths.size), lengths)
    texts = pl.DataFrame({"owner": owner, "word": words}).group_by("owner", maintain_order=True).agg("word")
    return texts["word"].list.join(separator)

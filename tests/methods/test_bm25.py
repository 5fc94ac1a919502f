"""BM25: tokens, the formula, and look-ups instead of a dense matrix."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.methods.bm25 import BM25, BM25Settings, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Red-Kettle 2L", ["red", "kettle", "2l"]),
        ("绿色茶杯 tea杯", ["绿", "色", "茶", "杯", "tea", "杯"]),
        ("ひらカタカナ", ["ひ", "ら", "カタカナ"]),
        ("\uff21\uff22\uff23 \uff11\uff12", ["abc", "12"]),  # full-width ABC 12
        ("Émile's café", ["émile", "s", "café"]),
        ("", []),
        ("--- !!", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(pl.Series([text])).to_list() == [tokens]


def _documents(items: pl.DataFrame) -> list[str]:
    return [f"{a} {b}" for a, b in items.sort("item_id").select("title", "description").iter_rows()]


def _expected(documents: list[list[str]], query: list[str], settings: BM25Settings) -> list[float]:
    """BM25 as in Robertson & Zaragoza with Lucene's idf, written term by term."""
    mean_length = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for term in query:
            n_with = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
            norm = settings.k1 * (1 - settings.b + settings.b * len(document) / mean_length)
            score += idf * counts[term] / (counts[term] + norm)
        scores.append(score)
    return scores


@pytest.mark.parametrize("settings", [BM25Settings(), BM25Settings(k1=0.9, b=0.4), BM25Settings(b=0.0)])
def test_scores_are_the_formula(world: Any, tmp_path: Path, settings: BM25Settings) -> None:
    BM25().fit(settings, world.data, None, 1, tmp_path)
    documents = tokenize(pl.Series(_documents(world.items))).to_list()
    texts = ["blue lamp", "茶杯", "lamp lamp 3", "tea zebra kettle", "zebra", ""]
    every_item = [list(range(1, world.items.height + 1))] * len(texts)
    cases = pl.DataFrame({"case_id": range(len(texts)), "query": texts, "items": every_item})
    for text, scores in zip(texts, BM25().score(tmp_path, cases), strict=True):
        query = tokenize(pl.Series([text])).to_list()[0]
        np.testing.assert_allclose(scores, _expected(documents, query, settings), rtol=2e-6)
        assert (scores > 0).any() == (text not in ("zebra", ""))


def test_the_right_items_come_first(world: Any, tmp_path: Path) -> None:
    BM25().fit(BM25Settings(), world.data, None, 1, tmp_path)
    every_item = list(range(1, world.items.height + 1))
    cases = pl.DataFrame({"case_id": [1], "query": ["绿色"], "items": [every_item]})
    (scores,) = BM25().score(tmp_path, cases)
    text = np.array(_documents(world.items))
    assert set(text[scores > 0]) == {line for line in text if "绿色" in line}


def test_a_catalogue_without_text_is_refused(world: Any, tmp_path: Path) -> None:
    silent = world.items.with_columns(title=pl.lit("?!"), description=pl.lit(""))
    fake = type("Data", (), {"items": silent})
    with pytest.raises(InputError, match="nothing to index"):
        BM25().fit(BM25Settings(), fake, None, 1, tmp_path)  # type: ignore[arg-type]

"""Texts of a catalogue: which items have one, and vectors of distinct texts spread over the items."""

from __future__ import annotations

import numpy as np
import polars as pl

from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.encoders.telling import Embed
from gemsbench.errors import InputError
from gemsbench.identifiers.vectors import BoolArray, Float32Array


def item_texts(items: pl.DataFrame) -> tuple[pl.Series, BoolArray]:
    """Texts by item_id, and bool [n_items] of those that are one; raises InputError when none is."""
    texts = items.sort("item_id")["text"]
    has_text: BoolArray = ((texts != UNKNOWN_ITEM) & (texts.str.strip_chars() != "")).to_numpy()
    if not has_text.any():
        raise InputError("no item has a text, so there is nothing to encode. Use an encoder of interactions.")
    return texts, has_text


def spread_over_items(texts: pl.Series, has_text: BoolArray, embed: Embed) -> tuple[Float32Array, BoolArray]:
    """Vectors float32 [n_items + 1, D] and known bool [n_items + 1]; every distinct text is embedded once, sorted.

    Unknown are padding, items without text, and items whose text gets a vector of zeros.
    """
    distinct = texts.filter(pl.Series(has_text)).unique().sort()
    of_text = embed(distinct.to_list())
    rows = texts.replace_strict(distinct, range(len(distinct)), default=-1, return_dtype=pl.Int64).to_numpy()
    vectors = np.zeros((len(texts) + 1, of_text.shape[1]), np.float32)
    vectors[1:][has_text] = of_text[rows[has_text]]
    known: BoolArray = (vectors != 0).any(axis=1)
    return vectors, known

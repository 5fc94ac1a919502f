"""Atomic identifiers: one token of its own per item (BSR, arXiv 2410.16823; also "Ours", decision 14)."""

from __future__ import annotations

import numpy as np
import polars as pl

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ABSENT, ItemCodes

SCHEME = "atomic"


def atomic_codes(items: pl.DataFrame) -> ItemCodes:
    """One level of n_items codes; an item's code is the rank of its raw_id in keyed-hash order.

    items has item_id (1..n in any row order) and raw_id. The code is a function of the set of raw ids alone, so that
    it tells nothing of popularity, time or file order. Equal hashes are ordered by raw_id.
    Raises InputError when item ids are not 1..n once each or a raw_id repeats.
    """
    item_ids = items["item_id"].to_numpy()
    raw_ids = items["raw_id"]
    if not np.array_equal(np.sort(item_ids), np.arange(1, items.height + 1)):
        raise InputError(f"items: item_id must be 1..{items.height}, each once. Prepare the recipe again.")
    if raw_ids.n_unique() != items.height:
        repeated = raw_ids.filter(raw_ids.is_duplicated())[0]
        raise InputError(f"items: raw_id '{repeated}' occurs more than once. Prepare the recipe again.")
    hashes = seeds.mix64(seeds.hash64_many(raw_ids), seeds.stream_seed(0, "identifiers", SCHEME))
    order = pl.DataFrame({"hash": hashes, "raw_id": raw_ids}).select(pl.arg_sort_by("hash", "raw_id")).to_series()
    codes = np.full((items.height + 1, 1), ABSENT, np.int32)
    codes[item_ids[order.to_numpy()], 0] = np.arange(items.height, dtype=np.int32)
    return ItemCodes(SCHEME, codes, (items.height,))

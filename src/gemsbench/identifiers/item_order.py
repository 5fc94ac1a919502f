"""The one order in which items are numbered: that of keyed hashes, which says nothing of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ABSENT, Int32Array


def keyed_ranks(items: pl.DataFrame) -> Int32Array:
    """Rank of every item in keyed-hash order of its raw_id: int32 [n_items + 1], row = item_id, row 0 is -1.

    items has item_id (1..n in any row order) and raw_id. A rank is a function of the set of raw ids alone, so that it
    tells nothing of popularity, time or file order. Equal hashes are ordered by raw_id.
    Raises InputError when item ids are not 1..n once each or a raw_id repeats.
    """
    item_ids = items["item_id"].to_numpy()
    raw_ids = items["raw_id"]
    if not np.array_equal(np.sort(item_ids), np.arange(1, items.height + 1)):
        raise InputError(f"items: item_id must be 1..{items.height}, each once. Prepare the recipe again.")
    if raw_ids.n_unique() != items.height:
        repeated = raw_ids.filter(raw_ids.is_duplicated())[0]
        raise InputError(f"items: raw_id '{repeated}' occurs more than once. Prepare the recipe again.")
    hashes = seeds.mix64(seeds.hash64_many(raw_ids), seeds.stream_seed(0, "identifiers", "atomic"))
    order = pl.DataFrame({"hash": hashes, "raw_id": raw_ids}).select(pl.arg_sort_by("hash", "raw_id")).to_series()
    ranks = np.full(items.height + 1, ABSENT, np.int32)
    ranks[item_ids[order.to_numpy()]] = np.arange(items.height, dtype=np.int32)
    return ranks

"""Which vectors a quantiser learns from, and what it does with items that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ABSENT, Int32Array
from gemsbench.identifiers.scheme import RawCodes
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256

if TYPE_CHECKING:
    import polars as pl

Int64Array = npt.NDArray[np.int64]


def required_vectors(vectors: Mapping[str, ItemVectors], encoder: str, items: pl.DataFrame, scheme: str) -> ItemVectors:
    """The vectors of an encoder; raises InputError when they are missing or of other items."""
    if encoder not in vectors:
        raise InputError(f"identifiers '{scheme}': needs the vectors of '{encoder}'. Make them first, and name them.")
    found = vectors[encoder]
    if found.n_items != items.height or found.items_sha256 != catalogue_sha256(items):
        raise InputError(
            f"identifiers '{scheme}': the vectors of '{encoder}' are of {found.n_items} items of other ids or texts "
            f"than the {items.height} of this recipe. Make the vectors again from it."
        )
    return found


def known_by_rank(vectors: ItemVectors, ranks: Int32Array) -> Int64Array:
    """Ids of the known items, int64 [m], in the order of ranks int32 [n_items + 1] (item_order.keyed_ranks).

    A sum over the vectors in this order has the same bits however the catalogue is numbered.
    """
    known = np.flatnonzero(vectors.known)
    return known[np.argsort(ranks[known])]


def code_table(
    n_items: int, known: Int64Array, codes: Int64Array, codes_of_others: Int64Array, codebook_size: int
) -> RawCodes:
    """The codes [m, L] of the items known, ids int64 [m], and the same codes [L] for every other one.

    Items of which nothing is known cannot be told apart by a quantiser: they share their codes, and the level that
    numbers equal codes tells them apart.
    """
    table = np.tile(codes_of_others, (n_items + 1, 1)).astype(np.int32)
    table[known] = codes
    table[0] = ABSENT
    return RawCodes(table, (codebook_size,) * table.shape[1])

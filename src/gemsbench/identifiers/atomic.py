"""Atomic identifiers: one token of its own per item (BSR, arXiv 2410.16823; also "Ours", decision 14)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from gemsbench.identifiers.codes import ItemCodes
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.scheme import Identifiers, NoSettings

if TYPE_CHECKING:
    from gemsbench.identifiers.vectors import ItemVectors

SCHEME = "atomic"


class Atomic:
    """One token of its own for every item; learned from nothing."""

    Config: ClassVar[type] = NoSettings

    def make(
        self,
        config: NoSettings,
        items: pl.DataFrame,
        vectors: Mapping[str, ItemVectors],
        seed: int,
        checkpoint: Path,
    ) -> Identifiers:
        """atomic_codes of the items, the same for every seed."""
        return Identifiers(atomic_codes(items))


def atomic_codes(items: pl.DataFrame) -> ItemCodes:
    """One level of n_items codes; an item's code is its rank in keyed-hash order (item_order.keyed_ranks)."""
    return ItemCodes(SCHEME, keyed_ranks(items)[:, None], (items.height,))

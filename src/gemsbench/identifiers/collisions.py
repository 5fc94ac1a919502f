"""Equal codes: which items share theirs, and the further level that tells such items apart (arXiv 2305.05065)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ABSENT, Int32Array, ItemCodes
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.scheme import RawCodes

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CodeGroups:
    """Items with equal codes: of is int64 [n_items], the group of item row + 1; sizes is int64 [n_groups]."""

    of: Int64Array
    sizes: Int64Array

    @property
    def shared(self) -> npt.NDArray[np.bool_]:
        """Whether another item has the same codes, bool [n_items]."""
        return self.sizes[self.of] > 1


def code_groups(codes: Int32Array) -> CodeGroups:
    """Group the items of codes int32 [n_items + 1, L] by equal rows; groups are in the order of their codes."""
    rows = codes[1:]
    order = np.lexsort(rows.T[::-1])
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    of = np.empty(len(rows), np.int64)
    of[order] = np.cumsum(starts) - 1
    return CodeGroups(of, np.bincount(of))


def append_level(
    codes: RawCodes, items: pl.DataFrame, scheme: str, *, most: int = 256, always: bool = True
) -> ItemCodes:
    """Tell items of equal codes apart by a last level that numbers the members of every group 0, 1, 2, ...

    The members stand in the keyed-hash order of their raw_id, so that the number says nothing of popularity, time or
    file order; an item alone has 0. The other levels stay as they are; the size of the new one is the largest group.
    items: item_id 1..n in any row order, raw_id. always: False leaves codes alone that are all different. An
    identifier of fewer levels than others stays as it is. Raises InputError when a group has more than `most` items,
    or when such a shorter identifier belongs to several.
    """
    if items.height != len(codes.codes) - 1:
        raise InputError(f"identifiers '{scheme}': codes of {len(codes.codes) - 1} items for {items.height} items.")
    groups = code_groups(codes.codes)
    largest = int(groups.sizes.max())
    if largest == 1 and not always:
        return ItemCodes(scheme, codes.codes, codes.sizes)
    if largest > most:
        raise InputError(_too_many(codes, groups, items, scheme, most))
    whole = codes.codes[1:, -1] != ABSENT
    if (groups.shared & ~whole).any():
        raise InputError(_short(codes, groups, items, scheme, int(np.argmax(groups.shared & ~whole)) + 1))
    order = np.lexsort((keyed_ranks(items)[1:], groups.of))
    number = np.empty(items.height, np.int32)
    number[order] = np.arange(items.height) - (np.cumsum(groups.sizes) - groups.sizes)[groups.of[order]]
    level = np.concatenate([[ABSENT], np.where(whole, number, ABSENT)]).astype(np.int32)
    return ItemCodes(scheme, np.column_stack([codes.codes, level]), (*codes.sizes, largest))


def _too_many(codes: RawCodes, groups: CodeGroups, items: pl.DataFrame, scheme: str, most: int) -> str:
    largest = int(np.argmax(groups.sizes))
    item = int(np.argmax(groups.of == largest)) + 1
    return (
        f"identifiers '{scheme}': {groups.sizes[largest]} items share {_described(codes.codes, items, item)}; the "
        f"level that numbers such items holds {most}. Items of equal vectors or without text always share their codes: "
        "give them different texts. Else use more levels or a larger codebook_size, or raise most_per_code."
    )


def _short(codes: RawCodes, groups: CodeGroups, items: pl.DataFrame, scheme: str, item: int) -> str:
    return (
        f"identifiers '{scheme}': {groups.sizes[groups.of[item - 1]]} items share "
        f"{_described(codes.codes, items, item)}, which has fewer levels than others and cannot take a number behind "
        "its last code. Give these items different codes, or all items as many."
    )


def _described(codes: Int32Array, items: pl.DataFrame, item: int) -> str:
    """The codes of an item and what it is."""
    row = items.filter(pl.col("item_id") == item)
    text = f" ({row['text'][0][:60]!r})" if "text" in items.columns else ""
    present = ", ".join(str(code) for code in codes[item] if code != ABSENT)
    return f"the codes ({present}), e.g. item '{row['raw_id'][0]}'{text}"

"""The code table: every item of a catalogue as a short sequence of codes, checked wherever it is made or read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.errors import InputError
from gemsbench.files import read_json, read_table, table_sha256, write_json, write_table

Int32Array = npt.NDArray[np.int32]

TABLE = "codes.parquet"  # item_id, level_1 .. level_L
HEADER = "codes.json"  # scheme, sizes, n_items, sha256 of the table's content
ABSENT = -1


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """Identifiers of all items of a recipe under one scheme.

    codes is int32 [n_items + 1, L], read-only; row = item_id, row 0 (padding) is absent on every level. A code of
    level l lies in 0..sizes[l]-1; an identifier shorter than L ends with -1. Raises InputError for anything else.
    """

    scheme: str
    codes: Int32Array
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        codes = self.codes
        if codes.ndim != 2 or codes.dtype != np.int32 or len(codes) < 2 or codes.shape[1] < 1:
            found = f"{codes.dtype} {list(codes.shape)}"
            raise InputError(f"{self._where}: a code table is int32 [n_items + 1, L] with L >= 1, not {found}.")
        if len(self.sizes) != codes.shape[1] or min(self.sizes) < 1:
            raise InputError(f"{self._where}: sizes {list(self.sizes)} do not fit {codes.shape[1]} levels of codes.")
        if (codes[0] != ABSENT).any():
            raise InputError(f"{self._where}: row 0 is padding and must be {ABSENT} on every level.")
        rows = codes[1:]
        self._reject((rows < ABSENT) | (rows >= np.array(self.sizes)), f"a code outside its level's size {self.sizes}")
        self._reject(rows[:, :1] == ABSENT, "no code on the first level")
        self._reject((rows[:, 1:] != ABSENT) & (rows[:, :-1] == ABSENT), "a code after an absent level")
        read_only = codes.view()
        read_only.setflags(write=False)
        object.__setattr__(self, "codes", read_only)

    @property
    def n_items(self) -> int:
        """Number of items; item ids are 1..n_items."""
        return len(self.codes) - 1

    @property
    def fixed_length(self) -> bool:
        """True when all identifiers have as many codes, so that none is the beginning of another (decision 3)."""
        return not (self.codes[1:] == ABSENT).any()

    def require_injective(self) -> None:
        """Raise InputError naming two items when an identifier belongs to more than one."""
        rows = self.codes[1:]
        order = np.lexsort(rows.T[::-1])  # stable: equal identifiers stand in item order
        equal = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
        if equal.any():
            first = int(np.argmax(equal))
            one, other = int(order[first]) + 1, int(order[first + 1]) + 1
            raise InputError(
                f"{self._where}: items {one} and {other} share the identifier {_shown(self.codes[one])}; {equal.sum()} "
                "items repeat an identifier that another has. Number the members of such groups on a further level."
            )

    def save(self, folder: Path) -> None:
        """Write codes.parquet and, last, codes.json into the folder."""
        table = self.table()
        write_table(folder / TABLE, table)
        header = {"scheme": self.scheme, "sizes": list(self.sizes), "n_items": self.n_items}
        write_json(folder / HEADER, {**header, "sha256": table_sha256(table)})

    def table(self) -> pl.DataFrame:
        """item_id and one column per level, int32."""
        levels = {f"level_{number}": column for number, column in enumerate(self.codes[1:].T, start=1)}
        return pl.DataFrame({"item_id": np.arange(1, self.n_items + 1, dtype=np.int32), **levels})

    def _reject(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        """Raise InputError for the first item with a wrong entry; wrong is bool [n_items, .]."""
        if wrong.any():
            item = int(np.argmax(wrong.any(axis=1))) + 1
            raise InputError(f"{self._where}: item {item} has {what}: {_shown(self.codes[item])}.")

    @property
    def _where(self) -> str:
        return f"identifiers '{self.scheme}'"


def _shown(codes: Int32Array) -> str:
    return f"({', '.join(str(code) for code in codes)})"


def load_codes(folder: Path, n_items: int | None = None) -> ItemCodes:
    """Read what ItemCodes.save wrote; n_items is the size of the catalogue that the codes are to be used for.

    Raises InputError when a file is missing, the table is not the one that was written, or its items are not exactly
    1..n_items.
    """
    header = _header(folder / HEADER)
    path = folder / TABLE
    table = read_table(path)
    expected = {"item_id": pl.Int32(), **{f"level_{level + 1}": pl.Int32() for level in range(len(header["sizes"]))}}
    if dict(table.schema) != expected:
        raise InputError(f"{path}: its columns are {dict(table.schema)}, not {expected}. {_AGAIN}")
    for count, source in ((header["n_items"], f"{folder / HEADER} says"), (n_items, "the catalogue has")):
        if count is not None:
            _check_items(table["item_id"].to_numpy(), count, path, source)
    if table_sha256(table) != header["sha256"]:
        raise InputError(f"{path}: its content is not what {HEADER} was written for (sha256 differs). {_AGAIN}")
    rows = table.drop("item_id").to_numpy().astype(np.int32, copy=False)
    padding = np.full((1, rows.shape[1]), ABSENT, np.int32)
    return ItemCodes(header["scheme"], np.concatenate([padding, rows]), tuple(header["sizes"]))


_AGAIN = "Delete the folder and make the identifiers again."


def _header(path: Path) -> Mapping[str, Any]:
    """The checked header of a code table; raises InputError."""
    header = read_json(path)
    kinds = {"scheme": str, "sizes": list, "n_items": int, "sha256": str}
    right = isinstance(header, dict) and all(isinstance(header.get(key), kind) for key, kind in kinds.items())
    if not right or not header["sizes"] or not all(type(size) is int for size in header["sizes"]):
        raise InputError(f"{path}: not the header of a code table (scheme, sizes, n_items, sha256). {_AGAIN}")
    return dict(header)


def _check_items(items: Int32Array, count: int, path: Path, source: str) -> None:
    """Raise InputError unless items is 1..count in order."""
    wanted = np.arange(1, count + 1)
    if np.array_equal(items, wanted):
        return
    problems = {"unknown": np.setdiff1d(items, wanted), "missing": np.setdiff1d(wanted, items)}
    named = "; ".join(f"{len(ids)} {word}, e.g. item {ids[0]}" for word, ids in problems.items() if len(ids))
    raise InputError(f"{path}: {source} {count} items; {named or 'items repeat or are out of order'}. {_AGAIN}")

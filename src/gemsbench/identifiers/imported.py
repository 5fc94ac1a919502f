"""Identifiers from elsewhere: an index file of the LETTER / LC-Rec line, codes as they stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from gemsbench.errors import InputError
from gemsbench.files import sha256_file
from gemsbench.identifiers.collisions import append_level
from gemsbench.identifiers.index_file import item2id_beside, read_index
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.statistics import require_distinct

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors

SCHEME = "imported"


@dataclass(frozen=True)
class ImportedSettings:
    """Which file, and how it is to be read."""

    index: str = ""  # path of the index file; must be given
    item2id: str = ""  # path of the numbers of its items; "": the file of that name beside it, else keys are raw ids
    sizes: tuple[int, ...] = ()  # codes per level; (): the largest code + 1
    most_per_code: int = 256  # items that may share one identifier; they are numbered on a further level


class Imported:
    """Reads an index file; a level is added only where items share an identifier."""

    Config: ClassVar[type] = ImportedSettings

    def make(
        self,
        config: ImportedSettings,
        items: pl.DataFrame,
        vectors: Mapping[str, ItemVectors],  # none is read
        seed: int,
        checkpoint: Path,
    ) -> Identifiers:
        """The codes of the file, each kept as it is; seed and checkpoint are not used.

        Raises InputError for a file that does not give every item an identifier, see read_index, and when it tells
        few items apart.
        """
        if not config.index:
            raise InputError(f"identifiers '{SCHEME}': no file is named. Set index to the path of a *.index.json.")
        index = Path(config.index)
        numbers = Path(config.item2id) if config.item2id else item2id_beside(index)
        files = {"index": index, "item2id": numbers} if config.item2id or numbers.is_file() else {"index": index}
        raw = read_index(index, items, files.get("item2id"), config.sizes)
        require_distinct(raw, SCHEME)
        codes = append_level(raw, items, SCHEME, most=config.most_per_code, always=False)
        record = {f"{name}_sha256": sha256_file(path) for name, path in files.items()}
        return Identifiers(codes, quantised=raw, record=record)

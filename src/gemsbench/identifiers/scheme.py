"""What an identifier scheme is: items and their vectors in, a code table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gemsbench.identifiers.codes import Int32Array, ItemCodes

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors


@dataclass(frozen=True)
class NoSettings:
    """Config of a scheme that has nothing to set."""


@dataclass(frozen=True, eq=False)
class RawCodes:
    """Codes before they are told apart: several items may share them.

    codes: int32 [n_items + 1, L], row = item_id, row 0 is -1. sizes: number of codes per level.
    """

    codes: Int32Array
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Identifiers:
    """What a scheme made.

    quantised: as the quantiser gave them. resolved: after the scheme's own policy for equal codes; None where it has
    none but the further level. record: JSON values that say how it went, no times among them. log: one mapping of JSON
    values per line, e.g. per epoch of a training; times are for here.
    """

    codes: ItemCodes
    quantised: RawCodes | None = None
    resolved: RawCodes | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()


class Scheme(Protocol):
    """A way to make identifiers. Registered as `name -> target` in gemsbench.registry, with the encoders it reads.

    Config is a frozen dataclass with defaults; a profile overrides its fields. The class is built without arguments
    and keeps no state.
    """

    Config: ClassVar[type]

    def make(
        self, config: Any, items: pl.DataFrame, vectors: Mapping[str, ItemVectors], seed: int, checkpoint: Path
    ) -> Identifiers:
        """Give every item of a recipe an identifier of its own.

        items: the canonical table, in any row order. vectors: by name of the encoder, those of the registry entry.
        checkpoint: a folder of its own for a long fit, which goes on from it when called again with equal arguments.
        The codes of an item may not depend on the order of rows.
        """
        ...

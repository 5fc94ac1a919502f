"""Item vectors on disk: what an encoder says of every item of a recipe, and which items it says nothing of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gemsbench.errors import InputError
from gemsbench.files import atomic_path, canonical_json, table_sha256

VECTORS = "vectors.safetensors"
_HEADER = "gemsbench"  # key of the file's metadata
_AGAIN = "Delete the folder and make the vectors again (gemsbench encoder)."

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


def catalogue_sha256(items: pl.DataFrame) -> str:
    """What identifies the items of a recipe: sha256 over ids and texts, whatever the order of rows."""
    return table_sha256(items.sort("item_id").select("item_id", "raw_id", "text"))


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """One vector per item under one encoder.

    vectors: float32 [n_items + 1, D], read-only, row = item_id, row 0 (padding) zeros. known: bool [n_items + 1],
    False for padding and for items of which the encoder knows nothing (no text, no training event); their rows are
    zeros. items_sha256: catalogue_sha256 of the items. Raises InputError for anything else, NaN or inf among it.
    """

    encoder: str
    items_sha256: str
    vectors: Float32Array
    known: BoolArray

    def __post_init__(self) -> None:
        vectors, known = self.vectors, self.known
        if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) < 2 or vectors.shape[1] < 1:
            found = f"{vectors.dtype} {list(vectors.shape)}"
            raise InputError(f"{self._where}: item vectors are float32 [n_items + 1, D], not {found}.")
        if known.shape != vectors.shape[:1] or known.dtype != np.bool_:
            found = f"{known.dtype} {list(known.shape)}"
            raise InputError(f"{self._where}: known is bool [{len(vectors)}], one per row of vectors, not {found}.")
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            item = int(np.argmin(finite))
            raise InputError(
                f"{self._where}: {(~finite).sum()} items have NaN or inf in their vectors, e.g. item {item}. The "
                "encoder diverged: lower its learning rate, or take one in higher precision."
            )
        if known[0] or vectors[~known].any():
            raise InputError(f"{self._where}: row 0 and items that are not known must have zero vectors.")
        if not known.any():
            raise InputError(f"{self._where}: no item is known, so there is nothing to make identifiers from.")
        for name in ("vectors", "known"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    @property
    def n_items(self) -> int:
        """Number of items; item ids are 1..n_items."""
        return len(self.vectors) - 1

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def save(self, folder: Path) -> None:
        """Write vectors.safetensors into the folder."""
        header = {"encoder": self.encoder, "items_sha256": self.items_sha256}
        arrays = {"vectors": np.ascontiguousarray(self.vectors), "known": np.ascontiguousarray(self.known)}
        with atomic_path(folder / VECTORS) as temporary:
            save_file(arrays, temporary, metadata={_HEADER: canonical_json(header)})

    @property
    def _where(self) -> str:
        return f"vectors of '{self.encoder}'"


def load_vectors(path: Path, items: pl.DataFrame) -> ItemVectors:
    """Read what ItemVectors.save wrote, for the items of a recipe.

    Raises InputError when the file is missing or damaged, or when it was made for other items.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Make it with `gemsbench encoder NAME RECIPE`.")
    try:
        with safe_open(path, framework="numpy") as handle:
            header = json.loads((handle.metadata() or {}).get(_HEADER, "null"))
            vectors, known = handle.get_tensor("vectors"), handle.get_tensor("known")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a file of item vectors ({error}). {_AGAIN}") from error
    if not isinstance(header, dict) or not {"encoder", "items_sha256"} <= header.keys():
        raise InputError(f"{path}: its header does not say which items it was made for. {_AGAIN}")
    if header["items_sha256"] != catalogue_sha256(items) or len(vectors) != items.height + 1:
        raise InputError(
            f"{path}: made for {len(vectors) - 1} items of other ids or texts than the {items.height} of this recipe. "
            f"{_AGAIN}"
        )
    return ItemVectors(str(header["encoder"]), str(header["items_sha256"]), vectors, known)

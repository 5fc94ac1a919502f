"""Reading and writing: outputs appear whole or not at all, content hashes do not depend on the writer."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.errors import InputError

METADATA_KEY = "gemsbench"
_HOST = socket.gethostname().replace(".", "-")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside target (file or folder) that replaces target when the block succeeds.

    Raises InputError when the disk is full; nothing half-written is left behind.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.parent / f".{target.name}.{_HOST}.{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        if temporary.is_dir() and target.is_dir():
            _swap_directories(temporary, target)
        else:
            temporary.replace(target)
    except (OSError, pl.exceptions.PolarsError) as error:
        if not _is_full_disk(error):
            raise
        raise InputError(
            f"{target}: the disk is full. Nothing was written. Free space on the disk that holds "
            f"{target.parent.resolve()} and run the same command again."
        ) from error
    finally:
        remove(temporary)


def _is_full_disk(error: Exception) -> bool:
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in codes:
        return True
    # polars reports the system's error in words only.
    return any(f"(os error {code})" in str(error) for code in codes)


def _swap_directories(new: Path, target: Path) -> None:
    old = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.old"
    target.replace(old)
    new.replace(target)
    remove(old)


def _remove_leftovers(target: Path) -> None:
    """Delete what a killed process of this machine left of the same target."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{_HOST}.*.tmp"):
        process = leftover.name.split(".")[-3]
        if process.isdigit() and not _is_alive(int(process)):
            remove(leftover)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Delete a file or folder; it may be absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    """sha256 over the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON (sorted keys, two spaces) atomically."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write utf-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises InputError when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}). Delete it and run the step that writes it again."
        ) from error


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_table(path: Path, table: pl.DataFrame, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a parquet table atomically (zstd, row groups of at most 262,144 rows); metadata becomes a JSON header."""
    header = {METADATA_KEY: canonical_json(dict(metadata))} if metadata is not None else None
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, compression="zstd", row_group_size=262_144, metadata=header)


def read_table(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a parquet table; raises InputError when it is missing or damaged."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file. Run the step that makes it (gemsbench plan lists the steps).")
    try:
        return pl.read_parquet(path, columns=columns)
    except pl.exceptions.ColumnNotFoundError as error:
        raise InputError(f"{path}: a column is missing ({error}).") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}). Delete it and make it again.") from error


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a parquet table written by write_table; empty when there is none."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file.")
    try:
        text = pl.read_parquet_metadata(path).get(METADATA_KEY, "{}")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}). Delete it and make it again.") from error
    header: dict[str, Any] = json.loads(text)
    return header


def table_sha256(table: pl.DataFrame) -> str:
    """sha256 of a table's content (names, types, values in row order), independent of how parquet stores it."""
    digest = hashlib.sha256(str(table.height).encode())
    for column in table.get_columns():
        digest.update(f"\x1f{column.name}\x1f{column.dtype}\x1f".encode())
        _update_with_values(digest, column)
    return digest.hexdigest()


def _update_with_values(digest: Any, column: pl.Series) -> None:
    if column.null_count():
        digest.update(column.is_null().to_numpy().tobytes())
    if isinstance(column.dtype, pl.List):
        digest.update(column.list.len().fill_null(0).cast(pl.Int64).to_numpy().tobytes())
        filled = column.drop_nulls()
        _update_with_values(digest, filled.list.explode(empty_as_null=False))
    elif column.dtype in (pl.String, pl.Categorical) or isinstance(column.dtype, pl.Enum):
        text = column.cast(pl.String).fill_null("")
        digest.update(text.str.len_bytes().cast(pl.Int64).to_numpy().tobytes())
        digest.update("".join(text.to_list()).encode())
    else:
        digest.update(column.fill_null(0).to_numpy().tobytes())

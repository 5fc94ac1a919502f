"""Whether a raw file is the right one: by its published hashes, by the recorded one, else as a whole container."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from gemsbench.data.dvc_pins import Pin
from gemsbench.data.source import RawFile
from gemsbench.errors import InputError

_CHUNK = 1 << 22


def require_content(path: Path, raw: RawFile, recorded: Pin | None, shown: Path | str, remedy: str) -> None:
    """Raise InputError, "<shown>: what is wrong. <remedy>", unless path holds what raw is.

    Every published hash must agree; where there is none, the recorded md5. Where there is no hash at all the size must
    be the published one, and a gzip, zip or parquet file must be whole.
    """
    known = {name: value for name, value in (("sha256", raw.sha256), ("md5", raw.md5)) if value}
    size = raw.size
    if not known and recorded is not None and recorded.md5:
        known, size = {"md5": recorded.md5}, recorded.size
        remedy = (
            f"{remedy} Its hash is the one of the first download, recorded in {raw.name}.dvc: nobody publishes it. If "
            f"that copy was wrong, take the record back (git checkout -- {raw.name}.dvc) and fetch again."
        )
    if known:
        found = digests(path, known)
        wrong = next((name for name, value in known.items() if found[name] != value), "")
        if wrong:
            expected = f" ({size} bytes)" if size else ""
            raise InputError(
                f"{shown}: wrong content: {wrong} is {found[wrong]} ({path.stat().st_size} bytes), "
                f"expected {known[wrong]}{expected}. {remedy}"
            )
        return
    if size and path.stat().st_size != size:
        raise InputError(f"{shown}: wrong size: {path.stat().st_size} bytes, expected {size}. {remedy}")
    problem = damage(path, raw.name)
    if problem:
        raise InputError(f"{shown}: {problem}. {remedy}")


def digests(path: Path, names: Mapping[str, str] | tuple[str, ...]) -> dict[str, str]:
    """Hexadecimal digests of a file by the named algorithms of hashlib, read once."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            for each in hashes.values():
                each.update(chunk)
    return {name: each.hexdigest() for name, each in hashes.items()}


def damage(path: Path, name: str) -> str:
    """What is wrong with the container of a raw file of that name; "" when it is whole, or is no container."""
    if not path.stat().st_size:
        return "an empty file"
    try:
        if name.endswith(".gz"):
            with gzip.open(path) as opened:
                while opened.read(_CHUNK):
                    pass
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                member = archive.testzip()
            return f"a zip archive with a damaged member, {member}" if member else ""
        elif name.endswith(".parquet"):
            pl.read_parquet_metadata(path)
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, pl.exceptions.PolarsError, OSError) as error:
        return f"cut off or damaged ({error})"
    return ""

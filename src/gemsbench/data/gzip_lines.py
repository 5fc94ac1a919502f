"""Lines of large gzip files in chunks, with the line numbers that error messages need."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gemsbench.data.malformed import stop_above_limit, stop_early
from gemsbench.errors import InputError

CHUNK_BYTES = 1 << 25
_GZIP_MAGIC = b"\x1f\x8b"
_LISTED = 10_000


@dataclass
class LineCheck:
    """Counts the lines of one file, those that were judged (parsed) among them, and lists the malformed ones."""

    path: Path
    lines: int = 0
    judged: int = 0
    malformed: int = 0
    listed: list[str] = field(default_factory=list)  # "file:line: reason"

    def skip(self, line: int, reason: str) -> None:
        """Note one malformed line (1-based, in order); raises InputError where the file cannot be the right one."""
        self.malformed += 1
        if len(self.listed) < _LISTED:
            self.listed.append(f"{self.path.name}:{line}: {reason}")
        stop_early(self.path, self.malformed, line, self.listed)

    def finish(self) -> None:
        """Raise InputError when the file is empty or more than 0.1 % of the judged lines are malformed."""
        if not self.lines:
            raise InputError(f"{self.path}: no lines in it. Download it again.")
        stop_above_limit(self.path, self.malformed, self.judged, self.listed)


def line_chunks(path: Path, check: LineCheck) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, whole lines as utf-8, about 32 MiB) and count the lines into check.

    Bytes that are no utf-8 (latin-1, lone surrogates) become U+FFFD; a byte order mark at the start is left out.
    Raises InputError when the file is missing, no gzip file (a saved web page, say), cut short or damaged.
    """
    _require_gzip(path)
    try:
        with gzip.open(path, "rb") as handle:
            yield from _ahead(_numbered(handle, check))
    except EOFError as error:
        raise InputError(f"{path}: cut short, its download did not finish. Download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error}). Download it again.") from error


def _ahead(chunks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same chunks; the next one is decompressed while the last is used."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def _numbered(handle: gzip.GzipFile, check: LineCheck) -> Iterator[tuple[int, bytes]]:
    rest = b""
    if (start := handle.read(len(codecs.BOM_UTF8))) != codecs.BOM_UTF8:
        rest = start
    while block := handle.read(CHUNK_BYTES):
        end = block.rfind(b"\n") + 1
        if not end:
            rest += block
            continue
        chunk, rest = rest + block[:end], block[end:]
        first = check.lines + 1
        check.lines += chunk.count(b"\n")
        yield first, _utf8(chunk)
    if rest:
        check.lines += 1
        yield check.lines, _utf8(rest)


def _utf8(chunk: bytes) -> bytes:
    return chunk if chunk.isascii() else chunk.decode("utf-8", "replace").encode()


def halves(first: int, lines: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]] | None:
    """Whole lines (the number of the first, utf-8) as two parts of the same form; None for a single line."""
    lines = lines.removesuffix(b"\n")
    middle = len(lines) // 2
    cut = lines.rfind(b"\n", 0, middle) + 1 or lines.find(b"\n", middle) + 1
    if not cut:
        return None
    return (first, lines[:cut]), (first + lines.count(b"\n", 0, cut), lines[cut:])


def _require_gzip(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    with path.open("rb") as handle:
        start = handle.read(256)
    if start.startswith(_GZIP_MAGIC):
        return
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path}: a web page, not the data: the server answered the download with HTML. Get it again.")
    raise InputError(f"{path}: not a gzip file. Download it again, or compress it with gzip.")

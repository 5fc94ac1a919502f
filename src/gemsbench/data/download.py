"""Downloads that can be cut off: a .part file is continued where it ended, and is checked before it gets its name."""

from __future__ import annotations

import errno
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gemsbench.errors import InputError

ATTEMPTS = 4  # in a row that bring less than PROGRESS, per address
PROGRESS = 1 << 20  # bytes
BACKOFF_S = 1.0  # doubled after each failed attempt
TIMEOUT_S = 60.0
_CHUNK = 1 << 18
_HTML = (b"<!doctype html", b"<html")
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class FullDiskError(InputError):
    """There is no room for the file, or for what is unpacked from it; no other address helps."""


class _CutOffError(Exception):
    """The connection failed or ended early; another attempt may continue."""


class _RefusedError(Exception):
    """One address does not have the file; another one may."""


@dataclass
class _Transfer:
    part: Path
    size: int  # of the whole file, as published; 0 unknown
    progress: Progress
    task: TaskID
    total: int = 0  # of the whole file, as the server said from which the part came; 0 unknown

    @property
    def have(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.is_file() else 0


def download(
    addresses: Sequence[str],
    target: Path,
    *,
    accept: Callable[[str], None],
    size: int = 0,
    by_hand: str,
    quiet: bool = False,
) -> None:
    """Write the content behind the first address that has it to target.

    addresses: of the same bytes; each gets ATTEMPTS, and attempts that bring PROGRESS or more do not count. accept:
    called with the address when target is whole; an InputError of it means that the content is wrong, and the next
    address of another host is tried; a FullDiskError of it says nothing about the content, which is kept.
    size: bytes, 0 unknown; a server that offers another number is refused before anything is stored. by_hand ends the
    messages: where the user may put the file.

    target's .part file is continued where the server allows it: also at another address and in a later process, when
    the server's total is `size`, or is the total that the part began with; a part begun by an earlier process is
    continued unseen where the size is unknown, and then `accept` must tell. Raises InputError when no address gives
    the file (no connection, refused, a web page, another size, cut off, wrong content), FullDiskError when there is no
    room; a .part file that can be continued is kept and named, nothing else is.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    wrong = set()  # hosts whose content was refused: http and https of one host, say, have the same files
    with _progress(quiet) as progress:
        transfer = _Transfer(part, size, progress, progress.add_task(target.name, total=size or None))
        for url in addresses:
            if urlsplit(url).hostname in wrong:
                continue
            try:
                _from_address(transfer, url)
                part.replace(target)
                accept(url)
                return
            except _RefusedError as error:
                problems.append(f"{url}: {error}.")
            except FullDiskError as error:
                if not target.is_file():
                    raise
                target.replace(part)
                raise FullDiskError(f"{error} {_left(part)}") from error
            except InputError as error:
                target.unlink(missing_ok=True)
                wrong.add(urlsplit(url).hostname)
                problems.append(str(error))
    which = f"None of the {len(problems)} addresses gave the file. " if len(problems) > 1 else ""
    raise InputError(f"{which}{' '.join(problems)} {_left(part)}{by_hand}")


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Within the block path is written; a full disk raises FullDiskError naming it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FullDiskError(
            f"{path}: the disk is full. Free space on the disk that holds {path.parent.resolve()} and run the same "
            "command again."
        ) from error


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def _left(part: Path) -> str:
    if not part.is_file() or not part.stat().st_size:
        part.unlink(missing_ok=True)
        return ""
    return f"{part.stat().st_size} bytes are kept in {part}: run the same command again to continue. "


def _from_address(transfer: _Transfer, url: str) -> None:
    """Complete the part; raises _RefusedError, FullDiskError."""
    failed = 0
    while True:
        before = transfer.have
        try:
            return _attempt(transfer, url)
        except _CutOffError as cut:
            failed = failed + 1 if transfer.have - before < PROGRESS else 1
            if failed == ATTEMPTS:
                raise _RefusedError(f"{cut} ({ATTEMPTS} attempts)") from cut
        time.sleep(BACKOFF_S * 2 ** (failed - 1))


def _attempt(transfer: _Transfer, url: str) -> None:
    if transfer.size and transfer.have > transfer.size:
        transfer.part.unlink()
    have = transfer.have
    if have and have == transfer.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "gemsbench", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _receive(transfer, response, have)
    except urllib.error.HTTPError as error:
        _refused(transfer, error, have)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _CutOffError(f"no connection ({getattr(error, 'reason', error)})") from error


def _refused(transfer: _Transfer, error: urllib.error.HTTPError, have: int) -> None:
    if error.code == 416:  # nothing after what we have: complete, or longer than the file
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have) and transfer.size in (0, have):
            return
        if transfer.size:
            raise _RefusedError(_other_size(transfer.size, int(total) if total.isdigit() else 0)) from error
        transfer.part.unlink(missing_ok=True)
        raise _CutOffError("the kept part did not fit the file") from error
    if error.code in _RETRIED:
        raise _CutOffError(f"the server answered {error.code} {error.reason}") from error
    raise _RefusedError(f"the server answered {error.code} {error.reason}") from error


def _other_size(expected: int, offered: int) -> str:
    return f"expected {expected:,} bytes, the server offers {offered:,}"


def _receive(transfer: _Transfer, response: http.client.HTTPResponse, have: int) -> None:
    resumed = response.status == 206
    start = have if resumed else 0
    total = _total(response, start)
    if resumed and _start(response, have) != have:
        transfer.part.unlink()
        raise _CutOffError("the server continued at another place than asked; the kept part was dropped")
    chunk = _read(response)
    page = response.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    if page or (not start and chunk.lstrip()[:14].lower().startswith(_HTML)):
        raise _RefusedError(
            "a web page came instead of the file (a login, a consent or an error page). "
            "Open the address in a browser to see it"
        )
    if transfer.size and total and total != transfer.size:
        raise _RefusedError(_other_size(transfer.size, total))
    if resumed and transfer.total and total and total != transfer.total:
        problem = f"the kept part is of a file of {transfer.total:,} bytes, the server offers {total:,}"
        transfer.part.unlink()
        transfer.total = 0
        raise _CutOffError(problem)
    transfer.total = total
    _require_room(transfer, total or transfer.size, have)
    transfer.progress.update(transfer.task, total=total or transfer.size or None, completed=start)
    received = _store(transfer, response, chunk, start)
    if received < (total or transfer.size):
        raise _CutOffError(f"cut off after {received} of {total or transfer.size} bytes")


def _start(response: http.client.HTTPResponse, asked: int) -> int:
    """Number of the first byte that comes; asked where the server does not say."""
    stated = (response.headers.get("Content-Range") or "").removeprefix("bytes").strip().partition("-")[0]
    return int(stated) if stated.isdigit() else asked


def _total(response: http.client.HTTPResponse, start: int) -> int:
    """Bytes of the whole file, as the server says; 0 unknown."""
    stated = (response.headers.get("Content-Range") or "").rpartition("/")[2]
    length = response.headers.get("Content-Length") or ""
    if stated.isdigit():
        return int(stated)
    return start + int(length) if length.isdigit() else 0


def _require_room(transfer: _Transfer, total: int, have: int) -> None:
    folder = transfer.part.parent.resolve()
    free = shutil.disk_usage(folder).free
    if total - have > free:
        raise FullDiskError(
            f"{transfer.part}: {total - have:,} bytes are still to come, and {free:,} are free on the disk that holds "
            f"{folder}. Free space there and run the same command again. {_left(transfer.part)}"
        )


def _store(transfer: _Transfer, response: http.client.HTTPResponse, chunk: bytes, start: int) -> int:
    """Append what comes to the part, or begin it anew (start 0); return its length."""
    received = start
    try:
        with room_for(transfer.part), transfer.part.open("ab" if start else "wb") as handle:
            while chunk:
                handle.write(chunk)
                received += len(chunk)
                transfer.progress.update(transfer.task, completed=received)
                chunk = _read(response)
    except FullDiskError as error:
        raise FullDiskError(f"{error} {_left(transfer.part)}") from error
    return received


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial
    except OSError as error:  # of the connection or its encryption
        raise _CutOffError(f"the connection broke ({error})") from error

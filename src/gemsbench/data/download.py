"""Downloads that can be cut off: a .part file is continued where it ended, and is checked before it gets its name."""

from __future__ import annotations

import errno
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

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

ATTEMPTS = 4
BACKOFF_S = 1.0  # doubled after each failed attempt
TIMEOUT_S = 60.0
_CHUNK = 1 << 18
_HTML = (b"<!doctype html", b"<html")
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class _CutOffError(Exception):
    """The connection failed or ended early; another attempt may continue."""


@dataclass(frozen=True)
class _Transfer:
    url: str
    part: Path
    by_hand: str  # what to do when the network does not help


def download(url: str, target: Path, *, by_hand: str, quiet: bool = False) -> None:
    """Write the content behind url to target, continuing target's .part file when the server allows it.

    by_hand ends the messages: where the user may put the file. Raises InputError when there is no connection, the
    server refuses, a web page comes instead of a file, the content stays cut off, or the disk is full; a .part file
    that can be continued is kept and named, nothing else is.
    """
    transfer = _Transfer(url, target.with_name(target.name + ".part"), by_hand)
    target.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    with _progress(quiet) as progress:
        task = progress.add_task(target.name, total=None)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                _attempt(transfer, progress, task)
            except _CutOffError as cut:
                problem = str(cut)
                continue
            transfer.part.replace(target)
            return
    raise InputError(f"{url}: {problem} ({ATTEMPTS} attempts). {_left(transfer.part)}{by_hand}")


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


def _attempt(transfer: _Transfer, progress: Progress, task: TaskID) -> None:
    have = transfer.part.stat().st_size if transfer.part.is_file() else 0
    request = urllib.request.Request(transfer.url, headers={"User-Agent": "gemsbench", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _receive(transfer, response, have, progress, task)
    except urllib.error.HTTPError as error:
        _refused(transfer, error, have)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _CutOffError(f"no connection ({getattr(error, 'reason', error)})") from error


def _refused(transfer: _Transfer, error: urllib.error.HTTPError, have: int) -> None:
    if error.code == 416:  # nothing after what we have: complete, or longer than the file
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):
            return
        transfer.part.unlink(missing_ok=True)
        raise _CutOffError("the kept part did not fit the file") from error
    if error.code in _RETRIED:
        raise _CutOffError(f"the server answered {error.code} {error.reason}") from error
    raise InputError(f"{transfer.url}: the server answered {error.code} {error.reason}. {transfer.by_hand}") from error


def _receive(
    transfer: _Transfer, response: http.client.HTTPResponse, have: int, progress: Progress, task: TaskID
) -> None:
    resumed = response.status == 206
    start = have if resumed else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    progress.update(task, total=total, completed=start)
    chunk = _read(response)
    page = response.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    if page or (not start and chunk.lstrip()[:14].lower().startswith(_HTML)):
        transfer.part.unlink(missing_ok=True)
        raise InputError(
            f"{transfer.url}: a web page came instead of the file (a login, a consent or an error page). "
            f"Open the address in a browser to see it. {transfer.by_hand}"
        )
    received = start
    try:
        with transfer.part.open("ab" if resumed else "wb") as handle:
            while chunk:
                handle.write(chunk)
                received += len(chunk)
                progress.update(task, completed=received)
                chunk = _read(response)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{transfer.part}: the disk is full. Free space on the disk that holds {transfer.part.parent.resolve()}. "
            f"{_left(transfer.part)}"
        ) from error
    if total is not None and received < total:
        raise _CutOffError(f"cut off after {received} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial
    except (TimeoutError, ConnectionError) as error:
        raise _CutOffError(f"the connection broke ({error})") from error

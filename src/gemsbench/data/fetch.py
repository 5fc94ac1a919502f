"""Raw files of a source: already there, from DVC, from a mirror folder, or downloaded; each held against its hash."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemsbench.data import dvc_pins, hub_listing
from gemsbench.data.corpus import Corpus
from gemsbench.data.download import download, room_for
from gemsbench.data.made_files import make_files
from gemsbench.data.raw_content import digests, require_content
from gemsbench.data.recipe import Recipe
from gemsbench.data.source import RawFile, Source
from gemsbench.data.sources import SOURCES
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, write_text

MIRROR = "GEMSBENCH_MIRROR"


def fetch(made_from: Recipe | Corpus, settings: Any, seed: int, root: Path, *, quiet: bool = False) -> Path:
    """Make sure that the raw files of a recipe or corpus are there and right; return the folder that it reads.

    root: the repository. They are made, or come from its sources. Raises InputError.
    """
    made = make_files(made_from, settings, seed, root)
    folders = [fetch_source(SOURCES[name], root, quiet=quiet) for name in made_from.sources]
    return made or (folders[0] if folders else root / str(settings.folder))


def fetch_source(source: Source, root: Path, *, quiet: bool = False) -> Path:
    """Make sure that the files of a source are there and right; return their folder.

    root: the repository. They come, in this order, from data/raw/<source> itself, DVC's cache or remote by their .dvc
    files, the folder named by GEMSBENCH_MIRROR, the public addresses. What nobody has published a hash of is recorded
    in its .dvc file when it first comes. Raises InputError.
    """
    folder = root / "data" / "raw" / source.name
    folder.mkdir(parents=True, exist_ok=True)
    files = source.files
    if source.hub is not None:
        listing = hub_listing.listing_of(source.name, source.hub, folder, _mirror_folder())
        files += hub_listing.raw_files(source.name, source.hub, listing)
    absent = missing = [raw for raw in files if not _present(folder / raw.name, raw)]
    try:
        missing = _pull(root, folder, missing)
        missing = [raw for raw in missing if not _mirrored(folder / raw.name, raw)]
        for url in dict.fromkeys(raw.url for raw in missing):
            _downloaded([raw for raw in missing if raw.url == url], folder, quiet)
    finally:  # what has come stays, and DVC keeps it, when a later file fails
        _noted(root, folder, [raw for raw in files if (folder / raw.name).is_file()], arrived=absent)
    if source.hub is not None:
        _note_listing(folder, bool(listing.revision))
    return folder


def _note_listing(folder: Path, of_hub: bool) -> None:
    """Record that the files of a listing have come; the first time, ask for the listing to be committed."""
    listed = (folder / hub_listing.LISTING).read_text(encoding="utf-8")
    fetched = folder / hub_listing.FETCHED
    if not fetched.is_file() or fetched.read_text(encoding="utf-8") != listed:
        local = "" if of_hub else " Its hashes are those of the mirror folder's files, nobody else's."
        print(
            f"Commit {folder / hub_listing.LISTING} and the .dvc files beside it: they pin what was fetched.{local}",
            file=sys.stderr,
        )
    write_text(fetched, listed)


def _present(path: Path, raw: RawFile) -> bool:
    if not path.is_file():
        return False
    remedy = f"It was changed or cut off. Delete {path} and run the same command again."
    require_content(path, raw, dvc_pins.read_pin(path), path, remedy)
    return True


def _noted(root: Path, folder: Path, files: Sequence[RawFile], *, arrived: Sequence[RawFile]) -> None:
    """Record the files that are there in their .dvc files, and put them into DVC's cache.

    A pin of other content than a published hash allows is one of an earlier listing or registry: it is written anew.
    """
    for raw in files:
        path, pin = folder / raw.name, dvc_pins.read_pin(folder / raw.name)
        unpublished = not raw.sha256 and not raw.md5
        if pin is not None and pin.md5 and (unpublished or raw not in arrived):
            continue
        if not (unpublished or (root / ".dvc").is_dir()):
            continue
        recorded = dvc_pins.Pin(digests(path, ("md5",))["md5"], path.stat().st_size)
        if pin is not None and pin.md5 == recorded.md5:
            continue
        dvc_pins.write_pin(path, recorded, "" if raw.unpacked else raw.url)
        if unpublished:
            print(
                f"{path}: nobody has published a hash of this file. Recorded in {dvc_pins.pin_of(path)}: "
                f"md5 {recorded.md5}, {recorded.size:,} bytes. Commit that file: every later copy is held against it.",
                file=sys.stderr,
            )
    problem = dvc_pins.commit(root, [folder / raw.name for raw in files])
    if problem:
        print(f"{folder}: the files are right, but DVC did not take note of them ({problem}).", file=sys.stderr)


def _pull(root: Path, folder: Path, files: Sequence[RawFile]) -> list[RawFile]:
    """Try DVC's cache and a configured remote; return what is still missing."""
    problem = dvc_pins.pull(root, [folder / raw.name for raw in files])
    if problem:
        print(f"{folder}: not all files came through DVC ({problem}); trying the other sources.", file=sys.stderr)
    return [raw for raw in files if not _from_dvc(folder / raw.name, raw)]


def _from_dvc(path: Path, raw: RawFile) -> bool:
    """Whether DVC had the file; what it kept under a pin that is out of date is put away."""
    if not path.is_file():
        return False
    try:
        require_content(path, raw, dvc_pins.read_pin(path), path, "It is fetched anew.")
    except InputError as error:
        path.unlink()
        print(f"DVC keeps another file than the one that is known by hash now. {error}", file=sys.stderr)
        return False
    return True


def _own_hashes(raw: RawFile) -> str:
    """What to do where the known hash is one of a mirror's earlier file: then the listing names no address."""
    return "" if raw.url else f", or delete {hub_listing.LISTING}, whose hashes are those of an earlier mirror"


def _mirror_folder() -> Path | None:
    folder = os.environ.get(MIRROR, "")
    return Path(folder) if folder else None


def _mirror_path(raw: RawFile) -> Path | None:
    folder = _mirror_folder()
    return folder / raw.mirror if folder and raw.mirror else None


def _mirrored(path: Path, raw: RawFile) -> bool:
    source = _mirror_path(raw)
    if source is None or not source.is_file():
        return False
    packed = source.suffix == ".gz" and not raw.name.endswith(".gz")
    with atomic_path(path) as temporary:
        try:
            with gzip.open(source) if packed else source.open("rb") as opened, temporary.open("wb") as out:
                shutil.copyfileobj(opened, out)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{source}: cut off or damaged ({error}). Copy it to the mirror again.") from error
        remedy = f"The mirror named by {MIRROR} holds another file. Copy the right one there{_own_hashes(raw)}."
        require_content(temporary, raw, dvc_pins.read_pin(path), source, remedy)
    return True


def _downloaded(files: Sequence[RawFile], folder: Path, quiet: bool) -> None:
    """Download the files of one address: one file, or members of one archive."""
    first = files[0]
    if not first.url:
        names = ", ".join(raw.name for raw in files)
        raise InputError(
            f"{folder / hub_listing.LISTING}: names no address of {names}: it was made from a mirror folder. Set "
            f"{MIRROR} to that folder again, or delete the listing to ask the hub."
        )
    name = first.url.rpartition("/")[2] if first.member else first.name
    # The download stands under a name of its own until its content has been checked.
    arrived = folder / f"{name}.download"

    def accept(url: str) -> None:
        for raw in files:
            with atomic_path(folder / raw.name) as temporary:
                if raw.member:
                    with room_for(folder / raw.name):
                        _extract(arrived, raw, temporary, url)
                else:
                    shutil.move(arrived, temporary)
                shown = f"{url} ({raw.member})" if raw.member else url
                remedy = "The file behind this address has changed or the download was tampered with."
                require_content(temporary, raw, dvc_pins.read_pin(folder / raw.name), shown, remedy)

    size = 0 if first.member else first.size or (dvc_pins.read_pin(folder / name) or dvc_pins.Pin()).size
    try:
        download(first.addresses, arrived, accept=accept, size=size, by_hand=_by_hand(files, folder), quiet=quiet)
    finally:
        arrived.unlink(missing_ok=True)


def _extract(archive: Path, raw: RawFile, target: Path, url: str) -> None:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(raw.member) as member, target.open("wb") as out:
            shutil.copyfileobj(member, out)
    except KeyError as error:
        raise InputError(f"{url}: the archive has no '{raw.member}'.") from error
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{url}: not a whole zip archive ({error}). Run the same command again.") from error


def _by_hand(files: Sequence[RawFile], folder: Path) -> str:
    names = ", ".join(f"{raw.name} (unpacked)" if raw.unpacked else raw.name for raw in files)
    mirror = _mirror_folder()
    if not any(raw.mirror for raw in files):
        mirror_says = ""
    elif mirror:
        absent = ", ".join(str(path) for path in (_mirror_path(raw) for raw in files) if path and not path.is_file())
        mirror_says = f"{MIRROR} is {mirror}, but there is no {absent}." if absent else f"{MIRROR} is {mirror}."
    else:
        mirror_says = f"Or set {MIRROR} to a folder that holds {', '.join(raw.mirror for raw in files if raw.mirror)}."
    return f"Without a connection: put {names} into {folder}. {mirror_says}".rstrip()

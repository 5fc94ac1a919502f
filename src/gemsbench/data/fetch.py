"""Raw files of a recipe or corpus: simulated, sampled, already there, from DVC, from a mirror folder, or downloaded."""

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

from gemsbench.data import dvc_pins
from gemsbench.data.corpus import Corpus
from gemsbench.data.download import download
from gemsbench.data.recipe import RawFile, Recipe
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, sha256_file

MIRROR = "GEMSBENCH_MIRROR"


def fetch(recipe: Recipe | Corpus, settings: Any, seed: int, root: Path, *, quiet: bool = False) -> Path:
    """Make sure that the raw files of a recipe or corpus are there and right; return their folder.

    root: the repository. Pinned files come, in this order, from data/raw/<recipe> itself, `dvc pull` of their .dvc file
    when a remote is configured, the folder named by GEMSBENCH_MIRROR, the public address. Raises InputError.
    """
    make = recipe.simulate or (recipe.sample if isinstance(recipe, Corpus) else None)
    if make is not None:
        folder = root / "data" / ("simulated" if recipe.simulate else "sampled") / recipe.name
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            make(temporary, settings, seed)
        return folder
    if not recipe.raw_files:
        return root / str(settings.folder)
    folder = root / "data" / "raw" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    missing = [raw for raw in recipe.raw_files if not _present(folder / raw.name, raw)]
    missing = _pull(root, folder, missing)
    missing = [raw for raw in missing if not _mirrored(folder / raw.name, raw)]
    for url in dict.fromkeys(raw.url for raw in missing):
        _downloaded(url, [raw for raw in missing if raw.url == url], folder, quiet)
    problem = dvc_pins.commit(root, [folder / raw.name for raw in recipe.raw_files])
    if problem:
        print(f"{folder}: the files are right, but DVC did not take note of them ({problem}).", file=sys.stderr)
    return folder


def _present(path: Path, raw: RawFile) -> bool:
    if not path.is_file():
        return False
    _check(path, raw, path, f"It was changed or cut off. Delete {path} and run the same command again.")
    return True


def _check(path: Path, raw: RawFile, shown: Path | str, remedy: str) -> None:
    found = sha256_file(path)
    if found != raw.sha256:
        raise InputError(
            f"{shown}: wrong content: sha256 is {found} ({path.stat().st_size} bytes), "
            f"expected {raw.sha256} ({raw.size} bytes). {remedy}"
        )


def _pull(root: Path, folder: Path, files: Sequence[RawFile]) -> list[RawFile]:
    """Try a configured DVC remote; return what is still missing."""
    pinned = [folder / raw.name for raw in files if dvc_pins.pin_of(folder / raw.name).is_file()]
    if not pinned or not dvc_pins.has_remote(root):
        return list(files)
    problem = dvc_pins.pull(root, pinned)
    if problem:
        print(f"{folder}: not all files came through DVC ({problem}); trying the other sources.", file=sys.stderr)
    return [raw for raw in files if not _present(folder / raw.name, raw)]


def _mirror_path(raw: RawFile) -> Path | None:
    folder = os.environ.get(MIRROR, "")
    return Path(folder) / raw.mirror if folder and raw.mirror else None


def _mirrored(path: Path, raw: RawFile) -> bool:
    source = _mirror_path(raw)
    if source is None or not source.is_file():
        return False
    with atomic_path(path) as temporary:
        try:
            with (
                gzip.open(source) if source.suffix == ".gz" else source.open("rb") as packed,
                temporary.open("wb") as out,
            ):
                shutil.copyfileobj(packed, out)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{source}: cut off or damaged ({error}). Copy it to the mirror again.") from error
        _check(temporary, raw, source, f"The mirror named by {MIRROR} holds another file. Copy the right one there.")
    return True


def _downloaded(url: str, files: Sequence[RawFile], folder: Path, quiet: bool) -> None:
    by_hand = _by_hand(files, folder)
    name = url.rpartition("/")[2] if files[0].member else files[0].name
    # The download stands under a name of its own until its content has been checked.
    arrived = folder / f"{name}.download"
    download(url, arrived, by_hand=by_hand, quiet=quiet)
    try:
        for raw in files:
            with atomic_path(folder / raw.name) as temporary:
                if raw.member:
                    _extract(arrived, raw, temporary, url, by_hand)
                else:
                    shutil.move(arrived, temporary)
                remedy = f"The file behind this address has changed or the download was tampered with. {by_hand}"
                _check(temporary, raw, f"{url} ({raw.member})" if raw.member else url, remedy)
    finally:
        arrived.unlink(missing_ok=True)


def _extract(archive: Path, raw: RawFile, target: Path, url: str, by_hand: str) -> None:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(raw.member) as member, target.open("wb") as out:
            shutil.copyfileobj(member, out)
    except KeyError as error:
        raise InputError(f"{url}: the archive has no '{raw.member}'. {by_hand}") from error
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{url}: not a whole zip archive ({error}). Run the same command again. {by_hand}") from error


def _by_hand(files: Sequence[RawFile], folder: Path) -> str:
    names = ", ".join(raw.name for raw in files)
    mirror = os.environ.get(MIRROR, "")
    if mirror:
        absent = ", ".join(str(path) for path in (_mirror_path(raw) for raw in files) if path and not path.is_file())
        mirror_says = f"{MIRROR} is {mirror}, but there is no {absent}." if absent else f"{MIRROR} is {mirror}."
    else:
        mirror_says = f"Or set {MIRROR} to a folder that holds {', '.join(raw.mirror for raw in files if raw.mirror)}."
    return f"Without this address: put {names} (unpacked) into {folder}. {mirror_says}"

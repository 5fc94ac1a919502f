"""What the hub says of a dataset's files: commit, path, size and sha256 of each, kept in git beside the .dvc files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from gemsbench.data.raw_content import damage, digests
from gemsbench.data.source import HubDataset, RawFile
from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json

LISTING = "files.json"  # below data/raw/<source>, kept in git
FETCHED = "fetched.json"  # beside it, the same content, not in git: these files have come
HUB = "https://huggingface.co"
FURTHER_HUB = "https://hf-mirror.com"  # of the files; asked for them only where HF_ENDPOINT names no other host
TIMEOUT_S = 60.0
_REFUSALS = {
    401: "the server answered 401: the repository is gone, or open only to those who log in",
    403: "the server answered 403: the repository is open only to those who have accepted its terms",
    404: "the server answered 404: there is no such repository or revision",
}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ListedFile:
    """One parquet file: its name below data/raw/<source>, its path in the repository."""

    name: str
    path: str  # "" where the listing was made from a mirror folder
    size: int
    sha256: str  # "" where the hub keeps the file in git itself


@dataclass(frozen=True)
class Listing:
    """The files of the wanted configs at one commit, sorted by name."""

    repository: str
    revision: str  # a commit; "" where the listing was made from a mirror folder
    files: tuple[ListedFile, ...]


def listing_of(source: str, hub: HubDataset, folder: Path, mirror: Path | None) -> Listing:
    """The listing of a source: folder/LISTING when it is there, else of the mirror folder or the hub, then written.

    mirror: the folder named by GEMSBENCH_MIRROR; mirror/<source> may hold a LISTING, or just the files, which then are
    hashed. Raises InputError when the listing is not of this dataset, or the hub cannot be asked.
    """
    path = folder / LISTING
    if path.is_file():
        return _read(path, hub)
    there = mirror / source if mirror else None
    if there is not None and (there / LISTING).is_file():
        listing = _read(there / LISTING, hub)
    elif there is not None and there.is_dir():
        listing = Listing(hub.repository, "", _in_mirror(there, hub))
    else:
        listing = _asked(source, hub)
    write_json(path, asdict(listing))
    return listing


def raw_files(source: str, hub: HubDataset, listing: Listing) -> tuple[RawFile, ...]:
    """The listed files with their addresses ("" where the listing names no paths); HF_ENDPOINT is respected."""
    hosts = (_endpoint(), FURTHER_HUB) if _endpoint() == HUB else (_endpoint(),)
    base = [f"{host}/datasets/{listing.repository}/resolve/{listing.revision or hub.revision}" for host in hosts]
    files = []
    for file in listing.files:
        url, *further = [f"{each}/{quote(file.path)}" for each in base] if file.path else [""]
        mirror = f"{source}/{file.name}"
        files.append(RawFile(file.name, file.sha256, file.size, url, mirror=mirror, further=tuple(further)))
    return tuple(files)


def _read(path: Path, hub: HubDataset) -> Listing:
    content = read_json(path)
    try:
        files = tuple(
            ListedFile(str(file["name"]), str(file["path"]), int(file["size"]), str(file["sha256"]))
            for file in content["files"]
        )
        listing = Listing(str(content["repository"]), str(content["revision"]), files)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a listing ({error!r}). Restore it, or delete it to ask the hub again."
        ) from error
    pinned = hub.revision if _COMMIT.fullmatch(hub.revision) else listing.revision
    if (listing.repository, listing.revision or pinned) != (hub.repository, pinned):
        raise InputError(
            f"{path}: lists {listing.repository} at '{listing.revision}', wanted is {hub.repository} at "
            f"'{hub.revision}'. Delete it to ask the hub again."
        )
    for config in hub.configs:
        _require_whole(config, [file.name for file in files], path)
    bad = next((file.name for file in files if PurePosixPath(file.name).name != file.name), "")
    if bad:
        raise InputError(f"{path}: '{bad}' is no file name. Delete the listing to ask the hub again.")
    return listing


def _of_config(config: str, names: Sequence[str]) -> list[str]:
    """The names of a config's file or shards, in order."""
    pattern = re.compile(rf"{re.escape(config)}(-\d{{5}}-of-\d{{5}})?\.parquet")
    return sorted(name for name in names if pattern.fullmatch(name))


def _require_whole(config: str, names: Sequence[str], where: Path) -> None:
    mine = _of_config(config, names)
    if mine not in ([f"{config}.parquet"], _names(config, len(mine))) or not mine:
        there = ", ".join(mine or sorted(names)) or "no parquet file"
        raise InputError(
            f"{where}: not all of {config}.parquet or its shards {config}-00000-of-0000N.parquet; there is {there}."
        )


def _names(config: str, count: int) -> list[str]:
    if count == 1:
        return [f"{config}.parquet"]
    return [f"{config}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def _in_mirror(folder: Path, hub: HubDataset) -> tuple[ListedFile, ...]:
    """The files of a mirror folder by their own hashes; they must at least be whole, for nothing else tells."""
    names = [path.name for path in folder.glob("*.parquet")]
    for config in hub.configs:
        _require_whole(config, names, folder)
    wanted = sorted(name for config in hub.configs for name in _of_config(config, names))
    for name in wanted:
        problem = damage(folder / name, name)
        if problem:
            raise InputError(f"{folder / name}: {problem}. Copy it to the mirror again.")
    return tuple(
        ListedFile(name, "", (folder / name).stat().st_size, digests(folder / name, ("sha256",))["sha256"])
        for name in wanted
    )


def _asked(source: str, hub: HubDataset) -> Listing:
    """The listing that the hub gives."""
    where = f"{_endpoint()}/datasets/{hub.repository} at {hub.revision}"
    by_hand = (
        "Run the same command on a machine with a connection, name another host of the hub in HF_ENDPOINT (as "
        f"{FURTHER_HUB}), or set GEMSBENCH_MIRROR to a folder that holds {source}/ with "
        f"{', '.join(f'{config}.parquet' for config in hub.configs)} (or their shards <config>-00000-of-0000N.parquet)."
    )
    try:
        info = _information(hub)
    except InputError as error:
        raise InputError(f"{where}: {error}. {by_hand}") from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    patterns = _patterns(info.card_data, where)
    files = []
    for config in hub.configs:
        paths = _paths(config, sorted(siblings), patterns)
        if not paths:
            there = ", ".join(path for path in sorted(siblings) if path.endswith(".parquet")) or "no parquet file"
            raise InputError(f"{where}: no parquet file of the config '{config}'; there is {there}. {by_hand}")
        for name, path in zip(_names(config, len(paths)), paths, strict=True):
            lfs = siblings[path].lfs
            files.append(ListedFile(name, path, siblings[path].size or 0, lfs.sha256 if lfs else ""))
    return Listing(hub.repository, str(info.sha), tuple(sorted(files, key=lambda file: file.name)))


def _information(hub: HubDataset) -> Any:
    """What the hub says of the repository; raises InputError with the reason alone."""
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not there; install gemsbench with the extra [methods]") from error
    try:
        with online():
            api = HfApi(endpoint=_endpoint(), token=False)
            return api.dataset_info(hub.repository, revision=hub.revision, files_metadata=True, timeout=TIMEOUT_S)
    except Exception as error:  # of the hub's client or its transport: there is no common class
        status = getattr(getattr(error, "response", None), "status_code", None)
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(_REFUSALS.get(status or 0, f"cannot be asked ({text})")) from error


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB


def _patterns(card: Any, where: str) -> dict[str, list[str]]:
    """Path patterns of each config that the dataset's card names; one split per config is expected."""
    patterns: dict[str, list[str]] = {}
    for config in (card.get("configs") if card is not None else None) or ():
        entries = config.get("data_files") or []
        listed = [entries] if isinstance(entries, str) else list(entries)
        splits = {str(entry.get("split")) for entry in listed if isinstance(entry, dict)}
        if len(splits) > 1:
            raise InputError(
                f"{where}: the config '{config.get('config_name')}' has the splits {', '.join(sorted(splits))}; one is "
                "expected. The dataset was laid out anew: name an earlier commit as revision in data/sources.py."
            )
        for entry in listed:
            path = entry.get("path", []) if isinstance(entry, dict) else entry
            patterns.setdefault(str(config.get("config_name")), []).extend([path] if isinstance(path, str) else path)
    return patterns


def _paths(config: str, paths: Sequence[str], patterns: dict[str, list[str]]) -> list[str]:
    """The parquet files of a config: of the card's patterns, else below a folder of its name or called after it."""
    parquet = [path for path in paths if path.endswith(".parquet")]
    if config in patterns:
        chosen = [_glob(pattern) for pattern in patterns[config]]
        return [path for path in parquet if any(pattern.fullmatch(path) for pattern in chosen)]
    return [
        path
        for path in parquet
        if config in PurePosixPath(path).parts[:-1] or _of_config(config, [PurePosixPath(path).name])
    ]


def _glob(pattern: str) -> re.Pattern[str]:
    """The pattern of paths as a regular expression: ** over folders, * and ? within a name."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    return re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces))


@contextmanager
def online() -> Iterator[None]:
    """Within the block huggingface_hub may use the network; it read HF_HUB_OFFLINE when it was imported."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

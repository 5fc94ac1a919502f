"""The .dvc files beside the raw data: hash and size in git, pulled from a remote when there is one, kept clean."""

from __future__ import annotations

import configparser
import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gemsbench.errors import InputError
from gemsbench.files import write_text


@dataclass(frozen=True)
class Pin:
    """What a .dvc file says of its raw file."""

    md5: str = ""  # "" until the first download, where nobody has published a hash
    size: int = 0  # bytes; 0 unknown


def pin_of(path: Path) -> Path:
    """The .dvc file of a raw file."""
    return path.with_name(path.name + ".dvc")


def read_pin(path: Path) -> Pin | None:
    """What the .dvc file of a raw file says; None when there is none. Raises InputError when it is no .dvc file."""
    pin = pin_of(path)
    if not pin.is_file():
        return None
    try:
        out = yaml.safe_load(pin.read_text(encoding="utf-8"))["outs"][0]
        return Pin(str(out.get("md5", "")), int(out.get("size", 0)))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise InputError(f"{pin}: not a .dvc file ({error!r}). Restore it with `git checkout -- {pin}`.") from error


def write_pin(path: Path, pin: Pin, url: str = "") -> None:
    """Write the .dvc file of a raw file and make git ignore the file itself.

    With url it is what `dvc import-url --no-download` writes, frozen, so that no command asks the address unless told
    to; without, what `dvc add` writes. md5 and size are left out while they are unknown.
    """
    size = {"size": pin.size} if pin.size else {}
    out = {**({"md5": pin.md5, **size} if pin.md5 else {}), "hash": "md5", "path": path.name}
    content: dict[str, Any] = {"outs": [out]}
    if url:
        content = {"frozen": True, "deps": [{**size, "hash": "md5", "path": url}], **content}
        content = {"md5": _checksum(content), **content}
    write_text(pin_of(path), yaml.safe_dump(content, sort_keys=False))
    ignored = path.with_name(".gitignore")
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.is_file() else []
    if f"/{path.name}" not in lines and f"/*{path.suffix}" not in lines:
        write_text(ignored, "\n".join([*lines, f"/{path.name}"]) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    """The checksum of an import, over all but sizes, as dvc computes it; with another one `dvc status` is not clean."""
    entries = {
        section: [{key: value for key, value in entry.items() if key != "size"} for entry in content[section]]
        for section in ("deps", "outs")
    }
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def has_remote(root: Path) -> bool:
    """True when the repository's DVC configuration names a remote."""
    config = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    except configparser.Error as error:
        raise InputError(f"{root / '.dvc'}: the DVC configuration cannot be read ({error}).") from error
    return any("remote " in section for section in config.sections())


def pull(root: Path, paths: Sequence[Path]) -> str:
    """Bring raw files from DVC's cache, or from a remote when there is one; "" when all came, else why not.

    Files without a pinned hash are left alone: DVC would take them from their address, without a check.
    """
    pinned = [path for path in paths if (pin := read_pin(path)) and pin.md5]
    cached = [path for path in pinned if _cached(root, path)]
    problem = _dvc(root, "checkout", [pin_of(path) for path in cached]) if cached else ""
    rest = [path for path in pinned if path not in cached]
    if rest and has_remote(root):
        problem = _dvc(root, "pull", [pin_of(path) for path in rest]) or problem
    return problem


def commit(root: Path, paths: Sequence[Path]) -> str:
    """Put raw files that came from elsewhere into DVC's cache, so that `dvc status` is clean; "" or what went wrong.

    paths: of files whose content is the pinned one; files without a .dvc file are left alone.
    """
    if not (root / ".dvc").is_dir() or importlib.util.find_spec("dvc") is None:
        return ""
    pinned = [path for path in paths if pin_of(path).is_file() and not _cached(root, path)]
    if not pinned:
        return ""
    # Not the command `dvc commit`: of an import it asks the address again, and fails without a connection.
    repository: Any = importlib.import_module("dvc.repo")
    failed: Any = importlib.import_module("dvc.exceptions").DvcException
    try:
        with repository.Repo(str(root)) as repo, repository.lock_repo(repo):
            for path in pinned:
                repo.stage.load_one(str(pin_of(path))).commit(relink=False)
    except (failed, OSError) as error:
        return str(error)
    return ""


def _cached(root: Path, path: Path) -> bool:
    pin = read_pin(path)
    digest = pin.md5 if pin else ""
    return bool(digest) and (root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).is_file()


def _dvc(root: Path, verb: str, arguments: Sequence[Path | str]) -> str:
    if importlib.util.find_spec("dvc") is None:
        return "dvc is not installed"
    words = [str(a.relative_to(root)) if isinstance(a, Path) else a for a in arguments]
    command = [sys.executable, "-m", "dvc", verb, *words]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return errors[0] if errors else f"dvc {verb} ended with code {result.returncode}"

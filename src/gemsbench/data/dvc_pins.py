"""The .dvc files beside the raw data: pulled from a remote when there is one, kept clean after any other source."""

from __future__ import annotations

import configparser
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gemsbench.errors import InputError


def pin_of(path: Path) -> Path:
    """The .dvc file of a raw file."""
    return path.with_name(path.name + ".dvc")


def has_remote(root: Path) -> bool:
    """True when the repository's DVC configuration names a remote."""
    config = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    except configparser.Error as error:
        raise InputError(f"{root / '.dvc'}: the DVC configuration cannot be read ({error}).") from error
    return any("remote " in section for section in config.sections())


def pull(root: Path, paths: Sequence[Path]) -> str:
    """Pull raw files through their .dvc files; "" when all came, else why not (some may be there)."""
    return _dvc(root, "pull", [pin_of(path) for path in paths])


def commit(root: Path, paths: Sequence[Path]) -> str:
    """Put raw files that came from elsewhere into DVC's cache, so that `dvc status` is clean; "" or what went wrong."""
    if not (root / ".dvc").is_dir() or importlib.util.find_spec("dvc") is None:
        return ""
    pins = [pin_of(path) for path in paths if pin_of(path).is_file() and not _cached(root, pin_of(path))]
    return _dvc(root, "commit", ["--force", *pins]) if pins else ""


def _cached(root: Path, pin: Path) -> bool:
    digest = pin.read_text(encoding="utf-8").partition("md5: ")[2][:32]
    return (root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).is_file()


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

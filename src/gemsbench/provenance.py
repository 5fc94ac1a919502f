"""Where a result comes from: what went in (its identity), and how, when and on what machine it was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file, sha256_json, write_json

FILE_NAME = "provenance.json"


@dataclass(frozen=True)
class Identity:
    """All that decides a result. Two runs of equal identity give the same result on the same kind of machine."""

    rule: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # name -> sha256 of the file's bytes, "md5:..." where only that was published
    code: str  # sha256 over the source files that run

    @property
    def run_id(self) -> str:
        """sha256 over the canonical JSON of the identity."""
        return sha256_json(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        return {
            "rule": self.rule,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "code": self.code,
        }


class Recordable(Protocol):
    """A job as far as its provenance is concerned."""

    @property
    def rule(self) -> str:
        """Kind of job."""

    @property
    def name(self) -> str:
        """Which one of its kind."""

    @property
    def folder(self) -> Path:
        """Folder of its outputs."""

    @property
    def inputs(self) -> Mapping[str, Path]:
        """Files that it reads."""

    @property
    def outputs(self) -> Mapping[str, Path]:
        """Files below folder that are hashed."""

    @property
    def seeds(self) -> Mapping[str, int]:
        """Seeds among its settings."""

    @property
    def provenance(self) -> str:
        """File name of the record; "" when none is kept (files pinned by hash)."""

    def identity(self) -> Identity | None:
        """What goes in, None while an input is missing."""


@contextmanager
def recording(folder: Path, job: Recordable, config: Path | None = None) -> Iterator[dict[str, Any]]:
    """Time the block and write the provenance of the job's outputs into folder once it has succeeded.

    folder stands for job.folder. Whatever the block puts into the yielded dict (JSON values) is written under "notes",
    except "threads", the number that the job computes with (None: that of the process). config: the job's profile.
    Nothing is written when the block raises, or for a job without a provenance file. Raises InputError when an input
    is missing.
    """
    notes: dict[str, Any] = {}
    if not job.provenance:
        yield notes
        return
    identity = job.identity()
    if identity is None:
        absent = next((path for path in job.inputs.values() if not path.is_file()), Path())
        command = f"snakemake --cores all --configfile {config or 'PROFILE.yaml'} -- {absent}"
        raise InputError(
            f"{absent}: missing, and {job.rule} reads it. Correct the path; if the workflow makes it, run `{command}` "
            "first (`gemsbench plan` lists the jobs)."
        )
    (folder / job.provenance).unlink(missing_ok=True)
    outputs = {name: folder / path.relative_to(job.folder) for name, path in job.outputs.items()}
    started, clock = datetime.now(UTC), time.perf_counter()
    yield notes
    record = {
        "run_id": identity.run_id,
        "identity": identity.as_json(),
        "outputs": {name: sha256_file(output) for name, output in outputs.items()},
        "seeds": dict(job.seeds),
        "device": _device(),
        "threads": notes.pop("threads", None) or _threads(),
        "machine": _machine(),
        "python": platform.python_version(),
        "packages": _packages(),
        "code": _commit(),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - clock, 3),
        "peak_memory_mib": _peak_memory_mib(),
        "notes": notes,
    }
    write_json(folder / job.provenance, record)


def read_record(path: Path) -> dict[str, Any] | None:
    """The provenance in a file, None when there is no readable one."""
    try:
        record = read_json(path)
    except InputError:
        return None
    return record if isinstance(record, dict) else None


def declared_threads(settings: Any) -> int | None:
    """The number in the field `threads` of a settings dataclass or of one inside it; None where there is none."""
    if not is_dataclass(settings):
        return None
    values = [getattr(settings, field.name) for field in fields(settings)]
    own = getattr(settings, "threads", None)
    return own if isinstance(own, int) else next(filter(None, map(declared_threads, values)), None)


def _threads() -> int:
    """Of torch where it is loaded; a job that sets its own number has set it back by now."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    declared = os.environ.get("OMP_NUM_THREADS", "")
    return int(declared) if declared.isdigit() else len(os.sched_getaffinity(0))


def _device() -> str:
    """The GPU's name when this process has put tensors on one, else cpu."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not torch.cuda.max_memory_allocated():
        return "cpu"
    return str(torch.cuda.get_device_name())


def _machine() -> dict[str, Any]:
    return {"system": platform.system(), "type": platform.machine(), "cpu": _cpu_name(), "cores": os.cpu_count()}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _packages() -> dict[str, str]:
    """Versions of the distributions whose modules this process has loaded."""
    loaded = {name.partition(".")[0] for name in tuple(sys.modules)} - sys.stdlib_module_names
    versions = {}
    for name in sorted(name for name in loaded if not name.startswith("_")):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a module of another distribution's name, or not installed
    return versions


def _commit() -> dict[str, Any]:
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None  # not a checkout, or no git
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", ".")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _peak_memory_mib() -> float:
    """Largest resident size of this process or one of its finished children, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB on Linux
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(peak / unit, 1)

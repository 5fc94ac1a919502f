"""What a job is: what it reads, writes and runs, and what decides its result."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemsbench import provenance
from gemsbench.data.raw_content import digests
from gemsbench.provenance import Identity
from gemsbench.source_code import source_files, source_sha256

RULES = (
    *("fetch", "prepare", "backbone", "basis", "encoder", "identifiers"),
    *("train", "evaluate", "tables", "figures"),
)
ON_DEMAND = ("fetch", "backbone", "basis")  # rules whose outputs may be missing while nothing that reads them runs
LOCK = Path("envs/requirements.lock")
TORCH = Path("envs/torch.txt")  # the one package that the lock leaves out
MD5 = "md5:"  # before the hash in a pin of which no sha256 is known


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    name: the wildcards of its rule, joined by "/". inputs: name -> path; outputs: name -> path, all below folder.
    unversioned: outputs that are neither hashed nor kept by DVC (models). provenance: file name in folder, "" for
    downloads, whose hash is mostly known beforehand (pins: file name -> sha256, or MD5 and the md5, of a file that need
    not be there). noted: files in folder that the outputs stand for without naming them -> bytes, 0 where unknown.
    """

    rule: str
    name: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    unversioned: Mapping[str, Path] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    provenance: str = provenance.FILE_NAME
    pins: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    replaceable: tuple[str, ...] = ()  # inputs that are made again from code and settings which this job has too
    makers: tuple[Job, ...] = ()  # the jobs that make replaceable inputs, where their records outlive these

    @property
    def raw_folder(self) -> Path:
        """Folder of the raw files that a prepare, backbone or basis job reads: that of its first input."""
        return next(iter(self.inputs.values())).parent

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds among the settings."""
        return {name: value for name, value in self.settings.items() if name in ("seed", "data_seed")}

    @property
    def provenance_path(self) -> Path | None:
        """Where the provenance of this job's outputs lies; None for downloads."""
        return self.folder / self.provenance if self.provenance else None

    @property
    def all_outputs(self) -> tuple[Path, ...]:
        """Every path that the rule declares, provenance and models included."""
        own = (self.provenance_path,) if self.provenance_path else ()
        return (*self.outputs.values(), *self.unversioned.values(), *own)

    def source_files(self) -> tuple[Path, ...]:
        """The source files whose edits concern this job."""
        return _source_files(self.code)

    def identity(self, known: Mapping[str, str] | None = None) -> Identity | None:
        """What decides the result, from present settings, input files and code; None while an input is missing.

        known: hashes to use for missing files that are replaceable: equal code and settings make the same ones again.
        """
        inputs: dict[str, str] = {}
        for name, path in self.inputs.items():
            if path.is_file():
                inputs[name] = content_name(path, self.pins.get(name, ""))
            elif name in self.pins:
                inputs[name] = self.pins[name]
            elif name in self.replaceable and known and name in known:
                inputs[name] = known[name]
            else:
                return None
        return Identity(self.rule, self.settings, inputs, _source_sha256(self.code))


def content_hash(path: Path, algorithm: str = "sha256") -> str:
    """Digest of a file's bytes; read once while the file stays as it is (backbones are inputs of many jobs)."""
    status = path.stat()
    return _content_hash(path.absolute(), algorithm, status.st_ino, status.st_mtime_ns, status.st_size)


def content_name(path: Path, pin: str = "") -> str:
    """What a file's content is called: as the pin calls it where it is the pinned one, else by its sha256.

    So a file that is there has the name that it has by its pin alone, whichever algorithm the pin is of.
    """
    if pin.startswith(MD5) and content_hash(path, "md5") == pin.removeprefix(MD5):
        return pin
    return content_hash(path)


@functools.lru_cache(maxsize=4096)
def _content_hash(path: Path, algorithm: str, _inode: int, _mtime: int, _size: int) -> str:
    return digests(path, (algorithm,))[algorithm]


# Many jobs run the same source, and no process of ours judges jobs before and after an edit.
@functools.cache
def _source_files(code: tuple[str, ...]) -> tuple[Path, ...]:
    return source_files(*code)


@functools.cache
def _source_sha256(code: tuple[str, ...]) -> str:
    return source_sha256(*code)

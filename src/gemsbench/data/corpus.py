"""What a corpus is: plain-text documents, on which stand-ins are pre-trained and knowledge bases collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemsbench.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """Where the documents come from; the fields shared with Recipe mean the same, and `fetch` serves both."""

    name: str
    title: str  # as printed in captions
    settings: type  # frozen dataclass with defaults
    load: Callable[[Path, Any], list[str]]  # (folder of raw files, settings) -> documents; lines end paragraphs
    licence: str
    citation: str
    sources: tuple[str, ...] = ()  # of SOURCES in data/sources.py, the raw files; empty for simulated text
    simulate: Callable[[Path, Any, int], None] | None = None  # (folder, settings, seed): writes the raw files
    simulated_files: tuple[str, ...] = ()  # what `simulate` writes, below data/simulated/<corpus>/
    sample: Callable[[Path, Any, int], None] | None = None  # (folder, settings, seed): downloads and writes a part
    sampled_files: tuple[str, ...] = ()  # what `sample` writes, below data/sampled/<corpus>/

    def __post_init__(self) -> None:
        """Raise ValueError unless the text is pinned, simulated or sampled."""
        if [bool(self.sources), self.simulate is not None, self.sample is not None].count(True) != 1:
            raise ValueError(f"corpus '{self.name}': give one of sources, simulate and sample.")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; raises InputError when it is missing, not UTF-8, or nothing but white space."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Run the step that fetches it (gemsbench plan lists them).") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}). Delete the file and fetch it again."
        ) from error
    if not text.strip():
        raise InputError(f"{path}: no text in it. Delete the file and fetch it again.")
    return text

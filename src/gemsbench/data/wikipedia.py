"""wikipedia: a seeded sample of English Wikipedia, streamed from the hub's wikimedia/wikipedia at a commit.

The edition 20231101.en has 11 GB in 41 files, and 10,000 articles are wanted: a seeded choice of the files is read, and
of these the articles with the smallest keyed hashes are kept, wherever they stand. The first articles would not do: a
dump lists articles by page number, so they are the oldest, and longer than most.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from gemsbench.data.corpus import Corpus
from gemsbench.data.hub_listing import online
from gemsbench.errors import InputError
from gemsbench.files import read_table, remove, sha256_json, write_table
from gemsbench.seeds import hash64_many, mix64, stream, stream_seed

DOCUMENTS = "documents.parquet"
MIRROR = "GEMSBENCH_MIRROR"  # a folder of downloaded things; this one's files lie in wikipedia/<edition>
REPOSITORY = "wikimedia/wikipedia"
_COLUMNS = ("id", "text")
ATTEMPTS = 4  # to read a file, once anything has come
BACKOFF_S = 5.0  # doubled after each failed attempt
_ROWS_AT_A_TIME = 2000
_BLANK_LINES = re.compile(r"\n\s*\n+")


@dataclass(frozen=True)
class WikipediaSettings:
    """What is read, and how much of it is kept. Raises InputError for values out of range."""

    revision: str = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"  # a commit of the dataset repository
    edition: str = "20231101.en"
    files: int = 41  # that the edition has
    read_files: int = 8  # of them, a seeded choice; each is about 280 MB
    documents: int = 10_000
    min_characters: int = 50

    def __post_init__(self) -> None:
        for name in ("files", "read_files", "documents", "min_characters"):
            if getattr(self, name) < 1:
                raise InputError(f"wikipedia: {name} is {getattr(self, name)}; it must be at least 1.")
        if self.read_files > self.files:
            raise InputError(f"wikipedia: read_files is {self.read_files}, and there are {self.files} files.")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise InputError(
                f"wikipedia: revision '{self.revision}' is no commit: 40 hexadecimal digits. Tags may move."
            )
        if not re.fullmatch(r"\d{8}\.[a-z-]+", self.edition):
            raise InputError(f"wikipedia: edition '{self.edition}' is none. Write it as date.language, 20231101.en.")


def sample(folder: Path, settings: WikipediaSettings, seed: int) -> None:
    """Write DOCUMENTS (id, text: str; sorted by id) into folder; a function of settings and seed.

    Read from $GEMSBENCH_MIRROR/wikipedia/<edition> when that folder exists, else from the hub, whatever HF_HUB_OFFLINE
    says: this is the job that downloads. A file whose stream breaks is read again; what came of the files before it
    waits in wikipedia.checkpoint beside folder, also for the next call. Raises InputError without a connection or
    `datasets`, for a missing file, and when the files hold fewer documents than asked for.
    """
    sources = _sources(settings, seed)
    waiting = folder.parent / "wikipedia.checkpoint"
    parts, reached = [], False
    for number, source in enumerate(sources):
        part = waiting / f"{sha256_json([source, seed, settings.documents, settings.min_characters])}.parquet"
        if not part.is_file():
            write_table(part, _of_file(sources, number, settings, seed, reached=reached))
            reached = True
        parts.append(read_table(part))
    rows = pl.concat(parts).bottom_k(settings.documents, by="key").drop("key")
    if rows.height < settings.documents:
        remove(waiting)
        raise InputError(
            f"wikipedia: {rows.height} documents of {settings.min_characters} characters or more in "
            f"{settings.read_files} files, {settings.documents} asked for. Raise read_files, or lower documents."
        )
    write_table(folder / DOCUMENTS, rows.sort("id"))
    remove(waiting)


def load(folder: Path, settings: WikipediaSettings) -> list[str]:
    """The documents; a line is a paragraph. Raises InputError."""
    texts = read_table(folder / DOCUMENTS, ["text"])["text"].to_list()
    return [_BLANK_LINES.sub("\n", text).strip() for text in texts]


def chosen_files(settings: WikipediaSettings, seed: int) -> list[str]:
    """Names of the files that are read, in their order."""
    chosen = stream(seed, "wikipedia", "files").permutation(settings.files)[: settings.read_files]
    return [f"train-{number:05d}-of-{settings.files:05d}.parquet" for number in sorted(chosen.tolist())]


def _sources(settings: WikipediaSettings, seed: int) -> list[str]:
    names = chosen_files(settings, seed)
    mirror = Path(os.environ.get(MIRROR, "")) / "wikipedia" / settings.edition
    if not os.environ.get(MIRROR) or not mirror.is_dir():
        return [f"hf://datasets/{REPOSITORY}@{settings.revision}/{settings.edition}/{name}" for name in names]
    absent = next((mirror / name for name in names if not (mirror / name).is_file()), None)
    if absent is not None:
        raise InputError(f"{absent}: no such file, but {MIRROR} names this folder. Copy it there, or unset {MIRROR}.")
    return [str(mirror / name) for name in names]


def _of_file(
    sources: Sequence[str], number: int, settings: WikipediaSettings, seed: int, *, reached: bool
) -> pl.DataFrame:
    """The wanted rows of one of the files, with their keys.

    A file whose stream breaks is read again, ATTEMPTS times in all. Where nothing has come in this run (reached: from
    an earlier file) there is no connection, and the first failure is final. Raises InputError.
    """
    failed = 0
    while True:

        def noticed(batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
            nonlocal reached
            for batch in batches:
                reached = True
                yield batch

        try:
            return _smallest(noticed(_streamed(sources[number])), settings, seed)
        except _BrokenError as error:
            failed += 1
            if failed == ATTEMPTS or not reached:
                raise _unreadable(sources, number, error) from error
        time.sleep(BACKOFF_S * 2 ** (failed - 1))


class _BrokenError(Exception):
    """A file cannot be read, or not to its end."""


def _unreadable(sources: Sequence[str], number: int, error: Exception) -> InputError:
    more = f" and {len(sources) - number - 1} more" if number < len(sources) - 1 else ""
    return InputError(
        f"{sources[number]}{more}: cannot be read ({error}). Run the same command on a "
        f"machine with a connection, or set {MIRROR} to a folder that holds wikipedia/<edition>/ with "
        f"{', '.join(Path(source).name for source in sources)}."
    )


def _streamed(source: str) -> Iterator[pl.DataFrame]:
    """The columns of a file, some thousand rows at a time; raises _BrokenError when it cannot be read on."""
    try:
        datasets: Any = importlib.import_module("datasets")  # of the extra [methods]
    except ModuleNotFoundError as error:
        raise InputError(
            "wikipedia: the package `datasets` is not there. Install gemsbench with the extra [methods]."
        ) from error
    with TemporaryDirectory() as cache, online(), _datasets_online(datasets):
        try:
            rows = datasets.load_dataset(
                "parquet", data_files=[source], split="train", streaming=True, columns=list(_COLUMNS), cache_dir=cache
            )
            for batch in rows.iter(batch_size=_ROWS_AT_A_TIME):
                yield pl.DataFrame({name: batch[name] for name in _COLUMNS}, schema=dict.fromkeys(_COLUMNS, pl.String))
        except Exception as error:  # of the hub's client, its transport, fsspec or pyarrow: there is no common class
            raise _BrokenError((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _smallest(batches: Iterator[pl.DataFrame], settings: WikipediaSettings, seed: int) -> pl.DataFrame:
    """The rows with the smallest keyed hashes of their ids (column key), as many as asked for, or all there are."""
    key = stream_seed(seed, "wikipedia", "documents")
    kept = pl.DataFrame(schema={**dict.fromkeys(_COLUMNS, pl.String), "key": pl.UInt64})
    for batch in batches:
        long_enough = batch.filter(pl.col("text").str.len_chars() >= settings.min_characters)
        keys = mix64(hash64_many(long_enough["id"].to_list()), key)
        bound = kept["key"].max() if kept.height >= settings.documents else None
        coming = long_enough.with_columns(pl.Series("key", keys, dtype=pl.UInt64))
        if isinstance(bound, int):
            coming = coming.filter(pl.col("key") < pl.lit(bound, pl.UInt64))
        if coming.height:
            kept = pl.concat([kept, coming]).bottom_k(settings.documents, by="key")
    return kept


@contextmanager
def _datasets_online(datasets: Any) -> Iterator[None]:
    """Within the block `datasets`, which has a switch of its own, may use the network too, and draws no bars."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = False
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        if bars:
            datasets.enable_progress_bars()


CORPUS = Corpus(
    name="wikipedia",
    title="English Wikipedia of 1 November 2023, a sample",
    settings=WikipediaSettings,
    load=load,
    licence="CC BY-SA 3.0 and GFDL (Wikipedia contributors)",
    citation="Wikimedia Foundation, Wikimedia Downloads, dumps.wikimedia.org; hub dataset wikimedia/wikipedia",
    sample=sample,
    sampled_files=(DOCUMENTS,),
)

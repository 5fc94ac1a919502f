"""What a source is: raw files of one publisher, where they can be had, and how they are known to be right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RawFile:
    """One raw file, stored as data/raw/<source>/<name>.

    The content is known by sha256, by md5, or both. Where nobody has published either ("" both), the md5 of the first
    download is recorded in the .dvc file beside it, and everything later is held against that.
    """

    name: str
    sha256: str  # of the file as stored (decompressed member where the source is an archive)
    size: int  # bytes; 0 where nobody has published it
    url: str  # public download
    member: str = ""  # path inside the archive behind url; "" when url is the file itself
    mirror: str = ""  # path below GEMSBENCH_MIRROR; a trailing .gz is decompressed unless name has it too
    md5: str = ""
    further: tuple[str, ...] = ()  # other addresses of the same bytes, tried in order

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the bytes can be had, in the order in which they are tried."""
        return (self.url, *self.further)

    @property
    def unpacked(self) -> bool:
        """True when the stored file is the content of an archive or of a gzip file, not that file itself."""
        return bool(self.member) or (self.mirror.endswith(".gz") and not self.name.endswith(".gz"))


@dataclass(frozen=True)
class HubDataset:
    """Parquet files of a dataset repository of the Hugging Face hub, whose names and hashes the hub itself lists.

    The first fetch writes the listing (commit, path, size, sha256 of every file) to data/raw/<source>/files.json; with
    that file present, exactly these files are fetched.
    """

    repository: str
    configs: tuple[str, ...]  # read as <config>.parquet or its shards <config>-00000-of-00005.parquet
    revision: str = "main"  # a commit where one is known


@dataclass(frozen=True)
class Source:
    """Where raw files come from; several recipes may read one source."""

    name: str  # folder below data/raw
    title: str
    homepage: str
    licence: str
    citation: str
    files: tuple[RawFile, ...] = ()
    hub: HubDataset | None = None

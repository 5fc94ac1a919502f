"""Outputs appear whole or not at all; content hashes see content only."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.files import (
    atomic_path,
    canonical_json,
    read_header,
    read_json,
    read_table,
    sha256_file,
    table_sha256,
    write_json,
    write_table,
    write_text,
)

TABLE = pl.DataFrame(
    {
        "number": pl.Series([1, None, 3], dtype=pl.Int32),
        "text": ["a", "é", None],
        "list": [[1, 2], [], None],
        "nested": [[["a"], []], [], [["b", "c"]]],
        "label": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
    }
)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_block_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert entries(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_path(tmp_path / "out") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert entries(tmp_path) == ["out"]
    assert entries(tmp_path / "out") == ["new"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, code: int) -> None:
    with pytest.raises(InputError, match="disk is full"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(code, "full")
    assert entries(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_under_a_parquet_writer_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="disk is full"), atomic_path(tmp_path / "t.parquet"):
        TABLE.write_parquet("/dev/full")
    assert entries(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from gemsbench.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as t:\n    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert len(entries(tmp_path)) == 1
    with atomic_path(tmp_path / "a.txt") as first, atomic_path(tmp_path / "a.txt") as second:
        first.write_text("x")
        second.write_text("x")
    assert entries(tmp_path) == ["a.txt"]


def test_other_os_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a"):
        raise PermissionError


def test_tables_and_headers_come_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", TABLE, {"method": "m"})
    assert read_table(tmp_path / "t.parquet").equals(TABLE)
    assert read_header(tmp_path / "t.parquet") == {"method": "m"}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, TABLE)
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_the_content_hash_survives_storage_and_sees_every_change(tmp_path: Path) -> None:
    original = table_sha256(TABLE)
    write_table(tmp_path / "t.parquet", TABLE)
    assert table_sha256(read_table(tmp_path / "t.parquet")) == original
    assert table_sha256(pl.concat([TABLE[:1], TABLE[1:]], rechunk=False)) == original
    changes = [
        TABLE.rename({"number": "n"}),
        TABLE.reverse(),
        TABLE.with_columns(pl.col("number").fill_null(0)),
        TABLE.with_columns(pl.col("text").fill_null("")),
        TABLE.with_columns(pl.Series("text", ["aé", "", None])),
        TABLE.with_columns(pl.Series("list", [[1], [2], None])),
        TABLE.with_columns(pl.Series("list", [[1, 2], [], []])),
        TABLE.with_columns(pl.Series("nested", [[["a", "b"], []], [], [["c"]]])),
        TABLE.with_columns(pl.col("number").cast(pl.Int64)),
    ]
    hashes = {table_sha256(changed) for changed in changes}
    assert original not in hashes
    assert len(hashes) == len(changes)


@pytest.mark.parametrize("content", [b"", b"PAR1 cut short", b"<html><body>404</body></html>"])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    for read in (read_table, read_header):
        with pytest.raises(InputError, match=r"t\.parquet: not a readable parquet file"):
            read(tmp_path / "t.parquet")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_table, read_header, read_json):
        with pytest.raises(InputError, match="absent: no such file"):
            read(tmp_path / "absent")


def test_json_is_canonical_and_checked(tmp_path: Path) -> None:
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})
    write_json(tmp_path / "a.json", {"b": 1})
    assert read_json(tmp_path / "a.json") == {"b": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "a.json")

"""journey-small: hand-written rows, and the pinned counts of the real files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pyreadr
import pytest

from gemsbench.data.canonical import canonical_tables
from gemsbench.data.fetch import fetch
from gemsbench.data.journey import K_CORE, RECIPE, JourneySettings, load
from gemsbench.errors import InputError


class FakeFiles:
    """Stands in for pyreadr.read_r: R data cannot be written with several tables of these types."""

    def __init__(self, **tables: pl.DataFrame) -> None:
        self.tables = tables

    def __call__(self, path: Path, output_format: str) -> dict[str, pl.DataFrame]:
        assert output_format == "polars"
        return {Path(path).stem: self.tables[Path(path).stem]}


def transactions() -> pl.DataFrame:
    rows = [(f"h{h}", f"b{h}", f"p{p}", datetime(2017, 1, 1 + p, 8)) for h in range(K_CORE) for p in range(K_CORE)]
    rows += [("h0", "b9", "p0", datetime(2016, 12, 31, 8)), ("h0", "b8", "p0", datetime(2016, 12, 31, 8))]
    rows += [("h0", "b0", "rare", datetime(2017, 1, 1, 8))]
    columns = ["household_id", "basket_id", "product_id", "transaction_timestamp"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def products() -> pl.DataFrame:
    rows = [
        ("p0", "GROCERY", "Private", "EGGS", "EGGS - X-LARGE", "1 DZ"),
        ("p1", "DRUG GM", "National", "BABY HBC", "BABY POWDERS", None),
        ("p2", "MISC", None, None, None, None),
        ("p3", None, None, None, None, None),
    ]
    columns = ["product_id", "department", "brand", "product_category", "product_type", "package_size"]
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("products", "transactions_sample"):
        (tmp_path / f"{name}.rda").touch()
    monkeypatch.setattr(pyreadr, "read_r", FakeFiles(products=products(), transactions_sample=transactions()))
    return tmp_path


def test_hand_written_rows(folder: Path) -> None:
    log = load(folder, JourneySettings())
    assert log.counts["5-core purchases"] == 25 and log.counts["first purchases"] == 26
    items = {row["raw_id"]: row for row in log.items.iter_rows(named=True)}
    assert {key: row["text"] for key, row in items.items()} == {
        "p0": "EGGS - X-LARGE 1 DZ Private",
        "p1": "BABY POWDERS National",
        "p2": "unknown product",
        "p3": "unknown product",
        "p4": "unknown product",
    }
    # Department and category make the query and stay out of the text.
    assert {key: row["queries"] for key, row in items.items()} == {
        "p0": ["grocery eggs"],
        "p1": ["drug gm baby hbc"],
        "p2": [],
        "p3": [],
        "p4": [],
    }
    assert items["p2"]["category_paths"] == [["MISC"]] and items["p3"]["category_paths"] == []
    first = log.events.filter((pl.col("user") == "h0") & (pl.col("item") == "p0"))
    assert first.select("timestamp", "group").rows() == [(1_483_171_200, "b8")]


def test_a_missing_column_or_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeFiles(products=products().drop("brand"), transactions_sample=transactions())
    monkeypatch.setattr(pyreadr, "read_r", fake)
    with pytest.raises(InputError, match=r"products\.rda: missing columns brand"):
        load(folder, JourneySettings())
    (folder / "transactions_sample.rda").unlink()
    with pytest.raises(InputError, match=r"transactions_sample\.rda: no such file"):
        load(folder, JourneySettings())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "transactions_sample.rda").write_bytes(b"RDX3 and then nothing")
    with pytest.raises(InputError, match="not a readable R data file"):
        load(tmp_path, JourneySettings())


def test_real_files_give_the_pinned_counts(mirror: Path, tmp_path: Path) -> None:
    files = fetch(RECIPE, JourneySettings(), 1, tmp_path, quiet=True)
    tables = canonical_tables(load(files, JourneySettings()), RECIPE, 2026)
    assert (tables.users.height, tables.items.height) == (1_809, 3_299)
    rec = tables.interactions.filter(pl.col("task") == "rec")
    assert rec.height == 38_799
    assert round(rec.select(pl.struct("user_id", "timestamp").is_duplicated().mean()).item(), 3) == 0.447
    # No query's department or category is in a text as such: the text is type, size, brand.
    assert tables.items.filter(pl.col("text").str.starts_with("GROCERY")).is_empty()

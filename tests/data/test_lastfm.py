"""lastfm-small: hand-written files, and the pinned counts of the real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from gemsbench.data.canonical import canonical_tables
from gemsbench.data.fetch import fetch
from gemsbench.data.lastfm import MIN_ITEM_EVENTS, MIN_USER_EVENTS, RECIPE, LastFMSettings, load
from gemsbench.errors import InputError

MAY_2008 = 1_209_600_000  # 2008-05-01T00:00:00Z


def write(folder: Path) -> Path:
    """Users 1..3 hear and tag artists 1..3; user 4 tags too little; one hears artist 4; one date is impossible."""
    heard = [(u, a) for u in (1, 2, 3) for a in (1, 2, 3)] + [(1, 4), *((4, a) for a in (1, 2, 3))]
    tagged = [(u, a, t, 17, 5, 2008) for u in (1, 2, 3) for a in (1, 2, 3) for t in (7, 8)]
    tagged += [(4, 1, 7, 1, 5, 2008), (4, 2, 7, 1, 5, 2008), (4, 3, 7, 1, 1, 1956), (1, 99, 7, 1, 5, 2008)]
    lines = {
        "artists.dat": ["id\tname\turl\tpictureURL", *(f'{a}\t"Artist" {a}\tu\t' for a in (1, 2, 3, 4))],
        "tags.dat": ["tagID\ttagValue", "7\thip hop", "8\t90's"],
        "user_artists.dat": ["userID\tartistID\tweight", *(f"{u}\t{a}\t5" for u, a in heard)],
        "user_taggedartists.dat": [
            "userID\tartistID\ttagID\tday\tmonth\tyear",
            *("\t".join(map(str, row)) for row in tagged),
        ],
    }
    for name, rows in lines.items():
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_hand_written_files(tmp_path: Path) -> None:
    log = load(write(tmp_path), LastFMSettings())
    assert log.counts["users"] == 3 and log.counts["items"] == 3
    assert log.counts["listened (user, artist) kept"] == log.counts["tagged (user, artist) kept"] == 9
    assert log.counts["dated assignments of known artists"] == 20
    assert sorted(log.items["title"]) == ['"Artist" 1', '"Artist" 2', '"Artist" 3']
    searches = log.events.filter(pl.col("task") == "src")
    assert searches.height == 18 and set(searches["query"]) == {"hip hop", "90's"}
    assert set(searches["timestamp"]) == {MAY_2008}
    assert log.events.filter(pl.col("task") == "rec")["timestamp"].null_count() == 9


def test_one_tag_per_pair_and_listening_in_between(tmp_path: Path) -> None:
    tables = canonical_tables(load(write(tmp_path), LastFMSettings()), replace(RECIPE, pins={}), 3)
    events = tables.interactions
    assert events.group_by("task").len().sort("task").rows() == [("rec", 9), ("src", 9)]
    # Listening to and tagging an artist share a pair.
    assert (events.group_by("user_id", "item_id").agg(pl.col("pair_id").n_unique())["pair_id"] == 1).all()
    heard = events.filter(pl.col("task") == "rec")
    assert heard["order_key"].is_between(MAY_2008 - 31 * 86_400, MAY_2008 + 31 * 86_400).all()
    assert heard.select("user_id", "order_key").is_unique().all()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "user_taggedartists.dat").write_text("userID\tartistID\ttagID\tday\tmonth\n1\t1\t7\t1\t5\n")
    with pytest.raises(InputError, match=r"user_taggedartists\.dat: missing columns year"):
        load(tmp_path, LastFMSettings())


def test_real_files_give_the_pinned_counts(mirror: Path, tmp_path: Path) -> None:
    folder = fetch(RECIPE, LastFMSettings(), 1, tmp_path, quiet=True)
    log = load(folder, LastFMSettings())
    tables = canonical_tables(log, RECIPE, 2026)
    assert (tables.users.height, tables.items.height) == (1_375, 5_400)
    assert tables.interactions.group_by("task").len().sort("task").rows() == [("rec", 58_652), ("src", 59_184)]
    per_user = tables.interactions.group_by("user_id", "task").len()["len"]
    assert per_user.min() >= MIN_USER_EVENTS
    assert tables.interactions.group_by("item_id").len()["len"].min() >= MIN_ITEM_EVENTS
    both = tables.interactions.filter(pl.col("task").n_unique().over("pair_id") == 2, pl.col("task") == "src").height
    assert both == 17_337  # heard and tagged by the same user
    assert log.skipped == ()

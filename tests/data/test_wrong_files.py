"""Files of Amazon that are no such thing in any line: refused after a second, not after every line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from gemsbench.data import amazon, amazon_2018
from gemsbench.data.amazon import AmazonSettings
from gemsbench.errors import InputError

ANY = AmazonSettings()
REVIEW = json.dumps({"reviewerID": "A1", "asin": "B001", "overall": 5.0, "unixReviewTime": 86_400})
WRONG = {
    "no JSON": "oops",
    "another format": json.dumps({"user_id": "A1", "parent_asin": "B001", "rating": 5.0, "timestamp": 1}),
}
SAID = r"X.*: 1,002 of 1,002 lines that were read are malformed, more than 0.1%: .*X.*:1: "


@pytest.fixture(autouse=True)
def _no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logs here are of one review."""
    monkeypatch.setattr(amazon, "K_CORE", 1)


def write(folder: Path, reviews: Iterable[str], products: Iterable[str]) -> Path:
    for name, rows in (("reviews_X_5.json.gz", reviews), ("meta_X.json.gz", products)):
        (folder / name).write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode()))
    return folder


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_wrong_file_of_reviews_ends_soon(tmp_path: Path, line: str) -> None:
    """In the middle of a chunk, once it is clear: what comes after costs nothing."""
    with pytest.raises(InputError, match=f"reviews_{SAID}"):
        amazon.load(write(tmp_path, [line] * 50_000, ["{'asin': 'B001'}"]), ANY)


def test_a_wrong_file_of_metadata_ends_soon(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"meta_{SAID}no asin"):
        amazon.load(write(tmp_path, [REVIEW], ["oops"] * 50_000), ANY)


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_wrong_file_of_metadata_of_2018_ends_soon(tmp_path: Path, line: str) -> None:
    folder = write(tmp_path, [REVIEW], [line] * 50_000)
    with pytest.raises(InputError, match=f"meta_{SAID}(not JSON|no JSON object)"):
        amazon_2018.load(folder, ANY)


def test_a_file_that_only_begins_badly_is_judged_as_a_whole(tmp_path: Path) -> None:
    log = amazon.load(write(tmp_path, ["oops"] * 400 + [REVIEW] * 399_600, ["{'asin': 'B001'}"]), ANY)
    assert (log.malformed, log.counts["review_lines"]) == (400, 400_000)


def test_files_that_are_not_there_are_to_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"found: none\. Get it: gemsbench data fetch {tmp_path.name}\."):
        amazon.load(tmp_path, ANY)

"""The loader of the 2018 release: the real Gift Cards files, hand-written oddities, and the recipe."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench.data import amazon, amazon_2018
from gemsbench.data.amazon import AmazonSettings
from gemsbench.data.amazon_2018 import category_path, load
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.errors import InputError

ANY = AmazonSettings()
SPAN = "</span></span></span>"


@pytest.fixture
def _no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most logs here are of one review."""
    monkeypatch.setattr(amazon, "K_CORE", 1)


def review(user: str = "A1", item: str = "B001", time: int = 1_529_193_600, **more: Any) -> str:
    record = {"overall": 5.0, "verified": True, "vote": "12", "style": {"Colour:": " red"}, "image": ["x"], **more}
    return json.dumps({**record, "reviewerID": user, "asin": item, "reviewText": "a\nb", "unixReviewTime": time})


def product(asin: str = "B001", **fields: Any) -> str:
    record = {"category": [], "description": [], "feature": [], "title": "", "brand": "", "details": {"ASIN: ": asin}}
    return json.dumps({**record, **fields, "asin": asin, "also_buy": [], "rank": []})


def write(folder: Path, reviews: Iterable[str], products: Iterable[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("X_5.json.gz", reviews), ("meta_X.json.gz", products)):
        (folder / name).write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode("utf-8", "surrogatepass")))
    return folder


def item(folder: Path, *products: str) -> dict[str, Any]:
    """Item B001 of a log with these metadata lines among sound ones of other products."""
    others = [product(f"C{number}") for number in range(1_500)]
    log = load(write(folder, [review()], [*others[:700], *products, *others[700:]]), ANY)
    return log.items.row(0, named=True)


def test_the_real_gift_cards(mirror: Path) -> None:
    """Without the seven repeats the published 5-core is none any more: 5 buyers and 1 card drop out."""
    log = load(mirror / "amazon-gift-cards-2018", ANY)
    assert log.malformed == 0
    assert log.counts == {
        "review_lines": 2_972,
        "malformed_review_lines": 0,
        "users_in_reviews": 458,
        "items_in_reviews": 148,
        "repeated_reviews": 7,
        "users": 453,
        "items": 147,
        "purchases": 2_941,
        "metadata_lines": 1_547,
        "malformed_metadata_lines": 0,
        "items_with_metadata": 147,
        "items_with_text": 147,
        "items_without_any_text": 0,
        "items_with_query": 145,
        "queries": 1,
    }
    assert set(map(str, log.items["category_paths"].to_list())) == {"[['Gift Cards', 'Gift Cards']]", "[]"}


@pytest.mark.usefixtures("_no_core")
def test_all_the_real_gift_cards(mirror: Path) -> None:
    log = load(mirror / "amazon-gift-cards-2018", ANY)
    assert (log.counts["users"], log.counts["items"], log.counts["purchases"]) == (458, 148, 2_965)
    assert (log.counts["items_with_metadata"], log.counts["items_with_query"]) == (148, 146)
    assert (log.items["title"] != "").all()


def test_page_fragments_leave_the_real_paths(mirror: Path) -> None:
    lines = gzip.decompress((mirror / "amazon-gift-cards-2018" / "meta_Gift_Cards.json.gz").read_bytes())
    table = pl.read_ndjson(lines, schema={"category": pl.List(pl.String)})
    assert (table.height, table.filter(pl.col("category").list.len() > 2).height) == (1_547, 516)
    cut = table.select(category_path(pl.col("category")))["category"]
    assert cut.list.join(" > ").value_counts().sort("count").rows() == [
        ("", 5),
        ("Gift Cards > Gift Card Accessories", 28),
        ("Gift Cards > Gift Cards", 1_514),
    ]


PATHS = {
    "whole": (["Electronics", "Cables"], ["Electronics", "Cables"]),
    "fragment": (["Electronics", "Cables", SPAN, "10 feet"], ["Electronics", "Cables"]),
    "fragment inside": (["Electronics", "Cables <b>", "x"], ["Electronics"]),
    "feature": (["Electronics", "Cables", "x" * 61, "Long"], ["Electronics", "Cables"]),
    "sixty": (["Electronics", "x" * 60], ["Electronics", "x" * 60]),
    "sentence": (["Electronics", "Cables", "No fees. ", "x"], ["Electronics", "Cables"]),
    "dot inside": (["Electronics", "802.11n Cards"], ["Electronics", "802.11n Cards"]),
    "first": ([SPAN, "Electronics"], []),
    "empty": (["Electronics", "", " ", "Cables"], ["Electronics", "Cables"]),
    "entity": (["Electronics", "Audio &amp; Video"], ["Electronics", "Audio & Video"]),
    "null": (["Electronics", None, "Cables"], ["Electronics", "Cables"]),
    "none": ([], []),
}


@pytest.mark.usefixtures("_no_core")
@pytest.mark.parametrize(("category", "expected"), PATHS.values(), ids=PATHS)
def test_where_a_path_ends(tmp_path: Path, category: list[str], expected: list[str]) -> None:
    row = item(tmp_path / "x", product(category=category, title="Cap"))
    assert row["category_paths"] == ([expected] if expected else [])
    assert row["text"] == "Cap"


@pytest.mark.usefixtures("_no_core")
def test_texts_are_joined_and_cleaned(tmp_path: Path) -> None:
    fields = {"title": "A &amp; B", "description": ["One <br> two", "", "three"], "feature": ["four", "5&quot;"]}
    row = item(tmp_path / "x", product(brand="\n    by\n    Zen", category=["Electronics", "Cables"], **fields))
    assert (row["title"], row["description"], row["brand"]) == ("A & B", 'One two three four 5"', "Zen")
    assert row["text"] == 'A & B One two three four 5" Zen'
    assert row["queries"] == ["electronics cables"]


BRANDS = {"\n by\n Zen": "Zen", "by Zen": "Zen", "Byron": "Byron", "bypass": "bypass", "Made by Zen": "Made by Zen"}


@pytest.mark.usefixtures("_no_core")
@pytest.mark.parametrize(("brand", "name"), BRANDS.items())
def test_the_word_before_a_brand_is_the_pages(tmp_path: Path, brand: str, name: str) -> None:
    assert item(tmp_path / "x", product(brand=brand))["brand"] == name


@pytest.mark.usefixtures("_no_core")
def test_a_script_is_no_title(tmp_path: Path) -> None:
    row = item(tmp_path / "x", product(title="var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"))
    assert (row["title"], row["text"]) == ("", UNKNOWN_ITEM)


@pytest.mark.usefixtures("_no_core")
def test_a_product_listed_twice_counts_once(tmp_path: Path) -> None:
    row = item(tmp_path / "x", product(title="first"), product(title="second"))
    assert row["title"] == "first"


ODD = {
    "description as text": ({"description": "one"}, "one"),
    "feature as null": ({"feature": None, "title": "t"}, "t"),
    "category as text": ({"category": "Electronics", "title": "t"}, "t"),
    "category as object": ({"category": {"a": 1}, "title": "t"}, "t"),
    "brand as null": ({"brand": None, "title": "t"}, "t"),
    "half a character": ({"title": "a\ud83d", "description": "x"}, "a? x"),
    "escaped control characters": ({"title": "a\u0000b\u0085c"}, "a b c"),
}


@pytest.mark.usefixtures("_no_core")
@pytest.mark.parametrize(("fields", "text"), ODD.values(), ids=ODD)
def test_fields_of_other_types_are_read_where_they_are_text(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    row = item(tmp_path / "x", product(**fields))
    assert row["text"] == text


BAD = {
    "cut": product()[:-20],
    "list": "[1]",
    "no asin": product().replace('"asin"', '"asim"'),
    "literal": "{'asin': 'B001'}",
}


@pytest.mark.usefixtures("_no_core")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_malformed_line_is_listed_alone(tmp_path: Path, bad: str) -> None:
    products = [product(f"C{number}") for number in range(1_000)]
    folder = write(tmp_path / "x", [review()], [*products[:500], bad, product(title="Cap"), *products[500:], ""])
    log = load(folder, ANY)
    assert log.malformed == 1
    assert log.skipped[0].startswith("meta_X.json.gz:501: ")
    assert log.items["title"].to_list() == ["Cap"]
    write(folder, [review()], [*products[:998], bad])
    with pytest.raises(InputError, match=r"meta_X.json.gz: 1 of 999 lines"):
        load(folder, ANY)


@pytest.mark.usefixtures("_no_core")
def test_repeated_reviews_and_missing_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", [review(time=5 * 86_400), review(time=86_400), review("A2")], [product()])
    log = load(folder, ANY)
    assert log.counts["repeated_reviews"] == 1
    assert log.events["timestamp"].min() == 86_400
    (folder / "X_5.json.gz").unlink()
    with pytest.raises(InputError, match=r"exactly one file named \*_5.json.gz"):
        load(folder, ANY)


def test_metadata_file_is_not_taken_for_reviews(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", [review()], [product()])
    (folder / "meta_X.json.gz").rename(folder / "meta_X_5.json.gz")
    with pytest.raises(InputError, match=r"found: X_5.json.gz, meta_X_5.json.gz"):
        load(folder, ANY)
    assert amazon_2018.LONGEST_LEVEL == 60

"""The loader of Amazon files: a hand-written log, oddities, faults, and the real files that exist."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench.data import amazon, gzip_lines
from gemsbench.data.amazon import AmazonSettings, load
from gemsbench.data.canonical import canonical_tables
from gemsbench.data.item_text import UNKNOWN_ITEM, clean_text
from gemsbench.errors import InputError

DAY = 86_400
ANY = AmazonSettings()


@pytest.fixture(autouse=True)
def _no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most logs here are of one review."""
    assert amazon.K_CORE == amazon.SIMULATED.k_core == 5
    monkeypatch.setattr(amazon, "K_CORE", 1)


def review(user: str = "A1", item: str = "B001", time: int = 15_000 * DAY, rating: float = 5.0, **more: Any) -> str:
    record = {"reviewerID": user, "asin": item, "reviewerName": "Pat \u00e9", "helpful": [0, 1], "reviewText": "a\nb"}
    record |= {"overall": rating, "summary": 'so "so"', "unixReviewTime": time, "reviewTime": "01 26, 2011", **more}
    return json.dumps(record)


def product(asin: str = "B001", **fields: Any) -> str:
    return repr({"asin": asin, **fields})


def write(folder: Path, reviews: Iterable[str], products: Iterable[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("reviews_X_5.json.gz", reviews), ("meta_X.json.gz", products)):
        (folder / name).write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode("utf-8", "surrogatepass")))
    return folder


def many(line: str, faults: Iterable[str], total: int = 5_000) -> list[str]:
    """total lines, the faults in the middle of them."""
    faults = list(faults)
    half = (total - len(faults)) // 2
    return [line] * half + faults + [line] * (total - len(faults) - half)


def asin(number: int) -> str:
    return f"C{number:05}"


def shop(folder: Path, size: int, faults: Iterable[str], more: Iterable[str] = ()) -> Path:
    """size items, all bought and described, and metadata lines with a fault in front; item B001 is bought too."""
    items = [asin(number) for number in range(size)]
    return write(folder, [review(item=name) for name in ("B001", *items)], [*faults, *map(product, items), *more])


def item(folder: Path, metadata: str) -> dict[str, Any]:
    """The one item of a log with this metadata line."""
    return load(write(folder, [review()], [metadata]), ANY).items.row(0, named=True)


def test_events_keep_what_is_needed_and_nothing_personal(tmp_path: Path) -> None:
    reviews = [review("A1", "B002", 2 * DAY, 1.0), review("A2", "B001", DAY), review("A1", "B001", 3 * DAY)]
    log = load(write(tmp_path / "x", reviews, [product("B001", title="Lens"), product("B002", title="Cap")]), ANY)
    assert log.events.select("user", "item", "timestamp", "rating").rows() == [
        ("A1", "B001", 3 * DAY, 5.0),
        ("A1", "B002", 2 * DAY, 1.0),
        ("A2", "B001", DAY, 5.0),
    ]
    assert log.events["pair"].n_unique() == 3
    assert log.events.select("task", "query", "query_source", "group", "position").unique().rows() == [
        ("rec", "", "", "", 0)
    ]
    assert log.events.schema["rating"] == pl.Float32
    assert not {"reviewerName", "reviewText", "summary"} & set(log.events.columns)
    assert log.items["raw_id"].to_list() == ["B001", "B002"]
    assert log.skipped == ()


def test_first_of_repeated_reviews_is_kept(tmp_path: Path) -> None:
    reviews = [review(time=5 * DAY, rating=2.0), review(time=3 * DAY, rating=4.0), review(time=4 * DAY)]
    for order in (reviews, reviews[::-1]):
        log = load(write(tmp_path / "x", order, [product()]), ANY)
        assert log.events.select("timestamp", "rating").rows() == [(3 * DAY, 4.0)]
        assert log.counts["repeated_reviews"] == 2


def test_core_is_taken_after_repeats_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "K_CORE", 2)
    square = [review(user, name) for user in ("A1", "A2") for name in ("B1", "B2")]
    reviews = [*square, review("A3", "B1"), review("A3", "B1", DAY)]
    log = load(write(tmp_path / "x", reviews, [product("B1"), product("B2")]), ANY)
    assert (log.counts["users"], log.counts["items"], log.counts["purchases"]) == (2, 2, 4)


def test_texts_are_cleaned(tmp_path: Path) -> None:
    metadata = product(
        title="A &amp; B&#39;s 7&quot; <b>Lens</b>",
        description="x <br /> y\tz\x07 &amp;eacute; <a href=",
        brand="Zen&nbsp;",
    )
    row = item(tmp_path / "x", metadata)
    assert (row["title"], row["description"], row["brand"]) == ("A & B's 7\" Lens", "x y z \u00e9 < a href=", "Zen")
    assert row["text"] == "A & B's 7\" Lens x y z \u00e9 < a href= Zen"


def test_raw_escapes_and_double_quotes_of_literals(tmp_path: Path) -> None:
    row = item(tmp_path / "x", r"""{'asin': 'B001', 'title': "O'Neil\xae \u2019 \ud83d", 'brand': u'B', 'x': 1e3}""")
    assert row["title"] == "O'Neil\u00ae \u2019 ?"
    assert row["brand"] == "B"


def test_paths_make_queries_and_stay_out_of_the_text(tmp_path: Path) -> None:
    paths = [["Electronics", "Camera, Photo", "Camera Lenses"], ["Electronics"], [], ["", "A &amp; B", "Cables"]]
    row = item(tmp_path / "x", product(title="Cap", categories=[*paths, paths[0]]))
    assert row["category_paths"] == [paths[0], ["Electronics"], ["A & B", "Cables"]]
    assert row["queries"] == ["b cables", "electronics photo camera lenses"]
    assert row["text"] == "Cap"


@pytest.mark.parametrize(
    "fields",
    [{}, {"title": None, "description": 3, "brand": "", "categories": None, "salesRank": {}}, {"title": " <p>"}],
)
def test_missing_and_odd_fields(tmp_path: Path, fields: dict[str, Any]) -> None:
    row = item(tmp_path / "x", product(**fields))
    assert (row["title"], row["description"], row["text"]) == ("", "", UNKNOWN_ITEM)
    assert row["category_paths"] == row["queries"] == []


def test_items_without_metadata_line_and_unbought_products(tmp_path: Path) -> None:
    log = load(write(tmp_path / "x", [review(item="B9")], [product("B1", title="other")]), ANY)
    assert log.items.select("raw_id", "text").rows() == [("B9", UNKNOWN_ITEM)]
    assert (log.counts["metadata_lines"], log.counts["items_with_metadata"]) == (1, 0)


BAD_REVIEWS = {
    "cut off": review()[:40],
    "not an object": "[1, 2]",
    "two records": review() + review(),
    "no asin": review().replace('"asin"', '"asim"'),
    "empty user": review(user=""),
    "rating as text": review(rating="5"),  # type: ignore[arg-type]
    "rating out of range": review(rating=0.0),
    "time in milliseconds": review(time=1_370_131_200_000),
    "time missing": review().replace('"unixReviewTime"', '"time"'),
}


@pytest.mark.parametrize("fault", BAD_REVIEWS.values(), ids=BAD_REVIEWS.keys())
def test_a_malformed_review_is_listed_and_skipped(tmp_path: Path, fault: str) -> None:
    log = load(write(tmp_path / "x", many(review(), [fault]), [product()]), ANY)
    assert log.counts["malformed_review_lines"] == 1
    assert len(log.skipped) == 1
    assert log.skipped[0].startswith("reviews_X_5.json.gz:2500: ")
    assert log.counts["review_lines"] == 5_000


def raw_review(**fields: Any) -> str:
    """A review in plain characters, nothing escaped."""
    return json.dumps({**json.loads(review()), **fields}, ensure_ascii=False)


ODD_REVIEWS = {
    **BAD_REVIEWS,
    "user in Chinese": raw_review(reviewerID="\u7528\u6237"),
    "user with accent, escaped": review(user="A\u00e9"),
    "user is half a character": review(user="\ud83d"),
    "user is a number": raw_review(reviewerID=12),
    "user is a fraction": raw_review(reviewerID=1.5),
    "user is a list": raw_review(reviewerID=["A2"]),
    "user is null": raw_review(reviewerID=None),
    "user of the old kind": review(user="#oc-R1XYZ"),
    "product is a number": raw_review(asin=439893577),
    "rating is a whole number": raw_review(overall=4),
    "rating is true": raw_review(overall=True),
    "rating is NaN": raw_review(overall=float("nan")),
    "rating is huge": review().replace("5.0", "1e400"),
    "time is a fraction": raw_review(unixReviewTime=86_400.0),
    "time is text": raw_review(unixReviewTime="86400"),
    "time is true": raw_review(unixReviewTime=True),
    "time is too long": raw_review(unixReviewTime=2**70),
    "time before 1970": raw_review(unixReviewTime=-1),
    "product twice": review()[:-1] + ', "asin": "B9"}',
    "more after the object": review() + " x",
    "control character": review().replace("A1", "A\x01"),
    "carriage return": review(user="A2") + "\r",
    "byte order mark": "\ufeff" + review(),
    "null": "null",
    "nested too deep": review()[:-1] + ', "x": ' + "[" * 5_000 + "]" * 5_000 + "}",
}
SOUND = {
    "user is a number", "user of the old kind", "product is a number", "rating is a whole number", "product twice",
    "carriage return",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_REVIEWS)
def test_an_odd_review_is_judged_alone(tmp_path: Path, name: str) -> None:
    """The same verdict with sound lines around it and with a malformed one on either side."""
    odd, places = ODD_REVIEWS[name], {}
    for kind, lines in {"alone": [odd], "before": [odd, "oops"], "after": ["oops", odd]}.items():
        log = load(write(tmp_path / "x", many(review(), lines, 3_000), [product()]), ANY)
        places[kind] = log.events
        assert log.malformed == len(lines) - (name in SOUND)
    assert places["alone"].equals(places["before"]) and places["alone"].equals(places["after"])


def test_blank_lines_do_not_matter(tmp_path: Path) -> None:
    log = load(write(tmp_path / "x", ["", review(), "  ", review("A2"), ""], ["", product(), " "]), ANY)
    assert log.counts["purchases"] == 2
    assert log.skipped == ()


def as_bytes(folder: Path, reviews: bytes, products: bytes) -> Path:
    write(folder, [], [])
    for name, lines in (("reviews_X_5.json.gz", reviews), ("meta_X.json.gz", products)):
        (folder / name).write_bytes(gzip.compress(lines))
    return folder


ENCODINGS = {
    "latin-1": ("caf\u00e9", "latin-1", "caf\ufffd"),
    "windows quotes": ("\u201ccaf\u201d", "cp1252", "\ufffdcaf\ufffd"),
    "lone surrogate": ("a\ud83d", "surrogatepass", "a" + "\ufffd" * 3),
    "utf-8": ("caf\u00e9 \u7528", "utf-8", "caf\u00e9 \u7528"),
}


@pytest.mark.parametrize(("text", "encoding", "title"), ENCODINGS.values(), ids=ENCODINGS)
def test_bytes_that_are_no_utf8_cost_a_character_not_a_line(
    tmp_path: Path, text: str, encoding: str, title: str
) -> None:
    def encoded(line: str) -> bytes:
        codec, errors = ("utf-8", encoding) if encoding == "surrogatepass" else (encoding, "strict")
        return (line + "\n").encode(codec, errors)

    sound = (review("A2") + "\n").encode() + encoded(raw_review(reviewText=text))
    log = load(as_bytes(tmp_path / "x", sound, encoded(f"{{'asin': 'B001', 'title': '{text}'}}")), ANY)
    assert (log.malformed, log.counts["purchases"]) == (0, 2)
    assert log.items["title"].to_list() == [title]


def test_an_id_that_is_no_utf8_is_malformed(tmp_path: Path) -> None:
    lines = "".join(f"{line}\n" for line in many(review(), [raw_review(reviewerID="A\u00e9")])).encode("latin-1")
    assert load(as_bytes(tmp_path / "x", lines, product().encode()), ANY).malformed == 1


def test_a_byte_order_mark_starts_a_file(tmp_path: Path) -> None:
    reviews, products = f"\ufeff{review()}\n", f"\ufeff{product(title='Cap')}\n"
    log = load(as_bytes(tmp_path / "x", reviews.encode(), products.encode()), ANY)
    assert (log.malformed, log.counts["review_lines"], log.counts["metadata_lines"]) == (0, 1, 1)
    assert log.items["title"].to_list() == ["Cap"]


def test_nul_bytes_spoil_their_line_only(tmp_path: Path) -> None:
    reviews = many(review(), [review("A2").replace("Pat", "P\x00t")])
    log = load(write(tmp_path / "x", reviews, [product(title="a\x00b")]), ANY)
    assert (log.malformed, log.counts["purchases"]) == (1, 1)
    assert log.items["title"].to_list() == ["a b"]
    nul = "{'asin': 'B001', 'title': 'a\x00b'}"
    assert load(shop(tmp_path / "y", 1_000, [nul]), ANY).skipped[0].startswith("meta_X.json.gz:1: not a Python literal")


def test_line_numbers_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_lines, "CHUNK_BYTES", 1_000)
    reviews = [review(item=asin(number)) for number in range(2_000)]
    products = [product(asin(number)) for number in range(2_000)]
    reviews[1_499], products[1_499] = "oops", "{'title': 'x'}"
    log = load(write(tmp_path / "x", reviews, products), ANY)
    malformed = "not a JSON object with values of the published types"
    assert log.skipped == (f"reviews_X_5.json.gz:1500: {malformed}", "meta_X.json.gz:1500: no asin")
    assert log.counts["metadata_lines"] == log.counts["review_lines"] == 2_000


def test_too_many_malformed_lines_stop(tmp_path: Path) -> None:
    reviews = many(review(), ["oops"] * 6)
    with pytest.raises(
        InputError, match=r"reviews_X_5.json.gz: 6 of 5,000 lines .* reviews_X_5.json.gz:2498: not a JSON object"
    ):
        load(write(tmp_path / "x", reviews, [product()]), ANY)
    with pytest.raises(InputError, match=r"meta_X.json.gz: 2 of 1,999 lines"):
        load(shop(tmp_path / "x", 1_997, ["{'asin': 'B001', "] * 2), ANY)


def test_the_limit_counts_the_lines_that_are_read(tmp_path: Path) -> None:
    """A malformed line weighs the same, however many products that nobody bought the file lists."""
    others = [product("B2")] * 5_000
    for fault in ("{'asin': 'B001', ", "{'title': 'no asin'}"):
        with pytest.raises(InputError, match=r"meta_X.json.gz: 1 of 999 lines that were read"):
            load(shop(tmp_path / "x", 998, [fault], others), ANY)
        assert load(shop(tmp_path / "x", 999, [fault], others), ANY).counts["malformed_metadata_lines"] == 1


def test_a_record_of_another_product_than_the_line_names_first_is_listed(tmp_path: Path) -> None:
    odd = "{'related': {'asin': 'B001'}, 'asin': 'B2'}"
    log = load(shop(tmp_path / "x", 1_000, [odd]), ANY)
    assert log.skipped == ("meta_X.json.gz:1: its asin is not the one that is named first",)
    assert log.items.filter(raw_id="B001")["text"].to_list() == [UNKNOWN_ITEM]


def test_the_number_of_malformed_lines_is_not_that_of_the_listed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gzip_lines, "_LISTED", 2)
    log = load(write(tmp_path / "x", many(review(), ["oops"] * 5), [product()]), ANY)
    assert (len(log.skipped), log.malformed) == (2, 5)
    stats = canonical_tables(log, amazon.SIMULATED, 1)
    assert stats.malformed == 5


def test_code_in_metadata_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    code = f"{{'asin': 'B001', 'title': __import__('pathlib').Path({str(mark)!r}).write_text('x')}}"
    log = load(shop(tmp_path / "x", 1_000, [code]), ANY)
    assert not mark.exists()
    assert log.skipped[0].startswith("meta_X.json.gz:1: not a Python literal (ValueError")


@pytest.mark.parametrize("value", ["[" * 50_000, "-" * 20_000 + "1", "1+" * 100_000 + "1j", "'x' * 9"])
def test_metadata_that_breaks_a_parser_is_malformed_not_fatal(tmp_path: Path, value: str) -> None:
    nested = f"{{'asin': 'B001', 'x': {value}}}"
    log = load(shop(tmp_path / "x", 1_000, [nested]), ANY)
    assert log.counts["malformed_metadata_lines"] == 1


def test_a_cut_download_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", [review(user=f"A{n}") for n in range(2_000)], [product()])
    path = folder / "reviews_X_5.json.gz"
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(InputError, match=r"reviews_X_5.json.gz: cut short"):
        load(folder, ANY)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", [review(user=f"A{n}") for n in range(2_000)], [product()])
    path = folder / "reviews_X_5.json.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"reviews_X_5.json.gz: (damaged|cut short|.* malformed)"):
        load(folder, ANY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"asin": 1}', "not a gzip file"),
        (gzip.compress(b""), "no lines"),
    ],
    ids=["html", "json", "empty"],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write(tmp_path / "x", [review()], [product()])
    for name in ("meta_X.json.gz", "reviews_X_5.json.gz"):
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=re.escape(f"{name}: {message}")):
            load(folder, ANY)


def test_missing_and_ambiguous_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exactly one file named reviews_\*.json.gz, found: none"):
        load(tmp_path, ANY)
    folder = write(tmp_path / "x", [review()], [product()])
    (folder / "meta_Y.json.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"found: meta_X.json.gz, meta_Y.json.gz"):
        load(folder, ANY)


def test_clean_text_leaves_no_tag_and_no_control_character() -> None:
    texts = pl.Series(
        ["<script>x</SCRIPT >", "a < b > c", "&lt;i&gt;t&lt;/i&gt;", "tail <img src='", "\x85\x00a\u00a0b", None]
    )
    assert clean_text(texts).to_list() == ["x", "a < b > c", "t", "tail < img src='", "a b", ""]


def test_real_reviews_and_texts(tmp_path: Path, mirror: Path) -> None:
    """Gift Cards 2018: real review lines; its metadata, which is JSON there, written as literals."""
    source = mirror / "amazon-gift-cards-2018"
    (tmp_path / "reviews_Gift_Cards_5.json.gz").write_bytes((source / "Gift_Cards_5.json.gz").read_bytes())
    records = map(json.loads, gzip.decompress((source / "meta_Gift_Cards.json.gz").read_bytes()).splitlines())
    literals = "".join(f"{record!r}\n" for record in records)
    (tmp_path / "meta_Gift_Cards.json.gz").write_bytes(gzip.compress(literals.encode()))
    log = load(tmp_path, ANY)
    wanted = {"review_lines": 2_972, "users": 458, "items": 148, "purchases": 2_965, "items_with_metadata": 148}
    assert {name: log.counts[name] for name in wanted} == wanted
    assert log.skipped == ()
    assert log.items.filter(pl.col("text").str.contains(r"</?[A-Za-z]|\p{Cc}")).height == 0
    assert log.items.filter(pl.col("title") == "").height == 0

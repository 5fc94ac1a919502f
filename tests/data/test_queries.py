"""Queries from category paths: hand cases, properties, and what the published query lists can show."""

from __future__ import annotations

import gzip
import itertools
from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemsbench.data.queries import add_queries, path_query, stop_words

LEVELS = st.lists(st.text(alphabet="abAB &/-'3é", max_size=12) | st.sampled_from(["the cat", "and"]), max_size=5)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (["Camera, Photo", "Digital Camera Lenses"], "photo digital camera lenses"),
        (["Electronics", "Audio/Video", "Video Cables"], "electronics audio video cables"),
        (["Cell Phones & Accessories", "Cell Phones"], "accessories cell phones"),
        (["Home", "For the Home"], "home"),
        (["Toys", "3D Puzzles"], "toys d puzzles"),
        (["Baby", "Caf\u00e9 Toys"], "baby caf toys"),
        (["Electronics"], ""),
        ([], ""),
        (["The", "& Of"], ""),
    ],
)
def test_hand_cases(path: list[str], query: str) -> None:
    assert path_query(path) == query


def test_deleting_separator_joins_the_words() -> None:
    assert path_query(["Audio/Video", "Mp3 Players"], separator="") == "audiovideo mp players"


@given(LEVELS)
def test_words_are_distinct_lower_case_letters_and_no_stop_words(path: list[str]) -> None:
    words = path_query(path).split()
    assert len(words) == len(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert not set(words) & stop_words()


@given(LEVELS)
def test_a_query_is_a_fixed_point(path: list[str]) -> None:
    query = path_query(path)
    assert path_query(["", query]) == query


def test_stop_words_are_the_418_of_inquery() -> None:
    assert len(stop_words()) == 418
    assert {"a", "albeit", "contrariwise", "yourselves"} <= stop_words()


def test_add_queries_per_item() -> None:
    twice = [["Electronics", "Zoom Lenses"], ["Electronics", "Cables"], ["electronics", "zoom", "lenses"]]
    items = pl.DataFrame(
        {
            "raw_id": ["x", "none", "one-level", "y"],
            "category_paths": [twice, [], [["Electronics"]], [["A", "Cables"]]],
        },
        schema_overrides={"category_paths": pl.List(pl.List(pl.String))},
    )
    result = add_queries(items)
    assert result["raw_id"].to_list() == items["raw_id"].to_list()
    assert result["queries"].to_list() == [["electronics cables", "electronics zoom lenses"], [], [], ["cables"]]
    assert add_queries(result).equals(result)


def test_add_queries_to_no_items() -> None:
    items = pl.DataFrame(schema={"raw_id": pl.String, "category_paths": pl.List(pl.List(pl.String))})
    assert add_queries(items).schema["queries"] == pl.List(pl.String)


# What the published lists of Ai et al. can show. Their queries are stemmed (Krovetz) and the category paths of the
# products are not at hand: for Cell Phones there are the level names of each product, without the paths.

SEARCH = "amazon-product-search-queries/reviews_{}_5"
GRAPH = "amazon-cellphones-2014-graph"


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")


@pytest.mark.parametrize(
    ("category", "fixed", "total"),
    [
        ("Electronics", 988, 989),
        ("Cell_Phones_and_Accessories", 164, 165),
        ("Kindle_Store", 4_597, 4_603),
        ("CDs_and_Vinyl", 687, 694),
    ],
)
def test_published_queries_are_fixed_points(mirror: Path, category: str, fixed: int, total: int) -> None:
    """Cleaning changes none of them but the few in which a word became a stop word after stemming, or was none."""
    queries = [line.strip() for line in lines(mirror / SEARCH.format(category) / "query_text.txt.gz")]
    assert len(queries) == total
    assert sum(path_query(["", query]) == query for query in queries) == fixed


def stem(word: str) -> str:
    """Plural to singular, the commonest thing that Krovetz' stemmer does."""
    for ending, other in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending):
            return word.removesuffix(ending) + other
    return word if word.endswith(("ss", "us")) else word.removesuffix("s")


def stemmed(query: str) -> tuple[str, ...]:
    words = [stem(word) for word in query.split()]
    return tuple(reversed(dict.fromkeys(reversed(words))))


@pytest.fixture(scope="module")
def phones(mirror: Path) -> tuple[list[list[str]], list[set[str]]]:
    """Level names and published queries of each Cell Phones product."""
    folder = mirror / SEARCH.format("Cell_Phones_and_Accessories")
    queries = [line.strip() for line in lines(folder / "query_text.txt.gz")]
    of_product: dict[str, set[str]] = defaultdict(set)
    for name in ("train.qrels.gz", "test.qrels.gz"):
        for line in lines(folder / name):
            user_and_query, _, product, _ = line.split()
            of_product[product].add(queries[int(user_and_query.rpartition("_")[2])])
    names = lines(mirror / GRAPH / "category.txt.gz")
    links = zip(lines(mirror / GRAPH / "product.txt.gz"), lines(mirror / GRAPH / "category_p_c.txt.gz"), strict=True)
    known = [
        (product, [names[int(place)] for place in link.split()]) for product, link in links if product in of_product
    ]
    return [levels for _, levels in known], [of_product[product] for product, _ in known]


def test_published_terms_come_from_the_product_s_own_levels(phones: tuple[list[list[str]], list[set[str]]]) -> None:
    levels, queries = phones
    assert len(levels) == 10_428
    covered = sum(
        {word for query in of_one for word in stemmed(query)} <= set(stemmed(path_query(["", *names], separator="")))
        for names, of_one in zip(levels, queries, strict=True)
    )
    assert covered / len(levels) >= 0.95


def test_some_order_of_the_levels_gives_the_published_query(phones: tuple[list[list[str]], list[set[str]]]) -> None:
    """Products with one query have one path; keeping the first of repeated words instead gives 88 %."""
    single = [(names, next(iter(of_one))) for names, of_one in zip(*phones, strict=True) if len(of_one) == 1]
    assert len(single) == 9_482
    cache: dict[tuple[tuple[str, ...], str], bool] = {}
    for names, query in single:
        key = (tuple(names), query)
        if key not in cache:
            orders = itertools.permutations(names[1:])
            made = (stemmed(path_query([names[0], *order], separator="")) for order in orders)
            cache[key] = len(names) <= 6 and stemmed(query) in made  # longer lists have too many orders
    share = sum(cache[tuple(names), query] for names, query in single) / len(single)
    assert share >= 0.95

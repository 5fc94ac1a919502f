"""The recipes of Amazon's real files, run on small files of the same format: pins, rules, and hard cases as a whole."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench.data import amazon, electronics, electronics_2018, kindle
from gemsbench.data.amazon import AmazonSettings
from gemsbench.data.cards.all_cards import CARDS
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.data.recipe import CaseRules, Recipe
from gemsbench.errors import CheckError, InputError
from gemsbench.protocol.prepare import prepare

DAY = 86_400
RECIPES = [electronics.RECIPE, kindle.RECIPE, electronics_2018.RECIPE]
Purchase = tuple[str, str, int]  # user, item, day


def write(folder: Path, purchases: Iterable[Purchase], products: Iterable[str], recipe: Recipe) -> Path:
    """Raw files with these purchases; products with an even number have a category path of two levels."""
    reviews = [
        {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": day * DAY, "reviewText": "x"}
        for user, item, day in purchases
    ]
    paths = [["Electronics", f"Kind {'abcdefgh'[number % 8]}xyz"] if number % 2 else [] for number in range(10**5)]
    records: list[dict[str, Any]] = [
        {"asin": item, "title": f"thing {item}", "categories": [path] if path else []}
        for item, path in zip(products, paths, strict=False)
    ]
    metadata, name = map(repr, records), "reviews_Electronics_5.json.gz"
    if recipe is electronics_2018.RECIPE:
        metadata = map(json.dumps, ({**r, "category": r["categories"][0] if r["categories"] else []} for r in records))
        name = "Electronics_5.json.gz"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress("\n".join(map(json.dumps, reviews)).encode()))
    (folder / "meta_Electronics.json.gz").write_bytes(gzip.compress("\n".join(metadata).encode()))
    return folder


def crowd(users: int = 30, items: int = 100, each: int = 25) -> tuple[list[Purchase], list[str]]:
    """Every item often bought; three purchases a day."""
    names = [f"B{number:05}" for number in range(items)]
    bought = [(f"A{u}", names[(u * 7 + n * 11) % items], 14_000 + n // 3) for u in range(users) for n in range(each)]
    return bought, names


def unpinned(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, pins={}, min_shares={})


def run(recipe: Recipe, folder: Path, out: Path) -> dict[str, Any]:
    return prepare(recipe, AmazonSettings(), folder, out, seed=1, history_length=20, negatives=20)


def test_books_without_any_title_are_prepared(tmp_path: Path) -> None:
    """Kindle metadata as it may be: no title, few descriptions."""
    bought, names = crowd()
    folder = write(tmp_path / "raw", bought, names, kindle.RECIPE)
    records = [
        {
            "asin": item,
            "categories": [["Books", "Kindle eBooks"]],
            **({"description": f"About {item}."} if n % 4 else {}),
        }
        for n, item in enumerate(names)
    ]
    (folder / "meta_Electronics.json.gz").write_bytes(gzip.compress("\n".join(map(repr, records)).encode()))
    stats = run(unpinned(kindle.RECIPE), folder, tmp_path / "out")
    assert stats["item_share"]["title"] == 0.0 and stats["item_share"]["brand"] == 0.0
    assert stats["item_share"]["description"] == 0.75
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    texts = dict(items.select("raw_id", "text").iter_rows())
    assert texts == {item: f"About {item}." if n % 4 else UNKNOWN_ITEM for n, item in enumerate(names)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_prepares_files_of_its_format(tmp_path: Path, recipe: Recipe) -> None:
    stats = run(unpinned(recipe), write(tmp_path / "raw", *crowd(), recipe), tmp_path / "out")
    assert stats["users"] == 30
    assert all(stats["cases"][task][split] > 0 for task in ("rec", "src") for split in ("train", "valid", "test"))
    # A pin with a mistyped key would never hold.
    assert set(recipe.pins) <= set(stats["funnel"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_another_file_than_the_pinned_one_stops(tmp_path: Path, recipe: Recipe) -> None:
    folder = write(tmp_path / "raw", *crowd(), recipe)
    if not recipe.pins:
        assert run(recipe, folder, tmp_path / "out")["users"] == 30
        return
    with pytest.raises(CheckError, match="'users_in_reviews' is 30, pinned is "):
        run(recipe, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_published_counts_are_pinned() -> None:
    assert electronics.RECIPE.pins == {
        "review_lines": 1_689_188,
        "users_in_reviews": 192_403,
        "items_in_reviews": 63_001,
        "metadata_lines": 498_196,
        "items_with_metadata": 63_001,
    }
    assert kindle.RECIPE.pins == {"users_in_reviews": 68_223, "items_in_reviews": 61_934}


def test_the_released_population_is_cut_from_electronics(tmp_path: Path) -> None:
    """Histories of five events and a third of the training cases; Kindle keeps all."""
    assert electronics.RECIPE.cases == electronics_2018.RECIPE.cases == CaseRules(min_history=5, train_share=0.3)
    assert kindle.RECIPE.cases == CaseRules()
    folder = write(tmp_path / "raw", *crowd(), electronics.RECIPE)
    cut = run(unpinned(electronics.RECIPE), folder, tmp_path / "cut")
    whole = run(unpinned(kindle.RECIPE), folder, tmp_path / "whole")
    trained = [sum(stats["cases"][task]["train"] for task in ("rec", "src")) for stats in (cut, whole)]
    assert 0.2 < trained[0] / trained[1] < 0.35
    cases = pl.read_parquet(tmp_path / "cut" / "cases.parquet")
    both = cases["hist_tasks"].list.count_matches(3)
    assert (cases["hist_tasks"].list.len() + both).min() >= 5  # type: ignore[operator]


def test_products_without_paths_are_not_the_pinned_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", *crowd(), electronics.RECIPE)
    with pytest.raises(CheckError, match=r"X1.*category_paths"):
        run(dataclasses.replace(electronics.RECIPE, pins={}), folder, tmp_path / "out")


def test_a_user_with_ten_thousand_purchases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "K_CORE", 1)
    bought, names = crowd(items=10_100)
    bought += [(f"A{number % 30}", name, 14_100) for number, name in enumerate(names[10_000:])]
    whale = [("whale", name, 10_000 + number // 4) for number, name in enumerate(names[:10_000])]
    recipe = dataclasses.replace(unpinned(electronics.RECIPE), k_core=0)
    stats = run(recipe, write(tmp_path / "raw", [*bought, *whale], names, recipe), tmp_path / "out")
    assert stats["users"] == 31
    cases = pl.read_parquet(tmp_path / "out" / "cases.parquet")
    lengths = cases["hist_items"].list.len()
    assert (lengths.max(), cases["user_id"].n_unique()) == (20, 31)
    lists = pl.read_parquet(tmp_path / "out" / "candidates.parquet")
    whale_user = cases.group_by("user_id").len().sort("len")["user_id"][-1]
    asked = cases.filter((pl.col("user_id") == whale_user) & (pl.col("split") != "train"))
    offered = lists.join(asked, on="case_id", how="semi")["items"].explode().n_unique()
    # Only a hundred products are left that this user never bought.
    assert asked.height >= 2
    assert offered <= 100 + asked.height


def test_nobody_is_left_untouched_items_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "K_CORE", 1)
    bought, names = crowd(items=150)
    whale = [("whale", name, 10_000 + number // 4) for number, name in enumerate(names[:140])]
    recipe = dataclasses.replace(unpinned(electronics.RECIPE), k_core=0)
    folder = write(tmp_path / "raw", [*bought, *whale], names, recipe)
    with pytest.raises(
        InputError, match=r"1 of 31 users have fewer than 20 items .* smallest number left is 10 of 150"
    ):
        run(recipe, folder, tmp_path / "out")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_cards_say_what_the_recipe_does(recipe: Recipe) -> None:
    card = CARDS[recipe.name]
    cut = " ".join(card.cut)
    assert ("30 %" in cut) == (recipe.cases.train_share < 1.0)
    assert ("five events" in cut) == (recipe.cases.min_history == 5)
    assert all(sentence.endswith(".") for sentence in (card.about, *card.cut, *card.flaws))

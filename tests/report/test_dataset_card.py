"""Dataset cards: what the recipe says, nothing unsaid, and the committed ones are what the code renders."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gemsbench.data.amazon import SIMULATED
from gemsbench.data.cards.all_cards import CARDS
from gemsbench.data.cards.card import Card
from gemsbench.data.recipe import CaseRules, Recipe
from gemsbench.data.source import HubDataset, RawFile, Source
from gemsbench.registry import RECIPES
from gemsbench.report import dataset_card
from gemsbench.report.dataset_card import UNKNOWN, render_card, static_cards, write_cards

KNOWN = RawFile(
    "known.json.gz", "a" * 64, 1_234, "http://first.example/known", md5="b" * 32, further=("http://x.example",)
)
UNKNOWN_FILE = RawFile("unknown.json.gz", "", 0, "http://first.example/unknown")
MEMBER = RawFile("inside.csv", "c" * 64, 5, "http://first.example/a.zip", member="folder/inside.csv")
SOURCE = Source(
    "a-source", "A source", "http://home.example", "its terms", "its citation", (KNOWN, UNKNOWN_FILE, MEMBER)
)
HUB = Source("a-hub", "A hub", "http://hub.example", "", "", hub=HubDataset("Some/Thing", ("one", "two"), "abc"))
STATS: Mapping[str, Any] = {
    **dict.fromkeys(("users", "items", "inter_src", "inter_rec", "density_src", "density_rec"), 4_321),
    "in_cases": {"users": 3_210, "items": 50, "inter_src": 10, "inter_rec": 20},
    "cases": {"rec": {"test": 9_876}, "src": {}},
    **{name: {"rec": {"test": 0}, "src": {}} for name in ("mean_history", "empty_history", "leak_rate")},
    "item_share": {"title": 0.8765},
    "funnel": {"review_lines": 7_654},
    "stages": ["review_lines"],
    "seed": 2026,
    "history_length": 20,
    "negatives": 99,
    "fingerprint": "0f0f",
}


def recipe(**fields: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "electronics-2014",
        "simulate": None,
        "sources": ("a-source",),
        "pins": {"review_lines": 1_689_188},
        "min_shares": {"title": 0.95},
        "k_core": 5,
    }
    return dataclasses.replace(SIMULATED, **(values | fields))


@pytest.fixture
def own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("What it is.", ("First step.", "Second step."), ("A flaw with <tags> and *stars*.",))
    monkeypatch.setattr(dataset_card, "CARDS", {"electronics-2014": card})


def test_every_registered_recipe_has_words_and_no_other() -> None:
    assert set(CARDS) == set(RECIPES)


@pytest.mark.usefixtures("own_card")
def test_a_card_says_what_the_recipe_and_its_sources_say() -> None:
    text = render_card(recipe(cases=CaseRules(5, 0.3), paper_row="Amazon"), [SOURCE])
    for piece in (
        "# simulated purchases in the Amazon format (`electronics-2014`)",
        "What it is.",
        "Stands for Amazon of arXiv 2601.09496, under the rules of this repository.",
        "1. First step.\n2. Second step.",
        r"- A flaw with \<tags> and \*stars\*.",
        "<http://home.example>",
        "Terms: its terms",
        "`known.json.gz`: 1,234 bytes\n  - sha256 `" + "a" * 64,
        "md5 `" + "b" * 32,
        "<http://first.example/known>\n  - <http://x.example>",
        f"`unknown.json.gz`: size {UNKNOWN}\n  - sha256 and md5 {UNKNOWN}",
        "`inside.csv`: 5 bytes (of the content of `folder/inside.csv`)",
        "| 1,689,188 |",
        "**Times**: recommendation: to the day, search: to the day.",
        "by purchase: a user's last purchase is test",
        "at least 5 events before the target; for training the last case of a user and 30 % of the others.",
        "at least 5 recommendation events",
        "**Items with a value, at least**: title 95%.",
        "only those with both behaviours",
        "strictly earlier",
        r"arXiv 2504.05730",  # a published count of the recipe of that name
    ):
        assert piece in text, piece
    assert "Measured" not in text


@pytest.mark.usefixtures("own_card")
def test_a_card_says_nothing_that_the_recipe_does_not_say() -> None:
    bare = recipe(name="canonical", sources=(), pins={}, min_shares={}, k_core=0, both_behaviours=False)
    text = render_card(bare, [])
    for word in (
        "Known flaws",
        "How it is cut",
        "Exact counts",
        "k-core",
        "literature",
        "Stands for",
        "None",
        "sha256",
    ):
        assert word not in text, word
    assert "nothing is downloaded" in text
    assert "also those with one behaviour only" in text
    assert "all; a recommendation needs a history entry" in text


def test_a_released_recipe_claims_none_of_our_rules() -> None:
    text = render_card(recipe(released=True, paper_row="Amazon"), [SOURCE])
    assert "as its released code builds it" in text and "none of the rules of the other recipes hold" in text
    for rule in ("strictly earlier", "never touched", "by purchase"):
        assert rule not in text, rule


def test_a_hub_dataset_names_what_is_fetched() -> None:
    text = render_card(recipe(sources=("a-hub",)), [HUB])
    assert "`Some/Thing` (revision `abc`), configs `one`, `two`" in text
    assert "unknown until the first download, which writes the hub's listing to `data/raw/a-hub/files.json`" in text


def test_simulated_data_say_so_and_list_their_settings() -> None:
    text = render_card(SIMULATED, [])
    assert "Generated by this package" in text and "`reviews_Simulated_5.json.gz`" in text
    assert re.search(r"\| world\.users +\| 750 +\|", text)


def test_measured_numbers_stand_in_a_part_of_their_own() -> None:
    bare, full = render_card(recipe(), [SOURCE]), render_card(recipe(), [SOURCE], STATS)
    assert full.startswith(bare.rstrip("\n")) and "## Measured" in full
    measured = full.removeprefix(bare.rstrip("\n"))
    for number in ("4,321", "3,210", "9,876", "87.65%", "7,654", "`0f0f`", "`2026`", "`20`"):
        assert number in measured and number not in bare, number


def test_committed_cards_are_what_the_code_renders(repository: Path) -> None:
    folder = repository / "docs" / "datasets"
    cards = static_cards()
    assert set(cards) == {f"{name}.md" for name in RECIPES}
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    stale = sorted(name for name in cards.keys() | found.keys() if cards.get(name) != found.get(name))
    assert not stale, (
        f"docs/datasets: {', '.join(stale)} differ from the recipes. Run `make cards`; delete cards without a recipe."
    )


def test_every_card_is_complete_and_names_no_place_of_its_maker() -> None:
    for name, text in static_cards().items():
        own = name == "canonical.md"  # what is wrong with it only its owner knows
        for heading in ("## Raw files", "## How it is cut", "## Rules", *(() if own else ("## Known flaws",))):
            assert heading in text, (name, heading)
        assert not re.search(r"/(work|opt|tmp|home|root)\b|localhost|127\.0", text), name


def test_cards_are_written_whole(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    written = write_cards(tmp_path)
    assert {path.name for path in written} == set(static_cards())
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {"kept.txt"}


@pytest.mark.parametrize("unit", ["pair", "task"])
def test_each_way_to_split_is_told(unit: str) -> None:
    assert ("by purchase" in render_card(recipe(split_unit=unit), [SOURCE])) == (unit == "pair")

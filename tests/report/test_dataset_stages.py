"""Stages named here are stages that the loaders report: a renamed one would lose its share and its published number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from gemsbench.data.amazon import SIMULATED as AMAZON
from gemsbench.data.electronics_reference import SEARCHES
from gemsbench.data.fetch import fetch
from gemsbench.data.qilin import SIMULATED as QILIN
from gemsbench.data.qilin import SimulatedQilinSettings
from gemsbench.data.recipe import Recipe
from gemsbench.data.simulation.amazon_files import write_amazon
from gemsbench.data.simulation.world import WorldSettings
from gemsbench.protocol.prepare import prepare
from gemsbench.registry import RECIPES, resolve
from gemsbench.report.dataset_stages import LOADERS, SMALL_LOADERS, Origin, origin, published_stages
from gemsbench.report.published import read_published

OF_PURCHASES = ("electronics-2014", "electronics-2014-reference", "kindle-2014")
OF_REQUESTS = ("qilin", "qilin-reference")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Simulated raw files in both formats, and searches made of the purchases."""
    folder = tmp_path_factory.mktemp("raw")
    purchases, requests, searches = folder / "purchases", folder / "requests", folder / SEARCHES
    for path in (purchases, requests, searches):
        path.mkdir()
    small = WorldSettings(users=250, items=220, listed_items=240)
    write_amazon(purchases, small, 1, core=5, searches=searches)
    QILIN.simulate(requests, SimulatedQilinSettings(), 1)  # type: ignore[misc]
    return {**dict.fromkeys(OF_PURCHASES, purchases), **dict.fromkeys(OF_REQUESTS, requests)}


@pytest.fixture(scope="module")
def stages(raw: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """Recipe -> stages of its whole preparation, on simulated files."""
    found = {}
    simulated: list[tuple[Recipe, Path]] = [(AMAZON, raw["kindle-2014"]), (QILIN, raw["qilin"])]
    for name, folder in raw.items():
        simulated.append((dataclasses.replace(resolve(RECIPES[name]), pins={}, min_shares={}), folder))
    for recipe, folder in simulated:
        out = tmp_path_factory.mktemp("out") / recipe.name
        found[recipe.name] = prepare(recipe, recipe.settings(), folder, out, seed=1, history_length=5)["stages"]
    return found


def without_origin(funnel: list[str], loaders: Iterable[Mapping[str, Origin]] = LOADERS) -> set[str]:
    """Stages of a funnel that are listed as a filter of something, and of nothing in this funnel."""
    listed = {stage for loader in loaders for stage in loader}
    return {stage for stage in funnel if stage in listed and origin(stage, funnel) is None}


def test_every_published_number_belongs_to_a_stage_of_its_loader(stages: Mapping[str, list[str]]) -> None:
    rows = read_published("data_stages")
    assert rows.select("recipe", "stage").is_duplicated().sum() == 0
    assert (rows["value"] > 0).all() and (rows["source"].str.len_chars() > 10).all()
    assert set(rows["recipe"]) <= set(RECIPES)
    for recipe, names in stages.items():
        unknown = set(published_stages(recipe)) - set(names)
        assert not unknown, f"{recipe}: results/published/data_stages.csv names stages that its loader does not report"


def named(loaders: Iterable[Mapping[str, Origin]]) -> set[str]:
    return {name for loader in loaders for stage, relation in loader.items() for name in (stage, relation.of)}


def test_every_filter_names_stages_that_loaders_report(stages: Mapping[str, list[str]]) -> None:
    reported = {name for names in stages.values() for name in names}
    simulated = [loader for loader in LOADERS if set(loader) & reported and loader not in SMALL_LOADERS]
    assert len(simulated) == len(LOADERS) - len(SMALL_LOADERS)
    assert not named(simulated) - reported


def test_every_listed_stage_is_counted_from_one_of_its_own_funnel(stages: Mapping[str, list[str]]) -> None:
    assert {recipe: without_origin(funnel) for recipe, funnel in stages.items()} == {name: set() for name in stages}


def test_what_is_computed_or_doubtful_says_so() -> None:
    requests, shops = published_stages("qilin"), published_stages("electronics-2014-reference")
    for stage in ("recommendation requests of these users", "search requests of these users"):
        assert requests[stage].source.startswith("computed: the sum of rows")
    clicked = requests["clicked notes of these users"]
    assert clicked.value == 280_342 and "one missing value" in clicked.source
    assert "need not agree" in shops["items_with_short_text"].source
    assert requests == {stage: told for stage, told in published_stages("qilin-reference").items() if stage in requests}


@pytest.mark.slow
def test_every_filter_of_a_small_recipe_too(mirror: Path, tmp_path: Path) -> None:
    reported = set()
    for name in ("lastfm-small", "movielens-small", "journey-small"):
        recipe: Recipe = resolve(RECIPES[name])
        counts = recipe.load(fetch(recipe, recipe.settings(), 1, tmp_path, quiet=True), recipe.settings()).counts
        reported |= set(counts)
        assert not without_origin(list(counts), SMALL_LOADERS), name
        published = published_stages(name)
        assert {stage: told.value for stage, told in published.items()} == {stage: counts[stage] for stage in published}
    assert not named(SMALL_LOADERS) - reported


def test_a_stage_is_counted_from_one_of_its_own_funnel() -> None:
    amazon = origin("items", ["items_in_reviews", "items"])
    qilin = origin("items", ["raw notes", "items"])
    assert amazon is not None and qilin is not None
    assert (amazon.of, qilin.of) == ("items_in_reviews", "raw notes")
    assert origin("items", ["items"]) is None
    assert origin("no such stage", ["items"]) is None


def test_pins_agree_with_what_is_published() -> None:
    """Where a recipe stops for a count and the literature has one, they are the same number."""
    compared = 0
    for name in read_published("data_stages")["recipe"].unique().sort():
        recipe: Recipe = resolve(RECIPES[name])
        for stage, told in published_stages(name).items():
            if stage in recipe.pins:
                assert recipe.pins[stage] == told.value, (name, stage)
                compared += 1
    assert compared > 20


def test_the_printed_funnel_of_qilin_adds_up_to_table_4() -> None:
    told = {stage: found.value for stage, found in published_stages("qilin-reference").items()}
    for letter, task in (("R", "rec"), ("S", "src")):
        examples = sum(told[f"{split}: {letter} examples"] for split in ("train", "valid", "test"))
        assert examples == told[f"Table 4: inter_{task}"]
        assert told[f"test: {letter} rows"] == told[f"test: {letter} examples"]

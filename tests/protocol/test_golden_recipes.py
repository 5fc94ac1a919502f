"""Golden counts: each recipe gives the cases that are committed in golden_recipes.json, question by question.

A test that fails here means that published numbers are no longer comparable. Where that is intended, renew the file
    GEMSBENCH_MIRROR=<folder of raw files> python tests/protocol/test_golden_recipes.py
and let the change of golden_recipes.json be reviewed in a commit of its own that says why the counts moved.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gemsbench.config import load_settings
from gemsbench.data.fetch import fetch
from gemsbench.data.invariants import pin_violations
from gemsbench.data.sources import SOURCES
from gemsbench.files import read_json, write_json
from gemsbench.profile import Profile, load_profile
from gemsbench.protocol.prepare import prepare
from gemsbench.registry import RECIPES, resolve

GOLDEN = Path(__file__).with_name("golden_recipes.json")
CONFIG = Path(__file__).resolve().parents[2] / "config"
SIMULATED = ("simulated-amazon", "simulated-qilin")  # with the settings of config/mini.yaml
REAL = ("lastfm-small", "movielens-small", "journey-small")  # with those of config/mini-real.yaml
FULL = (
    *("qilin", "qilin-reference", "electronics-2014", "electronics-2014-reference"),
    *("kindle-2014", "electronics-2018"),
)
PINNED = ("users", "items", "queries", "inter_rec", "inter_src", "cases", "fingerprint")


def figures(profile: Profile, name: str, root: Path) -> dict[str, Any]:
    """The pinned statistics of a recipe, made from its raw files in a folder of its own."""
    recipe = resolve(RECIPES[name])
    settings = load_settings(recipe.settings, profile.recipes[name], name)
    raw = fetch(recipe, settings, profile.data_seed, root, quiet=True)
    out = root / "prepared"
    stats = prepare(recipe, settings, raw, out, seed=profile.data_seed, history_length=profile.history_length)
    asked = {"data_seed": profile.data_seed, "history_length": profile.history_length}
    return asked | {key: stats[key] for key in PINNED}


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_recipe_is_what_it_was(name: str, tmp_path: Path) -> None:
    assert figures(load_profile(CONFIG / "mini.yaml"), name, tmp_path) == read_json(GOLDEN)[name]


@pytest.mark.parametrize("name", REAL)
def test_a_real_recipe_is_what_it_was(name: str, tmp_path: Path, mirror: Path) -> None:
    assert figures(load_profile(CONFIG / "mini-real.yaml"), name, tmp_path) == read_json(GOLDEN)[name]


def linked(name: str, mirror: Path, root: Path) -> None:
    """Give root the files of a source without a copy; the test is skipped where the mirror lacks one."""
    source = SOURCES[name]
    pairs = [(raw.name, mirror / raw.mirror) for raw in source.files]
    if source.hub is not None:
        found = sorted((mirror / name).glob("*.parquet"))
        pairs += [(path.name, path) for path in found] or [("*.parquet", mirror / name / "*.parquet")]
    absent = [str(path.relative_to(mirror)) for _, path in pairs if not path.is_file()]
    if absent:
        pytest.skip(f"GEMSBENCH_MIRROR has no {', '.join(absent)}: the real files could not be looked at")
    folder = root / "data" / "raw" / name
    folder.mkdir(parents=True)
    for target, path in pairs:
        (folder / target).symlink_to(path.resolve())


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_real_files_give_the_published_counts(name: str, tmp_path: Path, mirror: Path) -> None:
    """Where somebody has them: each hash, and each pin of the recipe. A skip says nothing about the real files."""
    recipe = resolve(RECIPES[name])
    for source in recipe.sources:
        linked(source, mirror, tmp_path)
    folder = fetch(recipe, recipe.settings(), 1, tmp_path, quiet=True)
    log = recipe.load(folder, recipe.settings())
    assert pin_violations(log.counts, recipe) == []


def test_every_recipe_of_real_files_is_among_these() -> None:
    with_sources = {name for name, target in RECIPES.items() if resolve(target).sources}
    assert with_sources == {*REAL, *FULL}


def renew() -> None:
    """Write golden_recipes.json anew; the real recipes need GEMSBENCH_MIRROR."""
    if not os.environ.get("GEMSBENCH_MIRROR"):
        raise SystemExit("Set GEMSBENCH_MIRROR to the folder of the raw files of the real recipes.")
    found = {}
    for config, names in (("mini.yaml", SIMULATED), ("mini-real.yaml", REAL)):
        for name in names:
            with tempfile.TemporaryDirectory() as root:
                found[name] = figures(load_profile(CONFIG / config), name, Path(root))
    write_json(GOLDEN, found)


if __name__ == "__main__":
    renew()

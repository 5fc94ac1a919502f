"""Captions say of the paper profile what its data and backbones are, and of the small ones that they are others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gemsbench.profile import Profile, TableSettings, load_profile
from gemsbench.report.captions import SizeRows, comparability, dataset_caption

DATA = "the paper's datasets under this repository's rules (docs/datasets)"
WARNING = "These numbers are not comparable with the paper's (arXiv 2601.09496): profile {} uses {}."
NO_ROWS = SizeRows({}, {}, {})


def profile_of(repository: Path, name: str) -> Profile:
    return load_profile(repository / "config" / f"{name}.yaml")


def changed(profile: Profile, **tables: dict[str, str]) -> Profile:
    return dataclasses.replace(profile, tables=TableSettings(**({"columns": profile.tables.columns} | tables)))


@pytest.mark.parametrize("name", ["mini", "mini-real", "mini-ablations"])
def test_the_small_profiles_say_other_data_and_smaller_models(repository: Path, name: str) -> None:
    profile = profile_of(repository, name)
    assert comparability(profile) == WARNING.format(profile.profile, "other data and smaller models")
    assert dataset_caption(profile, NO_ROWS).endswith("The measured data are not the paper's.")


def test_the_paper_profile_says_whose_data_it_has(repository: Path) -> None:
    profile = profile_of(repository, "paper")
    assert comparability(profile) == WARNING.format("paper", DATA)
    assert dataset_caption(profile, NO_ROWS).endswith(f" Qilin and Amazon (electronics-2014) are {DATA}.")
    assert comparability(dataclasses.replace(profile, comparable_with_paper=True)) == ""


@pytest.mark.parametrize("backbone", ["t5-mini", "flan-t5-small"])
def test_the_papers_data_with_smaller_models(repository: Path, backbone: str) -> None:
    profile = changed(profile_of(repository, "paper"), blocks={"T5-base": backbone})
    assert comparability(profile) == WARNING.format("paper", f"{DATA} and smaller models")


def test_one_other_dataset_is_enough_to_be_other_data(repository: Path) -> None:
    paper = profile_of(repository, "paper")
    mixed = changed(paper, blocks=paper.tables.blocks, extra_columns={"Kindle": "kindle-2014"})
    assert comparability(mixed) == WARNING.format("paper", "other data")
    assert dataset_caption(mixed, NO_ROWS).endswith("The measured data are not the paper's.")


def test_a_released_recipe_is_not_said_to_keep_our_rules(repository: Path) -> None:
    paper = profile_of(repository, "paper")
    columns = {"Qilin": "qilin-reference", "Amazon": "electronics-2014"}
    caption = comparability(changed(paper, blocks=paper.tables.blocks, columns=columns))
    assert "some built as the released code does" in caption and "under this repository's rules" not in caption

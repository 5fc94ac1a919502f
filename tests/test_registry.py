"""The one table of names: every target resolves, every wrong name is answered with the nearest."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from gemsbench.backbones.catalogue import ALL, ARCHITECTURES, BackboneSpec
from gemsbench.data.corpus import Corpus
from gemsbench.data.recipe import Recipe
from gemsbench.errors import InputError
from gemsbench.registry import BACKBONES, CORPORA, DEFAULT_TUNERS, METHODS, RECIPES, TUNERS, lookup, resolve


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_resolves_to_the_contract(name: str) -> None:
    method = resolve(METHODS[name].target)
    assert dataclasses.is_dataclass(method.Config)
    assert method.Config.__dataclass_params__.frozen
    assert callable(method.fit)
    assert callable(method.score)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_resolves_to_its_own_name(name: str) -> None:
    recipe = resolve(RECIPES[name])
    assert isinstance(recipe, Recipe)
    assert recipe.name == name


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_every_corpus_resolves_to_its_own_name(name: str) -> None:
    corpus = resolve(CORPORA[name])
    assert isinstance(corpus, Corpus)
    assert corpus.name == name
    assert name not in RECIPES, "recipes and corpora share the folders below data/"


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_resolves_to_its_own_name_and_kind(name: str) -> None:
    spec = resolve(BACKBONES[name].target)
    assert isinstance(spec, BackboneSpec)
    assert (spec.name, spec.kind) == (name, BACKBONES[name].kind)
    assert dataclasses.is_dataclass(spec.settings)


def test_catalogue_and_table_hold_the_same_backbones() -> None:
    assert set(BACKBONES) == set(ALL)
    assert set(DEFAULT_TUNERS) == set(ARCHITECTURES) == {entry.kind for entry in BACKBONES.values()}


@pytest.mark.parametrize("name", sorted(TUNERS))
def test_every_tuner_resolves_to_the_contract(name: str) -> None:
    tuner = resolve(TUNERS[name])
    assert dataclasses.is_dataclass(tuner.Config)
    assert tuner.Config.__dataclass_params__.frozen
    assert isinstance(tuner.frozen_base, bool)
    assert callable(tuner.prepare)


def test_every_kind_of_backbone_has_a_tuner() -> None:
    assert set(DEFAULT_TUNERS.values()) <= set(TUNERS)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_colon", "Write it as package.module:Name"),
        ("no_such_package_here:X", "cannot import 'no_such_package_here'"),
        ("gemsbench.errors:Missing", "has no 'Missing'"),
    ],
)
def test_a_wrong_target_is_named(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(target)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown method 'popularty'. Did you mean 'popularity'\?"):
        lookup(METHODS, "popularty", "method")


def test_reading_the_table_imports_nothing_heavy() -> None:
    modules = "gemsbench.profile, gemsbench.backbones.catalogue, sys"
    code = f"import {modules}; sys.exit(any(m in sys.modules for m in ('torch', 'polars', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

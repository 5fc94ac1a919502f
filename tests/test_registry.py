"""The one table of names: every target resolves, every wrong name is answered with the nearest."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from gemsbench.data.recipe import Recipe
from gemsbench.errors import InputError
from gemsbench.registry import METHODS, RECIPES, lookup, resolve


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
    code = "import gemsbench.profile, sys; sys.exit(any(m in sys.modules for m in ('torch', 'polars', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

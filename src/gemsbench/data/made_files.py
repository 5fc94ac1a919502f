"""Raw files that are made rather than fetched as they are: simulated logs, samples of what is too large to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemsbench.data.corpus import Corpus
from gemsbench.data.recipe import Recipe
from gemsbench.files import atomic_path


def make_files(recipe: Recipe | Corpus, settings: Any, seed: int, root: Path) -> Path | None:
    """Simulate or sample the raw files of a recipe or corpus; return their folder, None where there is nothing to make.

    root: the repository. The folder appears whole or not at all. Raises InputError.
    """
    make = recipe.simulate or (recipe.sample if isinstance(recipe, Corpus) else None)
    if make is None:
        return None
    folder = root / "data" / ("simulated" if recipe.simulate else "sampled") / recipe.name
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        make(temporary, settings, seed)
    return folder

"""What `gemsbench data stats` and `gemsbench data card` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemsbench.data.recipe import Recipe
    from gemsbench.profile import Profile


def statistics_page(
    profile: Profile, config: Path, recipe: Recipe, prepared: Path, results: Path, *, as_json: bool = False
) -> str:
    """The statistics of a prepared recipe: as text, or as one JSON object.

    prepared: the folder of its tables; results: results/<profile>, where the backbones' tokenizers lie. Raises
    InputError with the command to run when the statistics are missing or of an earlier version.
    """
    from gemsbench.report.dataset_sections import as_json as to_json
    from gemsbench.report.dataset_sections import as_text
    from gemsbench.report.dataset_statistics import dataset_statistics, read_statistics
    from gemsbench.report.dataset_tokens import find_vocabularies

    statistics = read_statistics(prepared, f"gemsbench data prepare {recipe.name} --config {config}")
    found, missing = find_vocabularies(profile, results, config)
    sections = dataset_statistics(recipe, statistics, prepared, found, missing)
    if as_json:
        return to_json(sections, recipe=recipe.name, title=recipe.title, fingerprint=statistics["fingerprint"])
    return as_text(sections)


def card_page(name: str, prepared: Path | None, config: Path) -> str:
    """The card of a registered recipe as Markdown, with measured numbers where its statistics are in `prepared`.

    prepared: None without a profile. Statistics that cannot be read, or are of an earlier version, are a remark that
    names the command to run. Raises InputError with the nearest name when there is no such recipe.
    """
    from gemsbench.data.sources import SOURCES
    from gemsbench.errors import InputError
    from gemsbench.registry import RECIPES, lookup, resolve
    from gemsbench.report.dataset_card import render_card, without_statistics
    from gemsbench.report.dataset_statistics import read_statistics

    recipe: Recipe = resolve(lookup(RECIPES, name, "recipe"))
    sources = [SOURCES[source] for source in recipe.sources]
    if prepared is None or not (prepared / "stats.json").is_file():
        return render_card(recipe, sources)
    try:
        statistics = read_statistics(prepared, f"gemsbench data prepare {name} --config {config}")
    except InputError as error:
        return render_card(recipe, sources) + without_statistics(str(error))
    return render_card(recipe, sources, statistics)

"""`gemsbench data`: raw files in, prepared tables out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, RecipeName, results_folder
from gemsbench.errors import CheckError

if TYPE_CHECKING:
    from gemsbench.data.corpus import Corpus
    from gemsbench.data.recipe import Recipe
    from gemsbench.profile import Profile

SourceName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe or corpus of the profile.")]

app = typer.Typer(help="Fetch, prepare, check and describe a recipe.", no_args_is_help=True)


@dataclass(frozen=True)
class Chosen:
    """A recipe as a profile uses it."""

    profile: Profile
    recipe: Recipe
    settings: Any

    @property
    def prepared(self) -> Path:
        """Where its prepared tables belong."""
        return results_folder(self.profile.profile) / "prepared" / self.recipe.name


def choose(config: Path, name: str) -> Chosen:
    """Look a recipe up in the profile; raises InputError with the nearest name."""
    from gemsbench.profile import load_profile

    profile = load_profile(config)
    return Chosen(profile, *_recipe(profile, config, name))


def _recipe(profile: Profile, config: Path, name: str) -> tuple[Recipe, Any]:
    from gemsbench.config import load_settings
    from gemsbench.registry import RECIPES, lookup, resolve

    values = lookup(profile.recipes, name, f"recipe of {config}")
    recipe = resolve(RECIPES[name])
    return recipe, load_settings(recipe.settings, values, f"{config}: recipes.{name}")


def corpus_of(profile: Profile, config: Path, name: str) -> tuple[Corpus, Any]:
    """A corpus of a profile and its settings; raises InputError naming a wrong setting."""
    from gemsbench.config import load_settings
    from gemsbench.profile import corpora
    from gemsbench.registry import CORPORA, resolve

    corpus = resolve(CORPORA[name])
    return corpus, load_settings(corpus.settings, corpora(profile)[name].settings, f"{config}: settings of {name}")


@app.command()
def fetch(recipe: SourceName, config: Config = DEFAULT_CONFIG, quiet: Quiet = False) -> None:
    """Put the raw files of a recipe or corpus in place: download, mirror or DVC remote, each checked; or simulate."""
    from gemsbench.profile import corpora, load_profile
    from gemsbench.registry import lookup

    profile = load_profile(config)
    lookup(dict.fromkeys((*profile.recipes, *corpora(profile))), recipe, f"recipe or corpus of {config}")
    fetch_source(profile, config, recipe, quiet=quiet)


def fetch_unless_current(profile: Profile, config: Path, name: str, *, quiet: bool) -> None:
    """Fetch a recipe or corpus unless its files lie there as the present settings, code and pins make them.

    Files of other settings would be read without a word, and the reader's record would name the present ones.
    """
    from gemsbench.pipeline.data_jobs import fetch_job
    from gemsbench.pipeline.state import judge

    job = fetch_job(profile, name)
    if job is not None and judge(job)[0] != "current":
        fetch_source(profile, config, name, quiet=quiet)


def fetch_source(profile: Profile, config: Path, name: str, *, quiet: bool) -> None:
    """Put the raw files of a recipe or corpus of the profile in place and record where they come from."""
    from contextlib import nullcontext

    from gemsbench.data.fetch import fetch as fetch_files
    from gemsbench.pipeline.data_jobs import fetch_job
    from gemsbench.profile import corpora
    from gemsbench.provenance import recording

    source, settings = corpus_of(profile, config, name) if name in corpora(profile) else _recipe(profile, config, name)
    job = fetch_job(profile, name)  # None for the user's own files
    with recording(job.folder, job, config) if job else nullcontext():
        folder = fetch_files(source, settings, profile.data_seed, Path(), quiet=quiet)
    if not quiet:
        typer.echo(f"{name}: raw files in {folder}")


@app.command()
def prepare(recipe: RecipeName, config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Make the canonical tables, splits, cases and candidates of a recipe, and check them."""
    from gemsbench.pipeline.data_jobs import prepare_job
    from gemsbench.protocol.prepare import prepare as prepare_tables
    from gemsbench.provenance import recording

    chosen = choose(config, recipe)
    folder = out or chosen.prepared
    job = prepare_job(chosen.profile, recipe)
    with recording(folder, job, config):
        prepare_tables(
            chosen.recipe,
            chosen.settings,
            job.raw_folder,
            folder,
            seed=chosen.profile.data_seed,
            history_length=chosen.profile.history_length,
        )
    if not quiet:
        typer.echo(f"{recipe}: prepared tables in {folder}")


@app.command()
def validate(recipe: RecipeName, config: Config = DEFAULT_CONFIG, out: Out = None) -> None:
    """Check every invariant of a prepared recipe; exit code 3 when one does not hold."""
    from gemsbench.protocol.validate import validate as find_violations

    chosen = choose(config, recipe)
    folder = out or chosen.prepared
    violations = find_violations(folder, chosen.recipe, chosen.profile.data_seed)
    for violation in violations:
        typer.echo(f"{violation.invariant}: {violation.message}\n{violation.rows}", err=True)
    if violations:
        raise CheckError(f"{folder}: {len(violations)} invariants do not hold (listed above).")
    typer.echo(f"{folder}: every invariant holds.")


@app.command()
def stats(recipe: RecipeName, config: Config = DEFAULT_CONFIG, out: Out = None) -> None:
    """Print the statistics of a prepared recipe: counts, densities, funnel, leak rate."""
    from tabulate import tabulate

    from gemsbench.files import read_json

    chosen = choose(config, recipe)
    rows = _flat(read_json((out or chosen.prepared) / "stats.json"))
    typer.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested statistics as lines: counts with thousands separators, shares with four digits."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}: ")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.4g}"
        else:
            yield f"{prefix}{key}", f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


@app.command()
def export(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", help="Folder of the pack.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Write a protocol pack: items, histories, cases, candidates; labels in their own file; version and checksums."""
    from gemsbench.protocol import export_pack, load_pack

    export_pack(load_pack(choose(config, recipe).prepared), out)
    typer.echo(f"{recipe}: pack in {out}. Read it with gemsbench.protocol.load_pack('{out}').")

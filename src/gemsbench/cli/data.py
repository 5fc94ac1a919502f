"""`gemsbench data`: raw files in, prepared tables out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, RecipeName, results_folder
from gemsbench.errors import CheckError, InputError

if TYPE_CHECKING:
    from gemsbench.data.corpus import Corpus
    from gemsbench.data.recipe import Recipe
    from gemsbench.profile import Profile

SourceName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, a corpus or a source of the profile.")]

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

    _named(profile.recipes, name, config)
    values = lookup(profile.recipes, name, f"recipe of {config}")
    recipe = resolve(RECIPES[name])
    return recipe, load_settings(recipe.settings, values, f"{config}: recipes.{name}")


def _named(known: Iterable[str], name: str, config: Path) -> None:
    """Raise InputError with the line to add when a registered recipe is not among the known names."""
    from gemsbench.registry import RECIPES

    if name in RECIPES and name not in known:
        raise InputError(
            f"{config} does not name recipe '{name}': name a profile that does (config/paper.yaml has the large ones) "
            f"with --config, or add `{name}: {{}}` under recipes of {config}."
        )


def corpus_of(profile: Profile, config: Path, name: str) -> tuple[Corpus, Any]:
    """A corpus of a profile and its settings; raises InputError naming a wrong setting."""
    from gemsbench.config import load_settings
    from gemsbench.profile import corpora
    from gemsbench.registry import CORPORA, resolve

    corpus = resolve(CORPORA[name])
    return corpus, load_settings(corpus.settings, corpora(profile)[name].settings, f"{config}: settings of {name}")


@app.command()
def fetch(recipe: SourceName, config: Config = DEFAULT_CONFIG, quiet: Quiet = False) -> None:
    """Put the raw files of a recipe, corpus or source in place: download, mirror or DVC, each checked; or simulate."""
    from gemsbench.profile import corpora, load_profile
    from gemsbench.registry import lookup

    profile = load_profile(config)
    sources = _sources(profile)
    known = dict.fromkeys((*profile.recipes, *corpora(profile), *sources))
    _named(known, recipe, config)
    lookup(known, recipe, f"recipe, corpus or source of {config}")
    if recipe in sources:
        download_source(recipe, quiet=quiet)
    else:
        fetch_files(profile, config, recipe, quiet=quiet)


def fetch_unless_current(profile: Profile, config: Path, name: str, *, quiet: bool) -> None:
    """Fetch a recipe or corpus unless its files lie there as the present settings, code and pins make them.

    Files of other settings would be read without a word, and the reader's record would name the present ones.
    """
    from gemsbench.pipeline.data_jobs import fetch_jobs
    from gemsbench.pipeline.state import judge

    if any(judge(job)[0] != "current" for job in fetch_jobs(profile, name)):
        fetch_files(profile, config, name, quiet=quiet)


def fetch_files(profile: Profile, config: Path, name: str, *, quiet: bool) -> None:
    """Put the raw files of a recipe or corpus of the profile in place and record where they come from."""
    from gemsbench.data.made_files import make_files
    from gemsbench.pipeline.data_jobs import fetch_jobs
    from gemsbench.profile import corpora
    from gemsbench.provenance import recording

    made_from, settings = (
        corpus_of(profile, config, name) if name in corpora(profile) else _recipe(profile, config, name)
    )
    for job in fetch_jobs(profile, name):
        if not job.provenance:
            download_source(job.name, quiet=quiet)
            continue
        with recording(job.folder, job, config):
            folder = make_files(made_from, settings, profile.data_seed, Path())
        if not quiet:
            typer.echo(f"{name}: raw files in {folder}")


def download_source(name: str, *, quiet: bool) -> None:
    """Put the files of a source in place."""
    from gemsbench.data.fetch import fetch_source
    from gemsbench.data.sources import SOURCES

    folder = fetch_source(SOURCES[name], Path(), quiet=quiet)
    if not quiet:
        typer.echo(f"{name}: raw files in {folder}")


def _sources(profile: Profile) -> tuple[str, ...]:
    """Names of the sources that the profile's recipes and corpora read."""
    from gemsbench.pipeline.data_jobs import fetch_jobs
    from gemsbench.profile import corpora

    jobs = (job for name in (*profile.recipes, *corpora(profile)) for job in fetch_jobs(profile, name))
    return tuple(dict.fromkeys(job.name for job in jobs if not job.provenance))


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
def stats(
    recipe: RecipeName,
    config: Config = DEFAULT_CONFIG,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Print the statistics of a prepared recipe: sizes beside Table 4, funnel, leaks, texts, tokens, chance."""
    from gemsbench.cli.dataset_pages import statistics_page

    chosen = choose(config, recipe)
    results = results_folder(chosen.profile.profile)
    page = statistics_page(chosen.profile, config, chosen.recipe, out or chosen.prepared, results, as_json=json)
    typer.echo(page, nl=False)


@app.command()
def card(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Any registered recipe.")],
    config: Config = DEFAULT_CONFIG,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: print.")] = None,
) -> None:
    """Print the card of a recipe in Markdown: what it is, how it is cut, terms, flaws; measured numbers if prepared.

    Without a profile at the default place the card has no measured numbers.
    """
    from gemsbench.cli.dataset_pages import card_page
    from gemsbench.files import write_text
    from gemsbench.profile import load_profile

    prepared = None
    if config != DEFAULT_CONFIG or config.is_file():
        prepared = results_folder(load_profile(config).profile) / "prepared" / recipe
    page = card_page(recipe, prepared, config)
    if out is None:
        typer.echo(page, nl=False)
        return
    write_text(out, page)
    typer.echo(f"{recipe}: card in {out}")


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

"""The jobs that make the data of a profile: raw files of recipes and corpora, and the canonical tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.config import load_settings, settings_dict
from gemsbench.data.corpus import Corpus
from gemsbench.data.dvc_pins import read_pin
from gemsbench.data.hub_listing import FETCHED, LISTING, listing_of
from gemsbench.data.recipe import Recipe
from gemsbench.data.schema import TABLES
from gemsbench.data.source import RawFile
from gemsbench.data.sources import SOURCES
from gemsbench.errors import InputError
from gemsbench.pipeline.job import MD5, Job, content_hash
from gemsbench.profile import Profile, corpora
from gemsbench.protocol.case_rules import check_length
from gemsbench.protocol.pack import EXPORTED, MANIFEST, STATS

RESULTS = Path("results")
PREPARE_CODE = "gemsbench.protocol.prepare:prepare"


def results_folder(profile: Profile) -> Path:
    """results/<profile>, below the folder where the command runs."""
    return RESULTS / profile.profile


def fetch_jobs(profile: Profile, name: str) -> tuple[Job, ...]:
    """Raw files of a recipe or corpus: simulated, sampled, or of its sources; none for the user's own files.

    Several recipes may read one source: its job is the same for all.
    """
    target = _source_target(name)
    made_from: Recipe | Corpus = registry.resolve(target)
    if made_from.simulate is not None:
        folder = Path("data/simulated") / name
        outputs = {file: folder / file for file in made_from.simulated_files}
        settings = source_settings(profile, name)
        return (Job("fetch", name, folder, settings, outputs=outputs, code=(target,)),)
    if isinstance(made_from, Corpus) and made_from.sample is not None:
        folder = Path("data/sampled") / name
        outputs = {file: folder / file for file in made_from.sampled_files}
        # No code: revision and seed decide the sample, and an edit here must not download gigabytes again.
        return (Job("fetch", name, folder, source_settings(profile, name), outputs=outputs),)
    return tuple(source_job(source) for source in made_from.sources)


def source_job(name: str) -> Job:
    """The files of a source, data/raw/<source>; of a hub's dataset the note that all files of its listing have come.

    The listing names them with their hashes, so it stands for their content. Raises InputError for a listing that is
    not of the source.
    """
    source = SOURCES[name]
    folder = Path("data/raw") / name
    names = [file.name for file in source.files] + ([FETCHED] if source.hub else [])
    pins = {file.name: pin for file in source.files if (pin := _pin(folder, file))}
    noted = {LISTING: 0} if source.hub else {}
    if source.hub and (folder / LISTING).is_file():
        pins[FETCHED] = content_hash(folder / LISTING)
        noted |= {file.name: file.size for file in listing_of(name, source.hub, folder, None).files}
    outputs = {file: folder / file for file in names}
    return Job("fetch", name, folder, outputs=outputs, provenance="", pins=pins, noted=noted)


def _pin(folder: Path, file: RawFile) -> str:
    """The published hash of a raw file, sha256 before md5, else the one recorded in its .dvc file; "" unknown."""
    recorded = None if file.sha256 or file.md5 else read_pin(folder / file.name)
    md5 = file.md5 or (recorded.md5 if recorded else "")
    return file.sha256 or (MD5 + md5 if md5 else "")


def prepare_job(profile: Profile, recipe_name: str, out: Path | None = None) -> Job:
    """Canonical tables, splits, cases and candidates of a recipe.

    The profile's history_length is none of the settings of a released recipe, whose code has its own. Raises InputError
    when it is too short for the recipe's cases.
    """
    recipe: Recipe = registry.resolve(registry.RECIPES[recipe_name])
    check_length(recipe.cases, profile.history_length, recipe_name)  # before gigabytes are fetched
    folder = out or results_folder(profile) / "prepared" / recipe_name
    raw = fetch_jobs(profile, recipe_name)
    settings = source_settings(profile, recipe_name)
    inputs = {file: path for job in raw for file, path in job.outputs.items()} or _own_files(settings)
    return Job(
        rule="prepare",
        name=recipe_name,
        folder=folder,
        settings=settings if recipe.released else {**settings, "history_length": profile.history_length},
        inputs=inputs,
        outputs={**{name: folder / f"{name}.parquet" for name in TABLES}, "stats": folder / STATS},
        code=(PREPARE_CODE, registry.RECIPES[recipe_name]),
        pins={file: pin for job in raw for file, pin in job.pins.items()},
        replaceable=tuple(file for job in raw if job.provenance for file in job.outputs),
    )


def pack_files(folder: Path) -> dict[str, Path]:
    """What is read of a prepared folder or of an exported pack."""
    exported = (folder / MANIFEST).is_file()
    tables = {name: folder / f"{name}.parquet" for name in (EXPORTED if exported else TABLES)}
    return {**tables, "manifest": folder / (MANIFEST if exported else STATS)}


def corpus_job(profile: Profile, name: str, purpose: str) -> Job:
    """The fetch job of a corpus of the profile; raises InputError when there is none for the purpose."""
    jobs = fetch_jobs(profile, name) if name else ()
    if not jobs:
        raise InputError(
            f"profile '{profile.profile}': {purpose}, and no corpus is named. Add "
            f"`corpus: {{name: {next(iter(registry.CORPORA))}}}`."
        )
    return jobs[0]


def _source_target(name: str) -> str:
    return registry.CORPORA[name] if name in registry.CORPORA else registry.RECIPES[name]


def source_settings(profile: Profile, name: str) -> dict[str, Any]:
    """What decides the text or tables of a corpus or recipe of the profile, as JSON values."""
    corpus = name in registry.CORPORA
    where = f"profile '{profile.profile}', {'corpus' if corpus else 'recipe'} '{name}'"
    source: Recipe | Corpus = registry.resolve(_source_target(name))
    settings: Any = load_settings(
        source.settings, corpora(profile)[name].settings if corpus else profile.recipes[name], where
    )
    key = "corpus" if corpus else "recipe"
    made_by = {"target": registry.CORPORA[name]} if corpus else {}
    return {key: name, **made_by, "settings": settings_dict(settings), "data_seed": profile.data_seed}


def _own_files(settings: Mapping[str, Any]) -> dict[str, Path]:
    """The user's own parquet files, in the folder that the settings of the recipe name; queries are optional."""
    folder = Path(settings["settings"]["folder"])
    required = (folder / "interactions.parquet", folder / "items.parquet")
    optional = (path for path in (folder / "queries.parquet",) if path.is_file())
    return {path.name: path for path in (*required, *optional)}

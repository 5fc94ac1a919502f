"""The jobs that make item vectors and identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.config import settings_dict
from gemsbench.data.schema import TABLES
from gemsbench.errors import InputError
from gemsbench.identifiers.index_file import item2id_beside
from gemsbench.pipeline.data_jobs import results_folder
from gemsbench.pipeline.job import LOCK, TORCH, Job
from gemsbench.profile import Profile, SchemeSettings, encoders_in_use, identifiers_in_use, scheme_entry

ENCODE_CODE = "gemsbench.encoders.making:make_vectors"
IDENTIFY_CODE = "gemsbench.identifiers.making:make_identifiers"
LIBRARIES = {"requirements": LOCK, "torch": TORCH}


def encoder_job(profile: Profile, recipe: str, name: str, out: Path | None = None) -> Job:
    """The vectors that an encoder gives the items of a recipe; raises InputError for a name that there is not."""
    target = registry.lookup(registry.ENCODERS, name, "encoder")
    registry.lookup(profile.recipes, recipe, "recipe of the profile")
    folder = out or results_folder(profile) / "encoders" / recipe / name
    return Job(
        rule="encoder",
        name=f"{recipe}/{name}",
        folder=folder,
        settings={
            "encoder": name,
            "target": target,
            "recipe": recipe,
            "config": dict(profile.encoders.get(name, {})),
            "data_seed": profile.data_seed,
        },
        inputs={**_tables(profile, recipe, *TABLES), **_own_model(profile.encoders.get(name, {})), **LIBRARIES},
        outputs={name: folder / name for name in ("vectors.safetensors", "log.jsonl", "stats.json")},
        code=(ENCODE_CODE, target),
    )


def identifiers_job(profile: Profile, recipe: str, scheme: str, out: Path | None = None) -> Job:
    """The identifiers of a recipe under a scheme of the profile; raises InputError for a name that there is not."""
    entry = scheme_entry(profile, scheme)
    if entry is None:
        raise InputError("no scheme is named. Name one, e.g. atomic.")
    registry.lookup(profile.recipes, recipe, "recipe of the profile")
    settings = settings_dict(profile.identifiers.get(scheme, SchemeSettings()))
    folder = out or results_folder(profile) / "identifiers" / recipe / scheme
    vectors = {
        f"vectors/{name}": encoder_job(profile, recipe, name).outputs["vectors.safetensors"] for name in entry.encoders
    }
    own = {f"files/{field}": path for field, path in _own_files(settings["config"], entry.files).items()}
    return Job(
        rule="identifiers",
        name=f"{recipe}/{scheme}",
        folder=folder,
        settings={
            "scheme": scheme,
            "target": entry.target,
            "recipe": recipe,
            "config": settings["config"],
            "data_seed": profile.data_seed,
        },
        inputs={**_tables(profile, recipe, "items"), **vectors, **own, **LIBRARIES},
        outputs={name: folder / name for name in ("codes.parquet", "codes.json", "log.jsonl", "stats.json")},
        code=(IDENTIFY_CODE, entry.target),
    )


def _tables(profile: Profile, recipe: str, *names: str) -> dict[str, Path]:
    """Tables of a prepared recipe, without its description: how answers are judged changes nothing here."""
    return {name: results_folder(profile) / "prepared" / recipe / f"{name}.parquet" for name in names}


def _own_model(config: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a model of the user's, in the folder that the settings of an encoder name."""
    folder = Path(str(config.get("folder") or ""))
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if config.get("folder") else []
    return {f"folder/{path.relative_to(folder).as_posix()}": path for path in files}


def _own_files(config: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Path]:
    """The user's files that settings name, and a file of item numbers that lies beside an index without being named."""
    named = {field: Path(str(config[field])) for field in fields if config.get(field)}
    if "index" in named and (beside := item2id_beside(named["index"])).is_file():
        named.setdefault("item2id", beside)
    return named


def encoder_jobs(profile: Profile) -> list[Job]:
    """Those of the vectors that some identifiers are made from."""
    return [encoder_job(profile, recipe, name) for recipe, name in encoders_in_use(profile)]


def identifiers_jobs(profile: Profile) -> list[Job]:
    """Those of the identifiers that some run writes."""
    return [identifiers_job(profile, recipe, scheme) for recipe, scheme in identifiers_in_use(profile)]

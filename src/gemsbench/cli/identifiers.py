"""`gemsbench encoder` and `gemsbench ids`: item vectors, and the identifiers that are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemsbench.cli.backbones import require_made
from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, RecipeName
from gemsbench.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors
    from gemsbench.profile import Profile

EncoderName = Annotated[str, typer.Argument(metavar="NAME", help="A registered encoder, e.g. item-text.")]
SchemeName = Annotated[
    str, typer.Argument(metavar="SCHEME", help="A registered scheme or a key of the profile's identifiers, e.g. rqvae.")
]
Export = Annotated[
    Path | None,
    typer.Option("--export", help="Folder for the codes as RECIPE.index.json, with RECIPE.item2id beside it."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(encoder)
    app.command()(ids)


def encoder(
    name: EncoderName, recipe: RecipeName, config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False
) -> None:
    """Give every item of a recipe a vector: from its text, from interactions, or from both."""
    from gemsbench.pipeline.data_jobs import results_folder
    from gemsbench.pipeline.identifier_jobs import encoder_job
    from gemsbench.profile import load_profile
    from gemsbench.progress import quietly
    from gemsbench.protocol.pack import load_pack
    from gemsbench.provenance import recording

    profile = load_profile(config)
    job = encoder_job(profile, recipe, name)
    folder = out or job.folder
    pack = load_pack(results_folder(profile) / "prepared" / recipe)
    with quietly(quiet), recording(folder, job, config) as notes:
        from gemsbench.encoders.making import make_vectors

        where = f"{config}: encoders.{name}"
        stats = make_vectors(name, job.settings["config"], pack.training_data(), profile.data_seed, folder, where)
        notes["stats"] = stats
    if not quiet:
        typer.echo(f"{name} on {recipe}: vectors of {stats['known']} of {stats['n_items']} items in {folder}")
        typer.echo(_shown(stats))


def ids(
    scheme: SchemeName,
    recipe: RecipeName,
    config: Config = DEFAULT_CONFIG,
    out: Out = None,
    export: Export = None,
    quiet: Quiet = False,
) -> None:
    """Give every item of a recipe an identifier of its own under a scheme."""
    from gemsbench.identifiers.codes import load_codes
    from gemsbench.identifiers.index_file import write_index
    from gemsbench.pipeline.data_jobs import results_folder
    from gemsbench.pipeline.identifier_jobs import identifiers_job
    from gemsbench.profile import load_profile
    from gemsbench.progress import quietly
    from gemsbench.protocol.pack import load_pack
    from gemsbench.provenance import recording

    profile = load_profile(config)
    job = identifiers_job(profile, recipe, scheme)
    folder = out or job.folder
    items = load_pack(results_folder(profile) / "prepared" / recipe).items
    vectors = _vectors(profile, config, recipe, scheme, items)
    with quietly(quiet), recording(folder, job, config) as notes:
        from gemsbench.identifiers.making import make_identifiers

        where = f"{config}: identifiers.{scheme}.config"
        target, values = job.settings["target"], job.settings["config"]
        stats = make_identifiers(target, values, items, vectors, profile.data_seed, folder, where)
        notes["stats"] = stats
    written = write_index(load_codes(folder), items, export, recipe) if export is not None else ()
    if not quiet:
        typer.echo(f"{scheme} on {recipe}: identifiers of {items.height} items in {folder}")
        typer.echo(_shown(stats))
        if written:
            typer.echo(f"exported to {', '.join(map(str, written))}")


def _vectors(profile: Profile, config: Path, recipe: str, scheme: str, items: pl.DataFrame) -> dict[str, ItemVectors]:
    """The item vectors that a scheme reads; raises InputError while they are missing or out of date."""
    from gemsbench.identifiers.vectors import load_vectors
    from gemsbench.pipeline.identifier_jobs import encoder_job
    from gemsbench.profile import scheme_entry

    entry = scheme_entry(profile, scheme)
    if entry is None:
        raise InputError("no scheme is named. Name one, e.g. atomic.")
    found = {}
    for name in entry.encoders:
        job = encoder_job(profile, recipe, name)
        require_made(job, f"vectors of {name}", f"gemsbench encoder {name} {recipe} --config {config}")
        found[name] = load_vectors(job.outputs["vectors.safetensors"], items)
    return found


def _shown(stats: Mapping[str, Any], indent: str = "  ") -> str:
    """Statistics as indented lines of text."""
    lines = []
    for key, value in stats.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", _shown(value, f"{indent}  ")] if value else []
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{indent}{key} {number}: {_line(entry)}" for number, entry in enumerate(value, start=1)]
        elif value is not None:
            lines.append(f"{indent}{key}: {', '.join(map(_number, value if isinstance(value, list) else [value]))}")
    return "\n".join(lines)


def _line(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in entry.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""`gemsbench train` and `gemsbench score`: one run of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemsbench.cli.backbones import made_backbone, require_made
from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, RecipeName, Seed, results_folder
from gemsbench.errors import InputError
from gemsbench.profile import NO_BACKBONE, Profile, Run, chosen_run, load_profile, scheme_name

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="A method key of the profile, e.g. ncf.")]
Basis = Annotated[
    Path | None, typer.Option("--basis", help="Knowledge basis of the backbone; default: the profile's own.")
]
Backbone = Annotated[str, typer.Option("--backbone", help="Backbone of the run; none for methods without one.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(train)
    app.command()(score)


def train(
    method: MethodName,
    recipe: RecipeName,
    backbone: Backbone = NO_BACKBONE,
    seed: Seed = 1,
    basis: Basis = None,
    config: Config = DEFAULT_CONFIG,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Fit a method on the training split and score the test candidates; resumes where it was stopped."""
    from gemsbench.files import read_json
    from gemsbench.methods.run import DIAGNOSTICS, MODEL, build_method, fit_and_score
    from gemsbench.pipeline.jobs import train_job
    from gemsbench.provenance import declared_threads, recording

    profile = load_profile(config)
    run = chosen_run(profile, Run(recipe, backbone, method, seed))
    if basis is not None:
        _check_named_basis(profile, run, basis, config)
    results = results_folder(profile.profile)
    folder = out or run.folder(results)
    weights = None if run.backbone == NO_BACKBONE else made_backbone(profile, run.backbone, config)
    known = _made_basis(profile, run, config) if basis is None else basis
    codes = _made_identifiers(profile, run, config)
    job = train_job(profile, run, basis=basis)
    with recording(folder, job, config) as notes:
        notes["threads"] = declared_threads(build_method(method, profile)[1])
        pack = results / "prepared" / recipe
        made = {"backbone": weights, "identifiers": codes, "basis": known}
        fit_and_score(method, profile, run, pack, folder, **made, quiet=quiet)
        diagnostics = folder / MODEL / DIAGNOSTICS
        if diagnostics.is_file():
            notes["diagnostics"] = read_json(diagnostics)
    if not quiet:
        typer.echo(f"{method} on {recipe}: scores in {folder / 'scores.parquet'}")


def _made_identifiers(profile: Profile, run: Run, config: Path) -> Path | None:
    """The folder of the identifiers that a run writes, None where it writes none; raises InputError while missing."""
    from gemsbench.pipeline.identifier_jobs import identifiers_job

    scheme = scheme_name(profile, run.method)
    if not scheme:
        return None
    job = identifiers_job(profile, run.recipe, scheme)
    require_made(job, f"identifiers '{scheme}'", f"gemsbench ids {scheme} {run.recipe} --config {config}")
    return job.folder


def _made_basis(profile: Profile, run: Run, config: Path) -> Path | None:
    """The knowledge basis that a run needs, None where it needs none; raises InputError while it is not there."""
    from gemsbench.pipeline.backbone_jobs import BASIS, basis_job
    from gemsbench.pipeline.tuner_settings import basis_side

    side = basis_side(profile, run)
    if side is None:
        return None
    job = basis_job(profile, run.backbone, side)
    require_made(job, "knowledge basis", _basis_command(run, side, config))
    return job.outputs[BASIS]


def _check_named_basis(profile: Profile, run: Run, basis: Path, config: Path) -> None:
    """Raise InputError for --basis with a run that would not read it, or without a file behind it."""
    from gemsbench.pipeline.tuner_settings import basis_side

    side = basis_side(profile, run)
    if side is None:
        raise InputError(
            f"--basis {basis}: {run.method} with backbone '{run.backbone}' uses no knowledge basis. Leave the option "
            "out, or choose a method whose tuner is gems with null_space on."
        )
    if not basis.is_file():
        found = "a folder, not a file" if basis.is_dir() else "no such file"
        raise InputError(
            f"--basis {basis}: {found}. Name the .safetensors file that `{_basis_command(run, side, config)}` writes, "
            "or leave the option out."
        )


def _basis_command(run: Run, side: str, config: Path) -> str:
    option = "" if side == "input" else f" --side {side}"
    return f"gemsbench basis {run.backbone}{option} --config {config}"


def score(
    method: MethodName,
    recipe: RecipeName,
    data: Annotated[Path, typer.Option("--data", help="Prepared folder or exported pack to score.")],
    out: Annotated[Path, typer.Option("--out", help="Score file to write.")],
    backbone: Backbone = NO_BACKBONE,
    seed: Seed = 1,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Score candidates again with the saved model of a finished run."""
    from gemsbench.methods.run import rescore

    profile = load_profile(config)
    run = chosen_run(profile, Run(recipe, backbone, method, seed))
    model = run.folder(results_folder(profile.profile)) / "model"
    rescore(method, profile, run, data, model, out)
    typer.echo(f"{method} on {recipe}: scores in {out}")

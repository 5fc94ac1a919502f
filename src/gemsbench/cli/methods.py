"""`gemsbench train` and `gemsbench score`: one run of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, RecipeName, Seed, results_folder
from gemsbench.errors import InputError
from gemsbench.profile import NO_BACKBONE, Profile, Run, chosen_run, load_profile

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="A method key of the profile, e.g. ncf.")]
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
    results = results_folder(profile.profile)
    folder = out or run.folder(results)
    weights = None if run.backbone == NO_BACKBONE else _made_backbone(profile, run.backbone, config)
    with recording(folder, train_job(profile, run), config) as notes:
        notes["threads"] = declared_threads(build_method(method, profile)[1])
        pack = results / "prepared" / recipe
        fit_and_score(method, profile, run, pack, folder, backbone=weights, quiet=quiet)
        diagnostics = folder / MODEL / DIAGNOSTICS
        if diagnostics.is_file():
            notes["diagnostics"] = read_json(diagnostics)
    if not quiet:
        typer.echo(f"{method} on {recipe}: scores in {folder / 'scores.parquet'}")


def _made_backbone(profile: Profile, name: str, config: Path) -> Path:
    """The folder of a backbone of the profile; raises InputError while a file of it is missing or out of date."""
    from gemsbench.pipeline.jobs import backbone_job
    from gemsbench.pipeline.state import judge

    job = backbone_job(profile, name)
    absent = next((path for path in job.outputs.values() if not path.is_file()), None)
    if absent is not None:
        raise InputError(
            f"{absent}: missing, so there is no backbone to tune. Make it first: "
            f"`gemsbench backbone {name} --config {config}`."
        )
    verdict, reason = judge(job)
    if verdict != "current":
        raise InputError(
            f"{job.folder}: not the backbone of the present settings, inputs and code ({reason}). Make it again: "
            f"`gemsbench backbone {name} --config {config}`."
        )
    return job.folder


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

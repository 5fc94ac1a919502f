"""`gemsbench basis`: what a backbone knows, as directions that the tuner gems keeps out of."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gemsbench.cli.backbones import made_backbone
from gemsbench.cli.data import corpus_of, fetch_unless_current
from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet

BackboneName = Annotated[str, typer.Argument(metavar="BACKBONE", help="A backbone of the profile, e.g. t5-mini.")]
Side = Annotated[
    Literal["input", "output"], typer.Option("--side", help="input: of what layers read; output: of what they give.")
]


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command()(basis)


def basis(
    name: BackboneName, side: Side = "input", config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False
) -> None:
    """Collect the knowledge basis of a backbone on the profile's text, in one pass."""
    from gemsbench.config import load_settings
    from gemsbench.pipeline.backbone_jobs import BASIS, basis_job
    from gemsbench.profile import load_profile
    from gemsbench.progress import quietly
    from gemsbench.provenance import recording
    from gemsbench.training.basis_settings import BasisSettings

    profile = load_profile(config)
    job = basis_job(profile, name, side)
    corpus_name = profile.knowledge.corpus.name or profile.corpus.name
    fetch_unless_current(profile, config, corpus_name, quiet=quiet)
    weights = made_backbone(profile, name, config)
    folder = out or job.folder
    path = folder / job.outputs[BASIS].name
    with quietly(quiet), recording(folder, job, config) as notes:
        from gemsbench.training.knowledge import make_basis

        settings = load_settings(BasisSettings, profile.knowledge.settings, f"{config}: knowledge.settings")
        corpus, corpus_settings = corpus_of(profile, config, corpus_name)
        texts = corpus.load(job.raw_folder, corpus_settings)
        known = make_basis(
            weights, texts, settings, path, profile.data_seed, side=side, about={"corpus": job.settings["corpus"]}
        )
        notes |= {"threads": settings.threads, "hash": known.hash, "about": dict(known.about)}
    if not quiet:
        typer.echo(f"{known.summary()}\n{job.name}: knowledge basis in {path}")

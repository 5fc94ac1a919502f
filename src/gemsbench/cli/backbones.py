"""`gemsbench backbone`: a language model that methods tune, pre-trained on the spot or downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemsbench.cli.data import corpus_of, fetch_unless_current
from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet
from gemsbench.errors import InputError

if TYPE_CHECKING:
    from gemsbench.pipeline.job import Job
    from gemsbench.profile import Profile

BackboneName = Annotated[str, typer.Argument(metavar="NAME", help="A registered backbone, e.g. t5-mini.")]


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command()(backbone)


def backbone(name: BackboneName, config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Make a backbone: pre-train a stand-in on the profile's corpus, or download a pinned revision."""
    from gemsbench.config import load_settings
    from gemsbench.pipeline.backbone_jobs import backbone_job
    from gemsbench.profile import load_profile
    from gemsbench.progress import quietly
    from gemsbench.provenance import declared_threads, recording
    from gemsbench.registry import BACKBONES, resolve

    profile = load_profile(config)
    job = backbone_job(profile, name)
    if job.inputs:  # a hub model reads no text
        fetch_unless_current(profile, config, profile.corpus.name, quiet=quiet)
    folder = out or job.folder
    with quietly(quiet), recording(folder, job, config) as notes:
        from gemsbench.training.pretraining import make_backbone

        spec = resolve(BACKBONES[name].target)
        settings = load_settings(spec.settings, profile.backbones.get(name, {}), f"{config}: backbones.{name}")
        notes["threads"] = declared_threads(settings)
        with _corpus_text(profile, config, job) as text:
            make_backbone(spec, settings, text, folder, profile.data_seed)
    if not quiet:
        typer.echo(f"{name}: backbone in {folder}")


def made_backbone(profile: Profile, name: str, config: Path) -> Path:
    """The folder of a backbone of the profile; raises InputError while a file of it is missing or out of date."""
    from gemsbench.pipeline.backbone_jobs import backbone_job

    job = backbone_job(profile, name)
    require_made(job, f"backbone {name}", f"gemsbench backbone {name} --config {config}")
    return job.folder


def require_made(job: Job, what: str, command: str) -> None:
    """Raise InputError unless the outputs of a job are there and of the present settings, inputs and code."""
    from gemsbench.pipeline.state import judge

    absent = next((path for path in job.outputs.values() if not path.is_file()), None)
    if absent is not None:
        raise InputError(f"{absent}: missing ({what}). Make it first: `{command}`.")
    verdict, reason = judge(job)
    if verdict != "current":
        raise InputError(
            f"{job.folder}: {what} of other settings, inputs or code than the present ones ({reason}). Make it again: "
            f"`{command}`."
        )


@contextmanager
def _corpus_text(profile: Profile, config: Path, job: Job) -> Iterator[Path | None]:
    """The text of the profile's corpus in a temporary file; None for a hub model, which needs none."""
    from gemsbench.backbones.corpus import text_file

    if not job.inputs:
        yield None
        return
    corpus, settings = corpus_of(profile, config, profile.corpus.name)
    with text_file(corpus.load(job.raw_folder, settings)) as path:
        yield path

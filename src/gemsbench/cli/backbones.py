"""`gemsbench backbone`: a language model that methods tune, pre-trained on the spot or downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet

if TYPE_CHECKING:
    from gemsbench.pipeline.job import Job
    from gemsbench.profile import Profile

BackboneName = Annotated[str, typer.Argument(metavar="NAME", help="A backbone of the profile's blocks, e.g. t5-mini.")]


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command()(backbone)


def backbone(name: BackboneName, config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Make a backbone of the profile: pre-train a stand-in on the profile's corpus, or download a pinned revision."""
    from gemsbench.config import load_settings
    from gemsbench.pipeline.jobs import backbone_job
    from gemsbench.profile import load_profile
    from gemsbench.progress import quietly
    from gemsbench.provenance import recording
    from gemsbench.registry import BACKBONES, lookup, resolve

    profile = load_profile(config)
    lookup(dict.fromkeys(profile.tables.blocks.values()), name, f"backbone (not among the table blocks) of {config}")
    job = backbone_job(profile, name)
    folder = out or job.folder
    with quietly(quiet), recording(folder, job):
        from gemsbench.training.pretraining import make_backbone

        spec = resolve(BACKBONES[name].target)
        settings = load_settings(spec.settings, profile.backbones.get(name, {}), f"{config}: backbones.{name}")
        with _corpus_text(profile, job) as text:
            make_backbone(spec, settings, text, folder, profile.data_seed)
    if not quiet:
        typer.echo(f"{name}: backbone in {folder}")


@contextmanager
def _corpus_text(profile: Profile, job: Job) -> Iterator[Path | None]:
    """The documents of the profile's corpus in one temporary file, blank lines between them; None for a hub model."""
    from gemsbench.config import load_settings
    from gemsbench.registry import CORPORA, resolve

    if not job.inputs:
        yield None
        return
    corpus = resolve(CORPORA[profile.corpus.name])
    settings = load_settings(corpus.settings, profile.corpus.settings, f"profile '{profile.profile}': corpus.settings")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{corpus.name}.txt"
        path.write_text("\n\n".join(corpus.load(job.raw_folder, settings)), encoding="utf-8")
        yield path

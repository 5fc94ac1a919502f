"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option("--config", help="Profile, a YAML file of config/.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; default: the profile's own.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the run.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar, no closing message.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe of the profile, e.g. simulated-amazon.")]

DEFAULT_CONFIG = Path("config/mini.yaml")


def results_folder(profile_name: str) -> Path:
    """results/<profile>, below the folder where the command runs."""
    return Path("results") / profile_name

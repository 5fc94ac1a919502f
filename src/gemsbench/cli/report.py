"""`gemsbench tables` and `gemsbench figures`: from metrics to LaTeX, Markdown, HTML and JSON; from logs to pictures."""

from __future__ import annotations

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, results_folder


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(tables)
    app.command()(figures)


def tables(config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Write Tables 1, 2, 4 and the appendix table of a profile from its evaluated runs."""
    from gemsbench.pipeline.jobs import tables_job
    from gemsbench.profile import load_profile
    from gemsbench.provenance import recording
    from gemsbench.report.tables import write_tables

    profile = load_profile(config)
    results = results_folder(profile.profile)
    folder = out or results / "tables"
    with recording(folder, tables_job(profile), config):
        write_tables(profile, results, folder)
    if not quiet:
        typer.echo(f"tables in {folder} (open {folder / 'index.html'})")


def figures(config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Draw the training curves of every run and pre-trained backbone of a profile."""
    from gemsbench.pipeline.jobs import figures_job
    from gemsbench.profile import load_profile
    from gemsbench.provenance import recording
    from gemsbench.report.training_curves import write_figures

    profile = load_profile(config)
    results = results_folder(profile.profile)
    folder = out or results / "figures"
    with recording(folder, figures_job(profile), config):
        write_figures(profile, results, folder)
    if not quiet:
        typer.echo(f"figures in {folder}")

"""`gemsbench tables`: from metrics to LaTeX, Markdown, HTML and JSON."""

from __future__ import annotations

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Out, Quiet, results_folder


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command()(tables)


def tables(config: Config = DEFAULT_CONFIG, out: Out = None, quiet: Quiet = False) -> None:
    """Write Tables 1, 2, 4 and the appendix table of a profile from its evaluated runs."""
    from gemsbench.pipeline.jobs import tables_job
    from gemsbench.profile import load_profile
    from gemsbench.provenance import recording
    from gemsbench.report.tables import write_tables

    profile = load_profile(config)
    results = results_folder(profile.profile)
    folder = out or results / "tables"
    with recording(folder, tables_job(profile)):
        write_tables(profile, results, folder)
    if not quiet:
        typer.echo(f"tables in {folder} (open {folder / 'index.html'})")

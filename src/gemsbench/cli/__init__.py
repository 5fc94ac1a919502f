"""The `gemsbench` command: thin verbs over the library, one file per group."""

from __future__ import annotations

import sys

import typer

from gemsbench.cli import data, evaluation, later, methods, report, workflow
from gemsbench.errors import GemsbenchError

app = typer.Typer(
    name="gemsbench",
    help="Benchmark of unified search and recommendation with language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(evaluation.trec, name="trec")
for group in (methods, evaluation, report, workflow, later):
    group.register(app)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from gemsbench import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: errors made on purpose end in one message and their exit code, never in a traceback."""
    try:
        app(standalone_mode=True)
    except GemsbenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on.", err=True)
        sys.exit(130)

"""The `gemsbench` command: thin verbs over the library, one file per group."""

from __future__ import annotations

import sys

import typer

from gemsbench.cli import backbones, bases, data, evaluation, identifiers, later, methods, report, workflow
from gemsbench.errors import GemsbenchError

INTERRUPTED = 130  # what the shell expects after Ctrl-C

app = typer.Typer(
    name="gemsbench",
    help="Benchmark of unified search and recommendation with language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(evaluation.trec, name="trec")
for group in (backbones, bases, identifiers, methods, evaluation, report, workflow, later):
    group.register(app)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from gemsbench import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: expected failures end in one message and their exit code, never in a traceback."""
    try:
        sys.exit(app(standalone_mode=True))
    except GemsbenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(
            f"error: {error.filename}: {error.strerror}. Name another path, or change its permissions.", err=True
        )
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.echo("interrupted; run the same command again to go on.", err=True)
        raise

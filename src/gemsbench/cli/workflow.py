"""`gemsbench plan`, `sync` and `prune`: what would run, what is still valid, what is left over."""

from __future__ import annotations

from typing import Annotated

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Quiet

SHOWN = 5  # reasons that sync prints


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(plan)
    app.command()(sync)
    app.command()(prune)


def plan(
    config: Config = DEFAULT_CONFIG,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="Cores; default: all of this machine.")] = None,
    why: Annotated[bool, typer.Option("--why", help="List the jobs that would run and the reason of each.")] = False,
) -> None:
    """Print jobs, time and memory per rule, and how many jobs would run; runs nothing."""
    from tabulate import tabulate

    from gemsbench.pipeline.plan import HEADERS
    from gemsbench.pipeline.plan import plan as make_plan
    from gemsbench.pipeline.resources import RESOURCES
    from gemsbench.profile import load_profile

    made = make_plan(load_profile(config), cores)
    rows = [rule.row() for rule in made.rules]
    alignment = ("left", *["right"] * (len(HEADERS) - 2), "left")
    typer.echo(tabulate(rows, HEADERS, tablefmt="simple", colalign=alignment, disable_numparse=True))
    to_run = sum(rule.to_run for rule in made.rules)
    if to_run:
        about = "at most about" if made.unmeasured else "about"
        typer.echo(f"\n{to_run} jobs to run, {about} {made.seconds / 60:.1f} min on {made.cores} cores.")
        if made.unmeasured:
            typer.echo(f"Upper limits of {RESOURCES}, as no earlier run is there: {', '.join(made.unmeasured)}.")
        if made.guessed:
            typer.echo(f"Guesses among them, never measured anywhere: {', '.join(made.guessed)}.")
    else:
        typer.echo("\nNothing to run: every result is that of the present settings, inputs and code.")
    if why:
        typer.echo("".join(f"{job}: {reason}\n" for job, reason in made.reasons), nl=False)


def sync(config: Config = DEFAULT_CONFIG, quiet: Quiet = False) -> None:
    """Compare results with the present settings, inputs and code, so that snakemake reruns what differs and no more."""
    from gemsbench.pipeline.sync import sync as synchronise
    from gemsbench.profile import load_profile

    done = synchronise(load_profile(config), config)
    if not quiet:
        typer.echo(
            f"sync: {len(done.kept)} jobs in order, {len(done.stamped)} stamped as current, "
            f"{len(done.stale)} out of date, {len(done.missing)} not there yet"
        )
        for state in done.stale[:SHOWN]:
            typer.echo(f"  out of date: {state.job.rule} {state.job.name} ({state.reason})")
        if len(done.stale) > SHOWN:
            typer.echo("  ... `gemsbench plan --why` lists all")


def prune(
    config: Config = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the files; without it they are only listed.")] = False,
    quiet: Quiet = False,
) -> None:
    """List the files below results/<profile> that the profile does not produce; --yes removes them."""
    from gemsbench.pipeline import prune as pruning
    from gemsbench.profile import load_profile

    profile = load_profile(config)
    paths = pruning.prune(profile) if yes else pruning.unclaimed(profile)
    if not quiet:
        typer.echo("".join(f"{path}\n" for path in paths), nl=False)
        ending = "removed." if yes else "not produced by this profile; --yes removes them." if paths else "to remove."
        typer.echo(f"{len(paths)} files {ending}")

"""`gemsbench evaluate`, `compare`, `show` and `trec`: everything that starts from scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gemsbench.cli.options import DEFAULT_CONFIG, Config, Quiet, results_folder

if TYPE_CHECKING:
    from gemsbench.evaluation import Comparison
    from gemsbench.profile import Profile

trec = typer.Typer(help="Exchange runs with trec_eval, ranx, ir-measures and PyTerrier.", no_args_is_help=True)

ScoreFile = Annotated[Path, typer.Argument(metavar="SCORES", help="A score file, scores.parquet.")]
RunPaths = Annotated[str, typer.Argument(help="A score file or run folder; several seeds separated by commas.")]
Data = Annotated[Path, typer.Option("--data", help="Prepared folder or exported pack.")]
File = Annotated[Path, typer.Option("--out", help="File to write.")]
Task = Annotated[str | None, typer.Option("--task", help="rec or src; default: both.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(evaluate)
    app.command()(compare)
    app.command()(show)


def evaluate(
    scores: ScoreFile,
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: beside the scores.")] = None,
    quiet: Quiet = False,
) -> None:
    """Turn a score file into metrics.json and one rank per case."""
    from gemsbench.evaluation import evaluate as evaluate_scores
    from gemsbench.evaluation import write_evaluation
    from gemsbench.pipeline.jobs import evaluate_job
    from gemsbench.provenance import recording

    folder = out or scores.parent
    with recording(folder, evaluate_job(scores, data, folder)):
        evaluation = evaluate_scores(scores, data)
        write_evaluation(evaluation, folder)
    if not quiet:
        from tabulate import tabulate

        rows = [{"task": task, **values} for task, values in evaluation.metrics.items()]
        typer.echo(tabulate(rows, headers="keys", floatfmt=".4f"))


def compare(
    a: RunPaths,
    b: RunPaths,
    data: Annotated[Path | None, typer.Option("--data", help="Needed for score files that were not evaluated.")] = None,
) -> None:
    """Compare two runs case by case: difference, paired two-sided t-test, effect size, wins, ties and losses."""
    from gemsbench.evaluation import compare as compare_runs

    first, second = ([Path(part) for part in text.split(",")] for text in (a, b))
    typer.echo(_comparison_text(compare_runs(first, second, data)))


def _comparison_text(comparison: Comparison) -> str:
    from tabulate import tabulate

    names = [(comparison.name_a, comparison.runs_a), (comparison.name_b, comparison.runs_b)]
    a, b = (f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in names)
    return f"a: {a}   b: {b}\n{tabulate(comparison.records(), headers='keys', floatfmt='.4g')}"


def show(
    case: Annotated[int, typer.Argument(metavar="CASE", help="A case_id.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe of the case; default: the profile's first.")] = "",
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Print one case: history with titles, query, candidates, and where each method ranks the answer."""
    from gemsbench.profile import load_profile
    from gemsbench.protocol.pack import load_pack
    from gemsbench.registry import lookup
    from gemsbench.report.case_view import case_view

    profile = load_profile(config)
    name = recipe or next(iter(profile.recipes))
    lookup(profile.recipes, name, f"recipe of {config}")
    pack = load_pack(results_folder(profile.profile) / "prepared" / name)
    typer.echo(case_view(pack, _finished_runs(profile, name), case))


def _finished_runs(profile: Profile, recipe: str) -> dict[str, Path]:
    """The score files of the profile's first seed that exist, by method (and backbone)."""
    from gemsbench.profile import NO_BACKBONE, runs

    found: dict[str, Path] = {}
    for run in runs(profile):
        path = run.folder(results_folder(profile.profile)) / "scores.parquet"
        name = run.method if run.backbone == NO_BACKBONE else f"{run.method} ({run.backbone})"
        if run.recipe == recipe and name not in found and path.is_file():
            found[name] = path
    return found


@trec.command("export")
def export(scores: ScoreFile, data: Data, out: File, task: Task = None) -> None:
    """Write a score file as a TREC run, and the positives as <out>.qrels; name a task, or tools average over both."""
    from gemsbench.evaluation.trec import export_qrels, export_run

    qrels = out.with_name(out.name + ".qrels")
    export_run(out, scores, data, task=task)
    export_qrels(qrels, data, task=task)
    typer.echo(f"run in {out}, qrels in {qrels}")


@trec.command("import")
def import_(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run: qid = case_id, docno = item_id.")],
    data: Data,
    out: File,
    missing: Annotated[Literal["error", "-inf"], typer.Option("--missing", help="Unranked candidates.")] = "error",
) -> None:
    """Turn a TREC run into a score file."""
    from gemsbench.evaluation.trec import import_run

    import_run(run, data, out, missing=missing)
    typer.echo(f"scores in {out}")

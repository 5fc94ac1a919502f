"""The jobs of a profile as data: what each one reads, writes and runs.

One description serves four readers: the Snakefile (settings files, inputs, source files), the command line
(provenance), `sync` and `plan` (is a result still that of the present code and settings?) and `prune` (what belongs
here). Data, backbones and identifiers have their own files; here stand the runs, what is made of them, and the order
of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.backbones.catalogue import LOG
from gemsbench.config import settings_dict
from gemsbench.pipeline.backbone_jobs import (
    BASIS,
    backbone_job,
    backbone_jobs,
    basis_job,
    basis_jobs,
    is_pretrained,
    weights_of,
)
from gemsbench.pipeline.data_jobs import RESULTS, fetch_jobs, pack_files, prepare_job, results_folder
from gemsbench.pipeline.identifier_jobs import encoder_jobs, identifiers_job, identifiers_jobs
from gemsbench.pipeline.job import LOCK, TORCH, Job
from gemsbench.pipeline.tuner_settings import basis_side
from gemsbench.profile import NO_BACKBONE, Profile, Run, method_entry, runs, scheme_name, tuner_name
from gemsbench.report.training_curves import FIGURE_FILES

PUBLISHED = RESULTS / "published"
TABLE_FILES = (
    *(
        f"{table}.{suffix}"
        for table in ("table1", "table2", "table4", "sanity", "identifiers")
        for suffix in ("tex", "md", "html", "json")
    ),
    "index.html",
)

# Where the work of each verb starts; targets that the registry names (of a recipe, method, tuner ...) come on top.
TRAIN_CODE = "gemsbench.methods.run:fit_and_score"
EVALUATE_CODE = "gemsbench.evaluation.evaluation:evaluate"
TABLES_CODE = "gemsbench.report.tables:write_tables"
FIGURES_CODE = "gemsbench.report.training_curves:write_figures"


def train_job(profile: Profile, run: Run, out: Path | None = None, *, basis: Path | None = None) -> Job:
    """Fit a method on a prepared recipe and score its test candidates.

    A run with a backbone knows what decides the backbone and its knowledge basis, so that it is judged rightly where
    these are missing. basis: a file in the place of the profile's own basis.
    """
    folder = out or run.folder(results_folder(profile))
    entry = method_entry(profile, run.method)
    backbone = None if run.backbone == NO_BACKBONE else backbone_job(profile, run.backbone)
    tuner = tuner_name(profile, run.method, registry.BACKBONES[run.backbone].kind) if backbone else ""
    side = basis_side(profile, run)
    known = basis_job(profile, run.backbone, side) if side else None
    scheme = scheme_name(profile, run.method)
    made = {**(weights_of(backbone) if backbone else {}), **(known.outputs if known else {})}
    tuned: dict[str, Any] = {}
    if backbone:
        tuned = {"backbone_made_with": dict(backbone.settings), "tuner": tuner, "tuner_target": registry.TUNERS[tuner]}
    if known:
        tuned |= {"basis_made_with": dict(known.settings)}
    return Job(
        rule="train",
        name=_run_name(run),
        folder=folder,
        settings={**_run_settings(profile, run), **tuned, **({"scheme": scheme} if scheme else {})},
        inputs={
            **pack_files(results_folder(profile) / "prepared" / run.recipe),
            **(_codes(profile, run.recipe, scheme) if scheme else {}),
            **made,
            **({BASIS: basis} if basis else {}),
            "requirements": LOCK,
            "torch": TORCH,
        },
        outputs={"scores": folder / "scores.parquet", "log": folder / "log.jsonl"},
        unversioned={"model": folder / "model"},
        code=(
            TRAIN_CODE,
            entry.target,
            *((registry.TUNERS[tuner], *backbone.code) if backbone else ()),
            *(known.code if known else ()),
        ),
        replaceable=tuple(made),
        makers=tuple(job for job in (backbone, known) if job),
    )


def _run_settings(profile: Profile, run: Run) -> dict[str, Any]:
    entry = method_entry(profile, run.method)
    return {
        "profile": profile.profile,  # stands in the header of the scores
        "target": entry.target,
        "tasks": list(entry.tasks),
        "config": dict(profile.methods[run.method].config),
        "recipe": run.recipe,
        "backbone": run.backbone,
        "method": run.method,
        "seed": run.seed,
    }


def _codes(profile: Profile, recipe: str, scheme: str) -> dict[str, Path]:
    """What of a scheme's folder is read by the runs that write its identifiers."""
    made = identifiers_job(profile, recipe, scheme).outputs
    return {f"identifiers/{name}": made[name] for name in ("codes.parquet", "codes.json")}


def evaluate_job(scores: Path, prepared: Path, out: Path) -> Job:
    """Metrics and ranks of one score file; named after the last four folders that hold it."""
    return Job(
        rule="evaluate",
        name="/".join(scores.parent.parts[-4:]),
        folder=out,
        inputs={"scores": scores, **pack_files(prepared)},
        outputs={"metrics": out / "metrics.json", "ranks": out / "ranks.parquet"},
        code=(EVALUATE_CODE,),
        provenance="metrics.provenance.json",
    )


def tables_job(profile: Profile, out: Path | None = None) -> Job:
    """The tables of the paper, from every evaluated run of the profile."""
    results = results_folder(profile)
    folder = out or results / "tables"
    # No table reads the counts of data_stages.csv, which `data stats` and the cards show.
    inputs = {f"published/{path.name}": path for path in sorted(PUBLISHED.glob("table*.csv"))}
    for recipe in profile.recipes:
        inputs[f"stats/{recipe}"] = results / "prepared" / recipe / "stats.json"
    for run in runs(profile):
        name = _run_name(run)
        inputs[f"metrics/{name}"] = run.folder(results) / "metrics.json"
        inputs[f"ranks/{name}"] = run.folder(results) / "ranks.parquet"
    for job in (*encoder_jobs(profile), *identifiers_jobs(profile)):
        inputs[f"{job.rule}/{job.name}"] = job.outputs["stats.json"]
    return Job(
        rule="tables",
        name="all",
        folder=folder,
        settings=settings_dict(profile),
        inputs=inputs,
        outputs={name: folder / name for name in TABLE_FILES},
        code=(TABLES_CODE, *(registry.RECIPES[recipe] for recipe in profile.recipes)),
    )


def figures_job(profile: Profile, out: Path | None = None) -> Job:
    """The training curves, from the logs of every run and of every pre-trained backbone of the profile."""
    results = results_folder(profile)
    folder = out or results / "figures"
    inputs = {f"log/{_run_name(run)}": run.folder(results) / "log.jsonl" for run in runs(profile)}
    inputs |= {f"log/backbones/{job.name}": job.outputs[LOG] for job in backbone_jobs(profile) if is_pretrained(job)}
    return Job(
        rule="figures",
        name="all",
        folder=folder,
        settings=settings_dict(profile),
        inputs=inputs,
        outputs={name: folder / name for name in FIGURE_FILES},
        # Captions say whose data the recipes are.
        code=(FIGURES_CODE, *(registry.RECIPES[recipe] for recipe in profile.recipes)),
    )


def all_jobs(profile: Profile) -> Iterator[Job]:
    """Every job of a profile, each after the jobs whose outputs it reads."""
    results = results_folder(profile)
    backbones, bases = backbone_jobs(profile), basis_jobs(profile)
    read = dict.fromkeys(job.settings["corpus"]["corpus"] for job in (*backbones, *bases) if is_pretrained(job))
    fetched = (job for name in (*profile.recipes, *read) for job in fetch_jobs(profile, name))
    yield from {job.name: job for job in fetched}.values()
    yield from (prepare_job(profile, recipe) for recipe in profile.recipes)
    yield from backbones
    yield from bases
    yield from encoder_jobs(profile)
    yield from identifiers_jobs(profile)
    for run in runs(profile):
        yield train_job(profile, run)
    for run in runs(profile):
        folder = run.folder(results)
        yield evaluate_job(folder / "scores.parquet", results / "prepared" / run.recipe, folder)
    yield tables_job(profile)
    yield figures_job(profile)


def _run_name(run: Run) -> str:
    return f"{run.recipe}/{run.backbone}/{run.method}/{run.seed}"

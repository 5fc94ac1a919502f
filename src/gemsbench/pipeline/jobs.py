"""The jobs of a profile as data: what each one reads, writes and runs.

One description serves four readers: the Snakefile (settings files, inputs, source files), the command line
(provenance), `sync` and `plan` (is a result still that of the present code and settings?) and `prune` (what belongs
here).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.backbones.catalogue import LOG, RECORD, BackboneSpec
from gemsbench.config import load_settings, settings_dict
from gemsbench.data.corpus import Corpus
from gemsbench.data.recipe import Recipe
from gemsbench.data.schema import TABLES
from gemsbench.errors import InputError
from gemsbench.pipeline.job import Job
from gemsbench.pipeline.tuner_settings import Side, basis_side
from gemsbench.profile import NO_BACKBONE, Profile, Run, backbones_in_use, corpora, method_entry, runs, tuner_name
from gemsbench.protocol.pack import EXPORTED, MANIFEST, STATS
from gemsbench.provenance import FILE_NAME
from gemsbench.report.training_curves import FIGURE_FILES
from gemsbench.training.basis_settings import BasisSettings

RESULTS = Path("results")
PUBLISHED = RESULTS / "published"
TABLE_FILES = (
    *(
        f"{table}.{suffix}"
        for table in ("table1", "table2", "table4", "sanity")
        for suffix in ("tex", "md", "html", "json")
    ),
    "index.html",
)
BASIS = "basis"  # among the inputs of a run and the outputs of a basis job
LOCK = Path("envs/requirements.lock")
TORCH = Path("envs/torch.txt")  # the one package that the lock leaves out

# Where the work of each verb starts; targets that the registry names (of a recipe, method, tuner ...) come on top.
PREPARE_CODE = "gemsbench.protocol.prepare:prepare"
PRETRAIN_CODE = "gemsbench.training.pretraining:make_backbone"
BASIS_CODE = "gemsbench.training.knowledge:make_basis"
TRAIN_CODE = "gemsbench.methods.run:fit_and_score"
EVALUATE_CODE = "gemsbench.evaluation.evaluation:evaluate"
TABLES_CODE = "gemsbench.report.tables:write_tables"
FIGURES_CODE = "gemsbench.report.training_curves:write_figures"


def results_folder(profile: Profile) -> Path:
    """results/<profile>, below the folder where the command runs."""
    return RESULTS / profile.profile


def fetch_job(profile: Profile, name: str) -> Job | None:
    """Raw files of a recipe or corpus: simulated, sampled, or downloaded by hash; None for the user's own files."""
    target = _source_target(name)
    source: Recipe | Corpus = registry.resolve(target)
    if source.simulate is not None:
        folder = Path("data/simulated") / name
        return Job(
            rule="fetch",
            name=name,
            folder=folder,
            settings=_source_settings(profile, name),
            outputs={file: folder / file for file in source.simulated_files},
            code=(target,),
        )
    if isinstance(source, Corpus) and source.sample is not None:
        folder = Path("data/sampled") / name
        outputs = {file: folder / file for file in source.sampled_files}
        # No code: revision and seed decide the sample, and an edit here must not download gigabytes again.
        return Job("fetch", name, folder, _source_settings(profile, name), outputs=outputs)
    if source.raw_files:
        folder = Path("data/raw") / name
        outputs = {file.name: folder / file.name for file in source.raw_files}
        pins = {file.name: file.sha256 for file in source.raw_files}
        return Job(rule="fetch", name=name, folder=folder, outputs=outputs, provenance="", pins=pins)
    return None


def prepare_job(profile: Profile, recipe_name: str, out: Path | None = None) -> Job:
    """Canonical tables, splits, cases and candidates of a recipe."""
    folder = out or results_folder(profile) / "prepared" / recipe_name
    raw = fetch_job(profile, recipe_name)
    settings = _source_settings(profile, recipe_name)
    inputs = dict(raw.outputs) if raw else _own_files(settings)
    return Job(
        rule="prepare",
        name=recipe_name,
        folder=folder,
        settings={**settings, "history_length": profile.history_length},
        inputs=inputs,
        outputs={**{name: folder / f"{name}.parquet" for name in TABLES}, "stats": folder / STATS},
        code=(PREPARE_CODE, registry.RECIPES[recipe_name]),
        pins=raw.pins if raw else {},
        replaceable=tuple(inputs) if raw and raw.provenance else (),
    )


def backbone_job(profile: Profile, name: str, out: Path | None = None) -> Job:
    """A backbone: a stand-in, pre-trained on the profile's corpus, or one downloaded at its pinned revision.

    Raises InputError for a stand-in without a corpus, or with a setting that it does not have.
    """
    folder = out or results_folder(profile) / "backbones" / name
    target = registry.lookup(registry.BACKBONES, name, "backbone").target
    spec: BackboneSpec = registry.resolve(target)
    outputs = {file: folder / file for file in spec.files}
    where = f"profile '{profile.profile}', backbones: {name}"
    values: Any = load_settings(spec.settings, profile.backbones.get(name, {}), where)
    settings = {"backbone": name, "target": target, "settings": settings_dict(values)}
    if spec.repository:
        # No code: the revision decides the files, and an edit here must not download gigabytes again.
        pinned = {"repository": spec.repository, "revision": spec.revision, "files": list(spec.files)}
        return Job("backbone", name, folder, {**settings, **pinned}, outputs=outputs)
    raw = _corpus_job(profile, profile.corpus.name, f"{name} is pre-trained on plain text")
    corpus = {f"corpus/{file}": path for file, path in raw.outputs.items()}
    return Job(
        rule="backbone",
        name=name,
        folder=folder,
        settings={
            **settings,
            "corpus": _source_settings(profile, profile.corpus.name),
            "data_seed": profile.data_seed,
        },
        inputs={**corpus, "requirements": LOCK, "torch": TORCH},
        outputs=outputs,
        code=(PRETRAIN_CODE, target, registry.CORPORA[profile.corpus.name]),
        pins={f"corpus/{file}": sha256 for file, sha256 in raw.pins.items()},
        replaceable=tuple(corpus) if raw.provenance else (),
    )


def basis_job(profile: Profile, name: str, side: Side = "input", out: Path | None = None) -> Job:
    """The knowledge basis of a backbone, collected on the text that the profile names.

    Raises InputError without a corpus, or for a setting that there is not.
    """
    backbone = backbone_job(profile, name)
    corpus = profile.knowledge.corpus.name or profile.corpus.name
    raw = _corpus_job(profile, corpus, f"the knowledge basis of {name} is collected on plain text")
    folder = out or results_folder(profile) / "basis"
    label = name if side == "input" else f"{name}-{side}"
    settings: Any = load_settings(
        BasisSettings, profile.knowledge.settings, f"profile '{profile.profile}', knowledge.settings"
    )
    texts = {f"corpus/{file}": path for file, path in raw.outputs.items()}
    weights = _weights(backbone)
    return Job(
        rule="basis",
        name=label,
        folder=folder,
        settings={
            "backbone": name,
            "backbone_made_with": dict(backbone.settings),
            "side": side,
            "settings": settings_dict(settings),
            "corpus": _source_settings(profile, corpus),
            "data_seed": profile.data_seed,
        },
        inputs={**texts, **weights, "requirements": LOCK, "torch": TORCH},
        outputs={BASIS: folder / f"{label}.safetensors"},
        code=(BASIS_CODE, registry.CORPORA[corpus], *backbone.code),
        provenance=f"{label}.{FILE_NAME}",
        pins={f"corpus/{file}": sha256 for file, sha256 in raw.pins.items()},
        replaceable=(*(texts if raw.provenance else ()), *weights),
        makers=(backbone,),
    )


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
    made = {**(_weights(backbone) if backbone else {}), **(known.outputs if known else {})}
    return Job(
        rule="train",
        name=_run_name(run),
        folder=folder,
        settings={
            "profile": profile.profile,  # stands in the header of the scores
            "target": entry.target,
            "tasks": list(entry.tasks),
            "config": dict(profile.methods[run.method].config),
            "recipe": run.recipe,
            "backbone": run.backbone,
            "method": run.method,
            "seed": run.seed,
            **({"backbone_made_with": dict(backbone.settings), "tuner": tuner} if backbone else {}),
            **({"tuner_target": registry.TUNERS[tuner]} if backbone else {}),
            **({"basis_made_with": dict(known.settings)} if known else {}),
        },
        inputs={
            **_pack(results_folder(profile) / "prepared" / run.recipe),
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


def evaluate_job(scores: Path, prepared: Path, out: Path) -> Job:
    """Metrics and ranks of one score file; named after the last four folders that hold it."""
    return Job(
        rule="evaluate",
        name="/".join(scores.parent.parts[-4:]),
        folder=out,
        inputs={"scores": scores, **_pack(prepared)},
        outputs={"metrics": out / "metrics.json", "ranks": out / "ranks.parquet"},
        code=(EVALUATE_CODE,),
        provenance="metrics.provenance.json",
    )


def tables_job(profile: Profile, out: Path | None = None) -> Job:
    """The tables of the paper, from every evaluated run of the profile."""
    results = results_folder(profile)
    folder = out or results / "tables"
    inputs = {f"published/{path.name}": path for path in sorted(PUBLISHED.glob("*.csv"))}
    for recipe in profile.recipes:
        inputs[f"stats/{recipe}"] = results / "prepared" / recipe / "stats.json"
    for run in runs(profile):
        name = _run_name(run)
        inputs[f"metrics/{name}"] = run.folder(results) / "metrics.json"
        inputs[f"ranks/{name}"] = run.folder(results) / "ranks.parquet"
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
    inputs |= {f"log/backbones/{job.name}": job.outputs[LOG] for job in _backbone_jobs(profile) if _pretrained(job)}
    return Job(
        rule="figures",
        name="all",
        folder=folder,
        settings=settings_dict(profile),
        inputs=inputs,
        outputs={name: folder / name for name in FIGURE_FILES},
        code=(FIGURES_CODE,),
    )


def all_jobs(profile: Profile) -> Iterator[Job]:
    """Every job of a profile, each after the jobs whose outputs it reads."""
    results = results_folder(profile)
    yield from (job for recipe in profile.recipes if (job := fetch_job(profile, recipe)) is not None)
    backbones, bases = _backbone_jobs(profile), _basis_jobs(profile)
    read = dict.fromkeys(job.settings["corpus"]["corpus"] for job in (*backbones, *bases) if _pretrained(job))
    yield from (job for corpus in read if (job := fetch_job(profile, corpus)) is not None)
    yield from (prepare_job(profile, recipe) for recipe in profile.recipes)
    yield from backbones
    yield from bases
    for run in runs(profile):
        yield train_job(profile, run)
    for run in runs(profile):
        folder = run.folder(results)
        yield evaluate_job(folder / "scores.parquet", results / "prepared" / run.recipe, folder)
    yield tables_job(profile)
    yield figures_job(profile)


def _pack(folder: Path) -> dict[str, Path]:
    exported = (folder / MANIFEST).is_file()
    tables = {name: folder / f"{name}.parquet" for name in (EXPORTED if exported else TABLES)}
    return {**tables, "manifest": folder / (MANIFEST if exported else STATS)}


def _run_name(run: Run) -> str:
    return f"{run.recipe}/{run.backbone}/{run.method}/{run.seed}"


def _backbone_jobs(profile: Profile) -> list[Job]:
    return [backbone_job(profile, name) for name in backbones_in_use(profile)]


def _basis_jobs(profile: Profile) -> list[Job]:
    needed = ((run.backbone, basis_side(profile, run)) for run in runs(profile))
    return [basis_job(profile, name, side) for name, side in dict.fromkeys(needed) if side]


def _weights(backbone: Job) -> dict[str, Path]:
    """What of a backbone is read by those that use it."""
    return {f"backbone/{file}": path for file, path in backbone.outputs.items() if file not in (RECORD, LOG)}


def _pretrained(job: Job) -> bool:
    return "corpus" in job.settings


def _corpus_job(profile: Profile, name: str, purpose: str) -> Job:
    """The fetch job of a corpus of the profile; raises InputError when there is none for the purpose."""
    job = fetch_job(profile, name) if name else None
    if job is None:
        raise InputError(
            f"profile '{profile.profile}': {purpose}, and no corpus is named. Add "
            f"`corpus: {{name: {next(iter(registry.CORPORA))}}}`."
        )
    return job


def _source_target(name: str) -> str:
    return registry.CORPORA[name] if name in registry.CORPORA else registry.RECIPES[name]


def _source_settings(profile: Profile, name: str) -> dict[str, Any]:
    corpus = name in registry.CORPORA
    where = f"profile '{profile.profile}', {'corpus' if corpus else 'recipe'} '{name}'"
    source: Recipe | Corpus = registry.resolve(_source_target(name))
    settings: Any = load_settings(
        source.settings, corpora(profile)[name].settings if corpus else profile.recipes[name], where
    )
    key = "corpus" if corpus else "recipe"
    made_by = {"target": registry.CORPORA[name]} if corpus else {}
    return {key: name, **made_by, "settings": settings_dict(settings), "data_seed": profile.data_seed}


def _own_files(settings: Mapping[str, Any]) -> dict[str, Path]:
    """The user's own parquet files, in the folder that the settings of the recipe name; queries are optional."""
    folder = Path(settings["settings"]["folder"])
    required = (folder / "interactions.parquet", folder / "items.parquet")
    optional = (path for path in (folder / "queries.parquet",) if path.is_file())
    return {path.name: path for path in (*required, *optional)}

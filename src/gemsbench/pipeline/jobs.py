"""The jobs of a profile as data: what each one reads, writes and runs.

One description serves four readers: the Snakefile (settings files, inputs, source files), the command line
(provenance), `sync` and `plan` (is a result still that of the present code and settings?) and `prune` (what belongs
here).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemsbench import provenance, registry
from gemsbench.config import load_settings, settings_dict
from gemsbench.data.recipe import Recipe
from gemsbench.data.schema import TABLES
from gemsbench.files import sha256_file
from gemsbench.profile import Profile, Run, method_entry, runs
from gemsbench.protocol.pack import EXPORTED, MANIFEST, STATS
from gemsbench.provenance import Identity
from gemsbench.source_code import source_files, source_sha256

RESULTS = Path("results")
RULES = ("fetch", "prepare", "train", "evaluate", "tables")
PUBLISHED = RESULTS / "published"
TABLE_FILES = (
    *(
        f"{table}.{suffix}"
        for table in ("table1", "table2", "table4", "sanity")
        for suffix in ("tex", "md", "html", "json")
    ),
    "index.html",
)
LOCK = Path("envs/requirements.lock")
TORCH = Path("envs/torch.txt")  # the one package that the lock leaves out

# Where the work of each verb starts; a recipe's or a method's own module comes on top.
PREPARE_CODE = "gemsbench.protocol.prepare:prepare"
TRAIN_CODE = "gemsbench.methods.run:fit_and_score"
EVALUATE_CODE = "gemsbench.evaluation.evaluate:evaluate"
TABLES_CODE = "gemsbench.report.tables:write_tables"


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    name: the wildcards of its rule, joined by "/". inputs: name -> path; outputs: name -> path, all below folder.
    unversioned: outputs that are neither hashed nor kept by DVC (models). provenance: file name in folder, "" for
    pinned downloads, whose hash is known beforehand (pins: file name -> sha256 of a file that need not be there).
    """

    rule: str
    name: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    unversioned: Mapping[str, Path] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    provenance: str = provenance.FILE_NAME
    pins: Mapping[str, str] = field(default_factory=dict)
    replaceable: bool = False  # the raw inputs are made by a fetch job of the same code and settings

    @property
    def raw_folder(self) -> Path:
        """Folder of the raw files that a prepare job reads."""
        return next(iter(self.inputs.values())).parent

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds among the settings."""
        return {name: value for name, value in self.settings.items() if name in ("seed", "data_seed")}

    @property
    def provenance_path(self) -> Path | None:
        """Where the provenance of this job's outputs lies; None for pinned downloads."""
        return self.folder / self.provenance if self.provenance else None

    @property
    def all_outputs(self) -> tuple[Path, ...]:
        """Every path that the rule declares, provenance and models included."""
        own = (self.provenance_path,) if self.provenance_path else ()
        return (*self.outputs.values(), *self.unversioned.values(), *own)

    def source_files(self) -> tuple[Path, ...]:
        """The source files whose edits concern this job."""
        return source_files(*self.code)

    def identity(self, known: Mapping[str, str] | None = None) -> Identity | None:
        """What decides the result, from present settings, input files and code; None while an input is missing.

        known: hashes to use for missing raw files of simulated recipes, which equal code and settings make again.
        """
        inputs: dict[str, str] = {}
        for name, path in self.inputs.items():
            if path.is_file():
                inputs[name] = sha256_file(path)
            elif name in self.pins:
                inputs[name] = self.pins[name]
            elif self.replaceable and known and name in known:
                inputs[name] = known[name]
            else:
                return None
        return Identity(self.rule, self.settings, inputs, source_sha256(*self.code))


def results_folder(profile: Profile) -> Path:
    """results/<profile>, below the folder where the command runs."""
    return RESULTS / profile.profile


def fetch_job(profile: Profile, recipe_name: str) -> Job | None:
    """Raw files of a recipe: simulated, or downloaded by pinned hash; None for the user's own files."""
    recipe: Recipe = registry.resolve(registry.RECIPES[recipe_name])
    if recipe.simulate is not None:
        folder = Path("data/simulated") / recipe_name
        return Job(
            rule="fetch",
            name=recipe_name,
            folder=folder,
            settings=_recipe_settings(profile, recipe),
            outputs={name: folder / name for name in recipe.simulated_files},
            code=(registry.RECIPES[recipe_name],),
        )
    if recipe.raw_files:
        folder = Path("data/raw") / recipe_name
        outputs = {file.name: folder / file.name for file in recipe.raw_files}
        pins = {file.name: file.sha256 for file in recipe.raw_files}
        return Job(rule="fetch", name=recipe_name, folder=folder, outputs=outputs, provenance="", pins=pins)
    return None


def prepare_job(profile: Profile, recipe_name: str, out: Path | None = None) -> Job:
    """Canonical tables, splits, cases and candidates of a recipe."""
    recipe: Recipe = registry.resolve(registry.RECIPES[recipe_name])
    folder = out or results_folder(profile) / "prepared" / recipe_name
    raw = fetch_job(profile, recipe_name)
    settings = _recipe_settings(profile, recipe)
    return Job(
        rule="prepare",
        name=recipe_name,
        folder=folder,
        settings={**settings, "history_length": profile.history_length},
        inputs=raw.outputs if raw else _own_files(settings),
        outputs={**{name: folder / f"{name}.parquet" for name in TABLES}, "stats": folder / STATS},
        code=(PREPARE_CODE, registry.RECIPES[recipe_name]),
        pins=raw.pins if raw else {},
        replaceable=recipe.simulate is not None,
    )


def train_job(profile: Profile, run: Run, out: Path | None = None) -> Job:
    """Fit a method on a prepared recipe and score its test candidates."""
    folder = out or run.folder(results_folder(profile))
    entry = method_entry(profile, run.method)
    return Job(
        rule="train",
        name=f"{run.recipe}/{run.backbone}/{run.method}/{run.seed}",
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
        },
        inputs={**_pack(results_folder(profile) / "prepared" / run.recipe), "requirements": LOCK, "torch": TORCH},
        outputs={"scores": folder / "scores.parquet", "log": folder / "log.jsonl"},
        unversioned={"model": folder / "model"},
        code=(TRAIN_CODE, entry.target),
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
        name = f"{run.recipe}/{run.backbone}/{run.method}/{run.seed}"
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


def all_jobs(profile: Profile) -> Iterator[Job]:
    """Every job of a profile, each after the jobs whose outputs it reads."""
    results = results_folder(profile)
    yield from (job for recipe in profile.recipes if (job := fetch_job(profile, recipe)) is not None)
    yield from (prepare_job(profile, recipe) for recipe in profile.recipes)
    for run in runs(profile):
        yield train_job(profile, run)
    for run in runs(profile):
        folder = run.folder(results)
        yield evaluate_job(folder / "scores.parquet", results / "prepared" / run.recipe, folder)
    yield tables_job(profile)


def _pack(folder: Path) -> dict[str, Path]:
    exported = (folder / MANIFEST).is_file()
    tables = {name: folder / f"{name}.parquet" for name in (EXPORTED if exported else TABLES)}
    return {**tables, "manifest": folder / (MANIFEST if exported else STATS)}


def _recipe_settings(profile: Profile, recipe: Recipe) -> dict[str, Any]:
    where = f"profile '{profile.profile}', recipe '{recipe.name}'"
    settings: Any = load_settings(recipe.settings, profile.recipes[recipe.name], where)
    return {"recipe": recipe.name, "settings": settings_dict(settings), "data_seed": profile.data_seed}


def _own_files(settings: Mapping[str, Any]) -> dict[str, Path]:
    """The user's own parquet files, in the folder that the settings of the recipe name; queries are optional."""
    folder = Path(settings["settings"]["folder"])
    required = (folder / "interactions.parquet", folder / "items.parquet")
    optional = (path for path in (folder / "queries.parquet",) if path.is_file())
    return {path.name: path for path in (*required, *optional)}

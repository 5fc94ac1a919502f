# What the rules share: the checked profile, its jobs, and the functions that look inputs up in them.
import mimetypes
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The source of this checkout, whichever one the environment was installed from.
SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))

from gemsbench.backbones.catalogue import LOG
from gemsbench.errors import GemsbenchError
from gemsbench.pipeline.environment import job_environment
from gemsbench.pipeline.backbone_jobs import BASIS
from gemsbench.pipeline.data_jobs import results_folder
from gemsbench.pipeline.job import MD5
from gemsbench.pipeline.jobs import all_jobs
from gemsbench.pipeline.resources import needs
from gemsbench.pipeline.settings_files import settings_path, write_settings
from gemsbench.pipeline.state import standing
from gemsbench.profile import load_profile

os.environ.update(job_environment(SOURCE))
mimetypes.add_type("text/plain", ".jsonl")  # the report shows training logs as text


def config_file():
    """The one YAML that the rules and the command line read, relative to the working directory where possible."""
    if workflow.config_settings.config:
        keys = ", ".join(workflow.config_settings.config)
        raise WorkflowError(
            f"--config {keys}=...: a profile is one file. Copy {workflow.configfiles[0]}, give it its own `profile:` name, "
            "change it there and pass it with --configfile."
        )
    if len(workflow.configfiles) > 1:
        raise WorkflowError(
            f"--configfile: one file is needed, not {len(workflow.configfiles)}; a profile is never merged."
        )
    path = Path(workflow.configfiles[0]).resolve()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def checked(path):
    """The profile behind a YAML file."""
    try:
        return load_profile(Path(path))
    except GemsbenchError as error:
        raise WorkflowError(str(error))


def jobs_by_rule(profile):
    """The jobs of the profile as rule -> name -> job; writes the settings files whose content changed."""
    try:
        jobs = list(all_jobs(profile))
        write_settings(results_folder(profile), jobs)
    except GemsbenchError as error:
        raise WorkflowError(str(error))
    found = {}
    for job in jobs:
        found.setdefault(job.rule, {})[job.name] = job
    return found


CONFIG = config_file()
os.environ["GEMSBENCH_CONFIG"] = CONFIG
PROFILE = checked(CONFIG)
JOBS = jobs_by_rule(PROFILE)
STANDING = standing((job for jobs in JOBS.values() for job in jobs.values()), results_folder(PROFILE))


def one_of(values):
    """A wildcard constraint: exactly these values."""
    return "|".join(re.escape(str(value)) for value in values)


def relative(paths):
    """Paths as Snakemake names them: relative to the working directory where they lie below it."""
    here = Path.cwd()
    return [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]


def outputs_of(rule_name):
    """Every versioned file that the jobs of a rule write."""
    return [
        str(path) for job in JOBS.get(rule_name, {}).values() for path in (*job.outputs.values(), job.provenance_path)
    ]


def backbone_records():
    """How each backbone was made; its weights are asked for by the runs that need them."""
    return [str(path) for job in JOBS.get("backbone", {}).values() for path in (job.outputs[LOG], job.provenance_path)]


def basis_records():
    """How each knowledge basis was made; the bases are asked for by the runs that need them."""
    return [str(job.provenance_path) for job in JOBS.get("basis", {}).values()]


def basis_option(wildcards):
    """The option that names the knowledge basis of a run; nothing where it reads none."""
    path = job_of("train", wildcards).inputs.get(BASIS)
    return f"--basis {path}" if path else ""


def code(rule_name):
    """An input function: the source files whose edits concern a job."""

    def source_files(wildcards):
        return relative(job_of(rule_name, wildcards).source_files())

    return source_files


def files(rule_name):
    """An input function: the data files that a job reads."""

    def input_files(wildcards):
        return data_files(job_of(rule_name, wildcards))

    return input_files


def data_files(job):
    """The data files that a job reads; a result that stands does not ask for those that can be made again."""
    stands = (job.rule, job.name) in STANDING
    return relative(path for name, path in job.inputs.items() if not (stands and name in job.replaceable))


def job_of(rule_name, wildcards):
    """The job behind the wildcards of a rule; a rule without wildcards has one job."""
    return JOBS[rule_name][os.path.join(*wildcards) if len(wildcards) else "all"]


def requested(rule_name):
    """Threads, memory, minutes and GPUs of a rule, from workflow/resources.yaml."""
    try:
        return needs(rule_name, config["profile"])
    except GemsbenchError as error:
        raise WorkflowError(str(error))


def settings_of(job):
    """The settings file of a job as an input, none for a download."""
    return [str(settings_path(results_folder(PROFILE), job))] if job.settings else []


def fetched_files(job):
    """Raw files as outputs: downloads are checked by hash where one is known, never removed before the job runs.

    `gemsbench data fetch` has compared them with every hash it knows; Snakemake again with the sha256.
    """
    if job.provenance:
        return [ensure(str(path), non_empty=True) for path in (*job.outputs.values(), job.provenance_path)]
    return [downloaded_file(path, job.pins.get(name, "")) for name, path in job.outputs.items()]


def downloaded_file(path, pin):
    known = pin and not pin.startswith(MD5)
    return ensure(update(str(path)), sha256=pin) if known else ensure(update(str(path)), non_empty=True)


def backbone_files(job):
    """Every file of a backbone as an output; its log and provenance are part of the report."""
    return [backbone_file(job, path) for path in job.all_outputs]


def backbone_file(job, path):
    output = ensure(str(path), non_empty=True)
    categories = {job.outputs[LOG]: "Training logs", job.provenance_path: "Provenance"}
    if path not in categories:
        return output
    labels = {"method": job.rule, "backbone": job.name, "seed": str(job.settings.get("data_seed", "none"))}
    return report(output, category=categories[path], subcategory="backbones", labels=labels)


def reported_tables():
    """Every table file as an output; what a browser shows is part of the report."""
    return [reported_table(path) for path in JOBS["tables"]["all"].outputs.values()]


def reported_table(path):
    output = ensure(str(path), non_empty=True)
    if path.suffix not in (".html", ".tex"):
        return output
    caption = "tables" if path.stem == "index" else path.stem
    return report(
        output,
        caption=f"../report/{caption}.rst",
        category="Tables",
        labels={"table": "all" if path.stem == "index" else path.stem, "format": path.suffix[1:]},
    )


def reported_figures():
    """Every figure as an output and a part of the report."""
    return [reported_figure(path) for path in JOBS["figures"]["all"].outputs.values()]


def reported_figure(path):
    output = ensure(str(path), non_empty=True)
    labels = {"figure": path.stem, "format": path.suffix[1:]}
    return report(output, caption="../report/figures.rst", category="Figures", labels=labels)

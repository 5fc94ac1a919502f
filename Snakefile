# The whole benchmark as one workflow: raw files -> prepared tables -> runs -> metrics -> tables.
#   snakemake --cores all                                        the mini profile
#   snakemake --cores all --configfile config/mini-real.yaml     another profile
# Rules hold no logic: each one calls a verb of the `gemsbench` command line.
from snakemake.utils import min_version, validate

min_version("9.27")


# Several config files are merged key by key, so that the default one must not be read beside the user's.
if not workflow.overwrite_configfiles:

    configfile: "config/mini.yaml"


include: "workflow/rules/common.smk"


envvars:
    "GEMSBENCH_CONFIG",


validate(config, "workflow/schemas/config.schema.yaml", set_default=False)


pathvars:
    results=f"results/{config['profile']}",
    benchmarks=f"results/{config['profile']}/benchmarks",
    logs=f"logs/{config['profile']}",


report: "workflow/report/workflow.rst"


# For `--software-deployment-method apptainer` only, with an image of your own at this path: none is published yet.
# Without that option jobs run in the environment that runs Snakemake.
container: "envs/gemsbench.sif"


include: "workflow/rules/data.smk"
include: "workflow/rules/backbones.smk"
include: "workflow/rules/knowledge.smk"
include: "workflow/rules/identifiers.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"


wildcard_constraints:
    recipe=one_of(config["recipes"]),
    method=one_of(config["methods"]),
    basis=one_of(JOBS.get("basis", {})),
    encoder=one_of(sorted({job.settings["encoder"] for job in JOBS.get("encoder", {}).values()})),
    scheme=one_of(sorted({job.settings["scheme"] for job in JOBS.get("identifiers", {}).values()})),
    backbone=one_of(["none", *config["tables"].get("blocks", {}).values()]),
    seed=one_of(config["seeds"]),


rule all:
    default_target: True
    input:
        outputs_of("prepare"),
        outputs_of("encoder"),
        outputs_of("identifiers"),
        outputs_of("train"),
        outputs_of("evaluate"),
        backbone_records(),
        basis_records(),
        outputs_of("tables"),
        outputs_of("figures"),
    message:
        "everything is there"


rule prepared:
    input:
        outputs_of("prepare"),
    message:
        "prepared tables are there"


rule scores:
    input:
        outputs_of("encoder"),
        outputs_of("identifiers"),
        outputs_of("train"),
        outputs_of("evaluate"),
        backbone_records(),
        basis_records(),
    message:
        "scores and metrics are there"

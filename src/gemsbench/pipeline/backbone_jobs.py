"""The jobs that make the backbones of a profile, and the knowledge bases of what these know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.backbones.catalogue import LOG, RECORD, BackboneSpec
from gemsbench.config import load_settings, settings_dict
from gemsbench.pipeline.data_jobs import corpus_job, results_folder, source_settings
from gemsbench.pipeline.job import LOCK, TORCH, Job
from gemsbench.pipeline.tuner_settings import Side, basis_side
from gemsbench.profile import Profile, backbones_in_use, runs
from gemsbench.provenance import FILE_NAME
from gemsbench.training.basis_settings import BasisSettings

BASIS = "basis"  # among the inputs of a run and the outputs of a basis job
PRETRAIN_CODE = "gemsbench.training.pretraining:make_backbone"
BASIS_CODE = "gemsbench.training.knowledge:make_basis"


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
    raw = corpus_job(profile, profile.corpus.name, f"{name} is pre-trained on plain text")
    corpus = {f"corpus/{file}": path for file, path in raw.outputs.items()}
    return Job(
        rule="backbone",
        name=name,
        folder=folder,
        settings={
            **settings,
            "corpus": source_settings(profile, profile.corpus.name),
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
    raw = corpus_job(profile, corpus, f"the knowledge basis of {name} is collected on plain text")
    folder = out or results_folder(profile) / "basis"
    label = name if side == "input" else f"{name}-{side}"
    settings: Any = load_settings(
        BasisSettings, profile.knowledge.settings, f"profile '{profile.profile}', knowledge.settings"
    )
    texts = {f"corpus/{file}": path for file, path in raw.outputs.items()}
    weights = weights_of(backbone)
    return Job(
        rule="basis",
        name=label,
        folder=folder,
        settings={
            "backbone": name,
            "backbone_made_with": dict(backbone.settings),
            "side": side,
            "settings": settings_dict(settings),
            "corpus": source_settings(profile, corpus),
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


def backbone_jobs(profile: Profile) -> list[Job]:
    """Those of the backbones that some run tunes."""
    return [backbone_job(profile, name) for name in backbones_in_use(profile)]


def basis_jobs(profile: Profile) -> list[Job]:
    """Those of the knowledge bases that some run's tuner needs."""
    needed = ((run.backbone, basis_side(profile, run)) for run in runs(profile))
    return [basis_job(profile, name, side) for name, side in dict.fromkeys(needed) if side]


def weights_of(backbone: Job) -> dict[str, Path]:
    """What of a backbone is read by those that use it."""
    return {f"backbone/{file}": path for file, path in backbone.outputs.items() if file not in (RECORD, LOG)}


def is_pretrained(job: Job) -> bool:
    """Whether the job of a backbone or basis reads plain text."""
    return "corpus" in job.settings

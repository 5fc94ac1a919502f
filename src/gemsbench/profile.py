"""A profile: one YAML in config/ that says which recipes, methods, backbones and seeds a run consists of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gemsbench import registry
from gemsbench.config import load_settings, read_yaml
from gemsbench.errors import InputError

TASKS = ("rec", "src")
NO_BACKBONE = "none"
BLOCKS = ("T5-base", "Qwen-3B")  # backbones of the paper, as Tables 1 and 2 name them
# What methods that tune a backbone may choose; their settings dataclasses cannot be read without torch.
TUNER_FIELDS = ("name", "config", "loop")  # under config.tuners.<kind>
INITIAL = ("pretrained", "random")  # config.initial
RESERVED = ("published", "leaderboard", "benchmarks")  # committed folders below results/


@dataclass(frozen=True)
class MethodSettings:
    """How a profile runs one method key; a variant is its own key."""

    base: str = ""  # registered method behind this key; "" means the key itself
    target: str = ""  # a method outside the package, package.module:Name
    tasks: tuple[str, ...] = ()  # () means all that the method answers
    recipes: tuple[str, ...] = ()  # () means all of the profile
    backbones: tuple[str, ...] = ()  # of a method that tunes one; () means all of the profile's table blocks
    seeds: tuple[int, ...] = ()  # of the profile's; () means all, a few where the time does not allow for more
    scheme: str = ""  # identifiers that it writes: a scheme or a key of `identifiers`; "" means the method's own
    config: Mapping[str, Any] = field(default_factory=dict)  # fields of the method's Config


@dataclass(frozen=True)
class CorpusSettings:
    """Plain text: what the stand-in backbones are pre-trained on; needed only where a method uses one."""

    name: str = ""  # registered corpus
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of the corpus's settings


@dataclass(frozen=True)
class KnowledgeSettings:
    """What the knowledge bases of backbones are collected on, and how; needed only where a tuner uses one."""

    corpus: CorpusSettings = CorpusSettings()  # without a name: the profile's
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of BasisSettings


@dataclass(frozen=True)
class SchemeSettings:
    """How a profile makes the identifiers called by this key; a variant is its own key."""

    base: str = ""  # registered scheme behind this key; "" means the key itself
    config: Mapping[str, Any] = field(default_factory=dict)  # fields of the scheme's Config


@dataclass(frozen=True)
class TableSettings:
    """What the tables show: printed column or block name -> recipe or backbone."""

    columns: Mapping[str, str]
    extra_columns: Mapping[str, str] = field(default_factory=dict)  # recipes shown beside the paper's columns
    blocks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """One YAML of config/, checked."""

    profile: str
    seeds: tuple[int, ...]
    history_length: int
    recipes: Mapping[str, Mapping[str, Any]]  # name -> fields of the recipe's settings
    methods: Mapping[str, MethodSettings]
    tables: TableSettings
    corpus: CorpusSettings = CorpusSettings()
    backbones: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # stand-in -> fields of its settings
    knowledge: KnowledgeSettings = KnowledgeSettings()
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # encoder -> fields of its Config
    identifiers: Mapping[str, SchemeSettings] = field(default_factory=dict)  # only those with settings of their own
    data_seed: int = 2026
    comparable_with_paper: bool = False  # False: every caption says that the numbers are not the paper's


@dataclass(frozen=True, order=True)
class Run:
    """One trained and scored method: results/<profile>/runs/<recipe>/<backbone>/<method>/<seed>/."""

    recipe: str
    backbone: str
    method: str
    seed: int

    def folder(self, results: Path) -> Path:
        """The folder of this run below results/<profile>."""
        return results / "runs" / self.recipe / self.backbone / self.method / str(self.seed)


def load_profile(path: Path) -> Profile:
    """Read and check a profile; raises InputError naming the wrong key and the nearest right one."""
    profile = load_settings(Profile, read_yaml(path), str(path))
    _check_values(profile, path)
    for recipe in profile.recipes:
        registry.lookup(registry.RECIPES, recipe, f"recipe in {path}")
    for encoder in profile.encoders:
        registry.lookup(registry.ENCODERS, encoder, f"encoder in {path}")
    for key in profile.identifiers:
        _check_scheme(profile, key, path)
    for key, settings in profile.methods.items():
        _check_method(profile, key, settings, path)
    shown = (*profile.tables.columns.values(), *profile.tables.extra_columns.values())
    for recipe in (*shown, *(r for m in profile.methods.values() for r in m.recipes)):
        registry.lookup(profile.recipes, recipe, f"recipe (not among the profile's recipes) in {path}")
    return profile


def _check_values(profile: Profile, path: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", profile.profile) or profile.profile in RESERVED:
        raise InputError(
            f"{path}: profile: '{profile.profile}' names the folder results/<profile>. Use lower-case letters, digits, "
            f"- and _, and none of {', '.join(RESERVED)}."
        )
    if not profile.seeds or len(set(profile.seeds)) != len(profile.seeds) or min(profile.seeds) < 0:
        raise InputError(f"{path}: seeds: name at least one, each once, none negative, e.g. seeds: [1].")
    if profile.history_length < 1:
        raise InputError(f"{path}: history_length: {profile.history_length} is below 1.")
    for name, value in (("recipes", profile.recipes), ("methods", profile.methods)):
        if not value:
            raise InputError(f"{path}: {name}: name at least one. config/mini.yaml shows how.")
    _check_backbones(profile, path)


def _check_backbones(profile: Profile, path: Path) -> None:
    for block, backbone in profile.tables.blocks.items():
        registry.lookup(dict.fromkeys(BLOCKS), block, f"table block in {path}")
        registry.lookup(registry.BACKBONES, backbone, f"backbone of tables.blocks.{block} in {path}")
    for backbone in profile.backbones:
        known = dict.fromkeys(profile.tables.blocks.values())
        registry.lookup(known, backbone, f"backbone (not among the profile's table blocks) in {path}")
    for corpus in corpora(profile).values():
        registry.lookup(registry.CORPORA, corpus.name, f"corpus in {path}")
    read = profile.knowledge.corpus
    if read.settings and read.name in ("", profile.corpus.name):
        raise InputError(
            f"{path}: knowledge.corpus.settings: the text is that of `corpus`, and there is one of each name. Set it "
            "there, or name another corpus here."
        )


def _check_scheme(profile: Profile, key: str, path: Path) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9+._-]*", key):
        raise InputError(f"{path}: identifiers: '{key}' names a folder. Use lower-case letters, digits, +, -, . and _.")
    base = profile.identifiers[key].base
    registry.lookup(registry.SCHEMES, base or key, f"scheme in {path}: identifiers.{key}")
    if base and base != key and key in registry.SCHEMES:
        raise InputError(f"{path}: identifiers.{key}: '{key}' is a scheme itself. Give the variant another key.")


def _check_method(profile: Profile, key: str, settings: MethodSettings, path: Path) -> None:
    if settings.target and not re.fullmatch(r"[\w.]+:\w+", settings.target):
        raise InputError(f"{path}: methods.{key}.target: write '{settings.target}' as package.module:Name.")
    if settings.scheme and not method_entry(profile, key).scheme:
        raise InputError(f"{path}: methods.{key}.scheme: {settings.base or key} writes no identifiers. Leave it out.")
    scheme_entry(profile, scheme_name(profile, key))
    if settings.backbones and not method_entry(profile, key).backbones:
        raise InputError(f"{path}: methods.{key}.backbones: {settings.base or key} tunes no backbone. Leave it out.")
    for backbone in settings.backbones:
        blocks = dict.fromkeys(profile.tables.blocks.values())
        registry.lookup(blocks, backbone, f"backbone (not among the profile's table blocks) in {path}: methods.{key}")
    if not set(settings.seeds) <= set(profile.seeds) or len(set(settings.seeds)) != len(settings.seeds):
        raise InputError(
            f"{path}: methods.{key}.seeds: {list(settings.seeds)} are not some of the profile's, each once. Choose "
            f"among {list(profile.seeds)}."
        )
    for task in settings.tasks:
        if task not in TASKS:
            raise InputError(f"{path}: methods.{key}.tasks: unknown '{task}'. Use rec, src or both.")
    if not method_entry(profile, key).tasks:
        answered = registry.METHODS[settings.base or key].tasks
        raise InputError(f"{path}: methods.{key}.tasks: {settings.base or key} answers only {', '.join(answered)}.")
    if method_entry(profile, key).backbones:
        for kind in registry.DEFAULT_TUNERS:
            tuner_name(profile, key, kind)
        initial = str(settings.config.get("initial", INITIAL[0]))
        registry.lookup(dict.fromkeys(INITIAL), initial, f"value of methods.{key}.config.initial in {path}:")
        if not profile.tables.blocks:
            raise InputError(
                f"{path}: methods.{key} tunes a backbone, and tables.blocks names none. Add one, e.g. `blocks: "
                f"{{{BLOCKS[0]}: {next(iter(registry.BACKBONES))}}}` under tables."
            )


def chosen_run(profile: Profile, run: Run) -> Run:
    """The run, if the profile has it (with any seed); raises InputError naming what is wrong."""
    method_entry(profile, run.method)
    registry.lookup(profile.recipes, run.recipe, "recipe of the profile")
    limited = profile.methods[run.method].recipes
    if limited and run.recipe not in limited:
        raise InputError(
            f"{run.method} runs only on {', '.join(limited)} (methods.{run.method}.recipes of the profile)."
        )
    backbones = _backbones_of(profile, run.method)
    if run.backbone not in backbones:
        raise InputError(f"{run.method} has no run with backbone '{run.backbone}'. Use {', '.join(backbones)}.")
    return run


def method_entry(profile: Profile, key: str) -> registry.MethodEntry:
    """The registry entry behind a method key of the profile, narrowed to the tasks that the profile asks for."""
    settings = registry.lookup(profile.methods, key, "method of the profile")
    if settings.target:
        return registry.MethodEntry(settings.target, settings.tasks or TASKS)
    entry = registry.lookup(registry.METHODS, settings.base or key, "method")
    tasks = tuple(task for task in entry.tasks if task in (settings.tasks or TASKS))
    return replace(entry, tasks=tasks)


def scheme_name(profile: Profile, key: str) -> str:
    """The identifiers that a method key writes: a key of the profile's `identifiers`, else a scheme; "" for none."""
    return profile.methods[key].scheme or method_entry(profile, key).scheme


def scheme_entry(profile: Profile, scheme: str) -> registry.SchemeEntry | None:
    """The registry entry behind a scheme as a profile names it, None for ""; raises InputError for an unknown name."""
    if not scheme:
        return None
    known = {**registry.SCHEMES, **{key: registry.SCHEMES[s.base or key] for key, s in profile.identifiers.items()}}
    return registry.lookup(known, scheme, "scheme of the profile")


def tuner_name(profile: Profile, key: str, kind: str) -> str:
    """The tuner of a method key on backbones of this kind: named in its config (`tuners`), else its own or the kind's.

    Raises InputError naming the wrong kind or tuner and the nearest right one.
    """
    where = f"profile '{profile.profile}', methods.{key}.config.tuners"
    chosen = profile.methods[key].config.get("tuners", {})
    usual = method_entry(profile, key).tuner or registry.DEFAULT_TUNERS[kind]
    if not isinstance(chosen, Mapping) or not all(isinstance(choice, Mapping) for choice in chosen.values()):
        raise InputError(f"{where}: write it as {{{kind}: {{name: {usual}}}}}.")
    for named, choice in chosen.items():
        registry.lookup(registry.DEFAULT_TUNERS, str(named), f"kind of backbone in {where}")
        for field_name in choice:
            registry.lookup(dict.fromkeys(TUNER_FIELDS), str(field_name), f"key in {where}.{named}")
    name = str(chosen.get(kind, {}).get("name") or usual)
    registry.lookup(registry.TUNERS, name, f"tuner in {where}.{kind}")
    return name


def corpora(profile: Profile) -> dict[str, CorpusSettings]:
    """The corpora of a profile by name: that of the stand-ins and that of the knowledge bases."""
    return {corpus.name: corpus for corpus in (profile.knowledge.corpus, profile.corpus) if corpus.name}


def backbones_in_use(profile: Profile) -> tuple[str, ...]:
    """The backbones that some run of the profile tunes, each once."""
    return tuple(dict.fromkeys(run.backbone for run in runs(profile) if run.backbone != NO_BACKBONE))


def identifiers_in_use(profile: Profile) -> tuple[tuple[str, str], ...]:
    """(recipe, scheme) of the identifiers that some run of the profile writes, each once."""
    named = ((run.recipe, scheme_name(profile, run.method)) for run in runs(profile))
    return tuple(pair for pair in dict.fromkeys(named) if pair[1])


def encoders_in_use(profile: Profile) -> tuple[tuple[str, str], ...]:
    """(recipe, encoder) of the item vectors that some identifiers of the profile are made from, each once."""
    entries = ((recipe, scheme_entry(profile, scheme)) for recipe, scheme in identifiers_in_use(profile))
    return tuple(dict.fromkeys((recipe, name) for recipe, entry in entries if entry for name in entry.encoders))


def runs(profile: Profile) -> Iterator[Run]:
    """Every run of the profile, in a fixed order."""
    for key, settings in profile.methods.items():
        entry, seeds = method_entry(profile, key), settings.seeds or profile.seeds
        for recipe in settings.recipes or tuple(profile.recipes):
            for backbone in _backbones_of(profile, key):
                for seed in seeds if entry.seeded else seeds[:1]:
                    yield Run(recipe, backbone, key, seed)


def _backbones_of(profile: Profile, key: str) -> tuple[str, ...]:
    """The backbones that a method key runs on. Two blocks may show the same one, whose runs are made once."""
    if not method_entry(profile, key).backbones:
        return (NO_BACKBONE,)
    limited = profile.methods[key].backbones
    return tuple(name for name in dict.fromkeys(profile.tables.blocks.values()) if not limited or name in limited)

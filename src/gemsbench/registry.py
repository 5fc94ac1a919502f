"""The one table of names: what a profile may mention, and the dotted target that each name stands for.

Targets are plain text and imported only when used, so that reading this table costs nothing.
A method outside this package is named in a profile by `target: my_package.my_module:MyMethod`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from gemsbench.config import nearest
from gemsbench.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class MethodEntry:
    """Where a method lives and what the workflow must know of it before importing it."""

    target: str
    tasks: tuple[str, ...]  # of "rec", "src"
    seeded: bool = True  # False: the same result for every seed, so one run serves all
    backbones: bool = False  # True: one run per backbone of the profile
    tuner: str = ""  # its tuner on every kind of backbone; "": that of DEFAULT_TUNERS
    scheme: str = ""  # of SCHEMES, the identifiers that it writes; "": it needs none


@dataclass(frozen=True)
class BackboneEntry:
    """Where the description of a backbone lives, and the architecture that decides its default tuner."""

    target: str
    kind: Literal["t5", "qwen2"]


@dataclass(frozen=True)
class SchemeEntry:
    """Where an identifier scheme lives, and the encoders whose item vectors it reads."""

    target: str
    encoders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # its settings that name files of the user


METHODS: Mapping[str, MethodEntry] = {
    "random": MethodEntry("gemsbench.methods.random_order:RandomOrder", ("rec", "src")),
    "popularity": MethodEntry("gemsbench.methods.popularity:Popularity", ("rec", "src"), seeded=False),
    "bm25": MethodEntry("gemsbench.methods.bm25:BM25", ("src",), seeded=False),
    "category-match": MethodEntry("gemsbench.methods.category_match:CategoryMatch", ("src",), seeded=False),
    "ncf": MethodEntry("gemsbench.methods.ncf:NCF", ("rec",)),
    "sasrec": MethodEntry("gemsbench.methods.sasrec:SASRec", ("rec",)),
    "tiger": MethodEntry("gemsbench.methods.tiger:TIGER", ("rec",), backbones=True, scheme="rqvae"),
    "letter": MethodEntry("gemsbench.methods.letter:LETTER", ("rec",), backbones=True, scheme="letter"),
    "bsr": MethodEntry("gemsbench.methods.bsr:BSR", ("rec", "src"), backbones=True, scheme="atomic"),
    "sem-bsr": MethodEntry("gemsbench.methods.sem_bsr:SemBSR", ("rec", "src"), backbones=True, scheme="sem"),
    "gems": MethodEntry("gemsbench.methods.gems:GEMS", ("rec", "src"), backbones=True, tuner="gems", scheme="atomic"),
}

ENCODERS: Mapping[str, str] = {  # one vector per item
    "item-text": "gemsbench.encoders.item_text:ItemText",
    "sasrec": "gemsbench.encoders.sasrec:SASRecEncoder",
    "bi-encoder": "gemsbench.encoders.bi_encoder:BiEncoder",
}

SCHEMES: Mapping[str, SchemeEntry] = {  # one identifier per item
    "atomic": SchemeEntry("gemsbench.identifiers.atomic:Atomic"),
    "rqvae": SchemeEntry("gemsbench.identifiers.rqvae:RQVAE", encoders=("item-text",)),
    "letter": SchemeEntry("gemsbench.identifiers.letter:LETTER", encoders=("item-text", "sasrec")),
    "sem": SchemeEntry("gemsbench.identifiers.sem:SemanticIds", encoders=("bi-encoder",)),
    "imported": SchemeEntry("gemsbench.identifiers.imported:Imported", files=("index", "item2id")),
}

BACKBONES: Mapping[str, BackboneEntry] = {
    "t5-mini": BackboneEntry("gemsbench.backbones.catalogue:T5_MINI", "t5"),
    "qwen-mini": BackboneEntry("gemsbench.backbones.catalogue:QWEN_MINI", "qwen2"),
    "flan-t5-small": BackboneEntry("gemsbench.backbones.catalogue:FLAN_T5_SMALL", "t5"),
    "flan-t5-base": BackboneEntry("gemsbench.backbones.catalogue:FLAN_T5_BASE", "t5"),
    "qwen2.5-0.5b-instruct": BackboneEntry("gemsbench.backbones.catalogue:QWEN2_5_0_5B_INSTRUCT", "qwen2"),
    "qwen2.5-3b-instruct": BackboneEntry("gemsbench.backbones.catalogue:QWEN2_5_3B_INSTRUCT", "qwen2"),
}

TUNERS: Mapping[str, str] = {
    "full": "gemsbench.tuners.full:FullFineTuning",
    "lora": "gemsbench.tuners.lora:LoRA",
    "gems": "gemsbench.tuners.gems:GEMSTuner",
}

DEFAULT_TUNERS: Mapping[str, str] = {"t5": "full", "qwen2": "lora"}  # kind of backbone -> tuner, if a method has none

RECIPES: Mapping[str, str] = {
    "simulated-amazon": "gemsbench.data.amazon:SIMULATED",
    "simulated-qilin": "gemsbench.data.qilin:SIMULATED",
    "journey-small": "gemsbench.data.journey:RECIPE",
    "lastfm-small": "gemsbench.data.lastfm:RECIPE",
    "movielens-small": "gemsbench.data.movielens:RECIPE",
    "electronics-2014": "gemsbench.data.electronics:RECIPE",
    "electronics-2014-reference": "gemsbench.data.electronics_reference:RECIPE",
    "electronics-2018": "gemsbench.data.electronics_2018:RECIPE",
    "kindle-2014": "gemsbench.data.kindle:RECIPE",
    "qilin": "gemsbench.data.qilin_recipe:RECIPE",
    "qilin-reference": "gemsbench.data.qilin_reference:RECIPE",
    "canonical": "gemsbench.data.own:RECIPE",
}

CORPORA: Mapping[str, str] = {  # plain text; shares data/ with the recipes, so no name stands twice
    "simulated-encyclopedia": "gemsbench.data.encyclopedia:CORPUS",
    "wikitext-2": "gemsbench.data.wikitext:CORPUS",
    "wikipedia": "gemsbench.data.wikipedia:CORPUS",
}


def resolve(target: str) -> Any:
    """Import the object behind a dotted target "package.module:Name"; raises InputError."""
    module_name, _, attribute = target.partition(":")
    if not attribute:
        raise InputError(f"'{target}' is not a target. Write it as package.module:Name.")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise InputError(f"'{target}': cannot import '{error.name}'. Install it, or correct the target.") from error
    except AttributeError as error:
        raise InputError(f"'{target}': module '{module_name}' has no '{attribute}'.") from error


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """The entry called name; raises InputError with the nearest known name."""
    if name not in table:
        raise InputError(f"unknown {kind} '{name}'. {nearest(name, table)}")
    return table[name]

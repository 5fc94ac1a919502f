"""A small made-up corpus and untrained backbones of both kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gemsbench import seeds
from gemsbench.backbones.catalogue import Kind, QwenMiniSettings, T5MiniSettings
from gemsbench.backbones.loading import Backbone
from gemsbench.backbones.stand_ins import build_stand_in

KINDS: tuple[Kind, ...] = ("t5", "qwen2")
_PLACES = ("kitchen", "garden", "cellar", "attic", "harbour")
_THINGS = ("kettle", "lamp", "ladder", "chair", "violin", "basket")
_SIZES = ("small", "large", "broken", "wooden")


def sentences(number: int, seed: int = 0) -> list[str]:
    """Sentences in which each word follows from the ones before it more often than not."""
    rng = seeds.stream(seed, "sentences")
    drawn = zip(*(rng.choice(words, number) for words in (_SIZES, _THINGS, _PLACES)), strict=True)
    return [f"The {size} {thing} stands in the {place} beside another {thing}." for size, thing, place in drawn]


def settings_of(kind: Kind) -> T5MiniSettings | QwenMiniSettings:
    """The smallest sensible sizes."""
    sizes = {"vocabulary": 330, "width": 16, "feed_forward": 32, "layers": 1}
    return T5MiniSettings(**sizes, heads=2) if kind == "t5" else QwenMiniSettings(**sizes, heads=4, kv_heads=2)


@pytest.fixture(scope="session")
def made() -> dict[Kind, Backbone]:
    """One untrained backbone of each kind; the T5 has a head that differs from its input embedding."""
    backbones = {kind: build_stand_in(settings_of(kind), sentences(200), seed=3) for kind in KINDS}
    generator = torch.Generator().manual_seed(1)
    head = backbones["t5"].model.get_output_embeddings()
    with torch.no_grad():
        head.weight.normal_(0.2, 0.3, generator=generator)
    for backbone in backbones.values():
        backbone.model.eval()
    return backbones


@pytest.fixture
def backbone_of(made: dict[Kind, Backbone]) -> Callable[[Kind], Backbone]:
    """A copy of the backbone of a kind, which a test may change."""
    return lambda kind: copy.deepcopy(made[kind])


def logits_of(model: nn.Module, kind: Kind) -> torch.Tensor:
    """Logits of two fixed prompts."""
    ids = torch.tensor([[5, 9, 40, 7, 120, 1], [30, 31, 32, 33, 34, 1]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": torch.tensor([[0, 8, 90], [0, 4, 5]])} if kind == "t5" else {})
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """300 documents of three sentences, separated by blank lines."""
    words = sentences(900)
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(" ".join(words[n : n + 3]) for n in range(0, 900, 3)) + "\n", encoding="utf-8")
    return path

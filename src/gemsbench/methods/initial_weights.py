"""A backbone without its pre-training: the released code of GEMS starts T5 from random weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from gemsbench.backbones.loading import Backbone


@torch.no_grad()
def draw_weights(backbone: Backbone, seed: int) -> None:
    """Replace all weights in place by those that transformers gives a new model of the same config."""
    model = backbone.model
    architecture: Any = type(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drawn = dict(architecture(copy.deepcopy(model.config)).named_parameters(remove_duplicate=False))
        for name, parameter in model.named_parameters():
            parameter.copy_(drawn[name])

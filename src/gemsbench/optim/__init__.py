"""GEMS (arXiv 2601.09496) as a torch optimizer; imports torch and safetensors, and nothing else of this package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemsbench.optim.gems import GEMS
    from gemsbench.optim.groups import gems_param_groups
    from gemsbench.optim.knowledge_basis import KnowledgeBasis
    from gemsbench.optim.settings import GEMSConfig

__all__ = ["GEMS", "GEMSConfig", "KnowledgeBasis", "gems_param_groups"]

# Looked up when first used, so that the settings can be read without torch.
_HOMES = {"GEMS": "gems", "GEMSConfig": "settings", "KnowledgeBasis": "knowledge_basis", "gems_param_groups": "groups"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

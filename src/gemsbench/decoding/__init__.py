"""Exact ranking of candidate identifiers by a language model, and beam search beside it; needs torch and transformers.

Stands alone: nothing else of gemsbench is imported, and errors are ValueErrors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemsbench.decoding.beam import constrained_beam
    from gemsbench.decoding.exact import CandidateScorer
    from gemsbench.decoding.tree_beam import BeamResult, beam_search, certified
    from gemsbench.decoding.trie import PackedTree, Trie, pack

# Looked up when asked for: tries need numpy only.
_HOME = {
    "BeamResult": "tree_beam",
    "CandidateScorer": "exact",
    "PackedTree": "trie",
    "Trie": "trie",
    "beam_search": "tree_beam",
    "certified": "tree_beam",
    "constrained_beam": "beam",
    "pack": "trie",
}

__all__ = [
    "BeamResult",
    "CandidateScorer",
    "PackedTree",
    "Trie",
    "beam_search",
    "certified",
    "constrained_beam",
    "pack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

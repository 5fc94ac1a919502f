"""What exactly is asked: splits, histories, candidates, prompts, and the pack that carries them."""

from __future__ import annotations

from gemsbench.protocol.export import export_pack
from gemsbench.protocol.pack import Pack, TrainingData, load_pack

__all__ = ["Pack", "TrainingData", "export_pack", "load_pack"]

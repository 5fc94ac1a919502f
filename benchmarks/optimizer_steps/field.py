"""Who takes part: name -> how the contender is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gemsbench.optim import accounting
from optimizer_steps.contender import Contender
from optimizer_steps.models import TASKS, Batch, Setup
from optimizer_steps.ours import Gems
from optimizer_steps.peers import AdamW, GaLore, Lora, galore_torch, trained_shapes
from optimizer_steps.three_passes import ThreePasses

if TYPE_CHECKING:
    from gemsbench.optim import KnowledgeBasis

ADAMW, LORA, LORA_EQUAL = "AdamW", "LoRA r 16", "LoRA of equal state"
GALORE, GALORE_RANDOMISED = "GaLore", "GaLore (randomised)"
FAST, PAPER, PER_LAYER, THREE = "GEMS fast", "GEMS paper", "GEMS per-layer", "three passes"
NAMES = (LORA, FAST, ADAMW, GALORE, GALORE_RANDOMISED, PAPER, PER_LAYER, LORA_EQUAL, THREE)


def equal_rank(setup: Setup) -> int:
    """The LoRA rank whose fp32 moments are as large as the state of GEMS `fast`."""
    shapes = trained_shapes(setup.model())
    size = setup.dtype.itemsize
    tasks = (setup.rank // 2,) * len(TASKS)
    fast = accounting.total((accounting.gems(*shape, setup.rank, tasks, "right"), 1) for shape in shapes)
    linears = [accounting.Linears("", *shape, 1) for shape in shapes]
    return accounting.lora_rank_for(linears, fast.state_bytes(size, 4))


def build(name: str, setup: Setup, batch: Batch, null_space: KnowledgeBasis | None) -> Contender:
    """One contender, ready for steps without a refresh; ImportError where a peer is not installed."""
    makers: dict[str, Callable[[], Contender]] = {
        ADAMW: lambda: AdamW(setup),
        LORA: lambda: Lora(setup, 16),
        LORA_EQUAL: lambda: Lora(setup, equal_rank(setup)),
        GALORE: lambda: GaLore(setup, randomised=False),
        GALORE_RANDOMISED: lambda: GaLore(setup, randomised=True),
        FAST: lambda: Gems(setup, "fast", null_space),
        PAPER: lambda: Gems(setup, "paper", null_space),
        PER_LAYER: lambda: Gems(setup, "paper", null_space, backward="per_layer", gate_lag=1),
        THREE: lambda: ThreePasses(setup),
    }
    made = makers[name]()
    if isinstance(made, Gems):
        made.prime(batch)
    return made


def missing(names: list[str]) -> dict[str, str]:
    """Contenders that cannot run here, and why."""
    try:
        galore_torch()
    except ImportError as error:
        return {name: str(error) for name in names if name in (GALORE, GALORE_RANDOMISED)}
    return {}

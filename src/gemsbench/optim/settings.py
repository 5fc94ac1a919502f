"""What can be chosen about GEMS: one frozen configuration and the presets of it. Needs no torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class GEMSConfig:
    """Settings of GEMS; the defaults are the preset `paper`. Raises ValueError for values out of range.

    Per-group keys of the optimizer (lr, rank, task_rank, scale, side, update_gap, weight_decay) win over these.
    """

    scale: float = 1.0  # s of the update (Eq. 9); only s * lr matters for the projected matrices
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8  # added to the root, not inside it (Eq. 7 as printed would freeze small gradients)
    weight_decay: float = 0.0  # decoupled; above 0 it changes what the null space is to preserve
    update_gap: int = 200  # steps between two bases of a matrix
    stagger: bool = False  # True: every matrix has its own turn; the first step is everybody's
    side: Literal["std", "right", "left"] = "std"  # std: the smaller dimension, inputs for a square matrix
    shared: Literal["sum", "token_mean"] = "sum"  # shared gradient: sum of the tasks' means, or mean over all tokens
    basis: Literal["svd", "sketch"] = "svd"  # svd: randomised above 1024; sketch: linear, used from the next step on
    moment_transfer: Literal["keep", "rotate"] = "keep"  # what happens to the moments when the basis turns
    task_basis: Literal["raw", "residual"] = "raw"  # residual: task subspaces outside the shared one
    null_space_form: Literal["complement", "literal"] = "complement"  # I - U U^T, or U U^T as Eq. 19 prints it
    # post: after Adam; subspace: bases in the projector's range; gradient: before basis and Adam (Adam leaks).
    null_space_mode: Literal["post", "subspace", "gradient"] = "post"
    gate: Literal["learned", "prior", "uniform", "heuristic"] = "learned"
    gate_temperature: float = 1.0
    gate_prior: float = 1.0  # how much the louder task is held back
    gate_ema: float = 0.9  # of losses and gradient norms; 0: those of the step
    gate_lr: float = 1e-3
    gate_every: int = 10  # steps between two updates of the gate
    gate_lag: Literal[0, 1] = 0  # 1: weights follow from the step before, as per_layer needs it
    step_counter: Literal["per_task", "shared"] = "per_task"
    backward: Literal["full", "per_layer", "projected"] = "full"
    rounding: Literal["stochastic", "nearest"] = "stochastic"  # of bf16 weights
    attribution: bool = False  # keeps a first moment per task of the shared subspace, for attributed_updates

    def __post_init__(self) -> None:
        for name, known in _choices().items():
            if getattr(self, name) not in known:
                raise ValueError(f"GEMS: {name} is {getattr(self, name)!r}. {nearest(getattr(self, name), known)}")
        least = {"scale": 0, "eps": 0, "weight_decay": 0, "update_gap": 1, "gate_prior": 0, "gate_every": 1}
        least |= {"gate_lr": 0, "gate_ema": 0}
        for name, smallest in least.items():
            if not smallest <= getattr(self, name) < math.inf:
                raise ValueError(f"GEMS: {name} is {getattr(self, name)}; it must be at least {smallest}.")
        if not 0 < self.gate_temperature < math.inf:
            raise ValueError(f"GEMS: gate_temperature is {self.gate_temperature}; it must be above 0.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in (*self.betas, self.gate_ema)):
            raise ValueError(f"GEMS: betas {self.betas} and gate_ema {self.gate_ema} must be in [0, 1).")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.backward == "projected" and (self.side != "right" or self.basis != "sketch"):
            raise ValueError("GEMS: backward='projected' needs side='right' and basis='sketch' (preset='fast').")
        if self.backward == "projected" and self.null_space_mode != "subspace":
            raise ValueError("GEMS: backward='projected' needs null_space_mode='subspace' (preset='fast').")
        if self.backward == "projected" and self.task_basis == "residual":
            raise ValueError("GEMS: task_basis='residual' needs full gradients (backward='full' or 'per_layer').")
        if self.null_space_mode == "subspace" and self.side != "right":
            raise ValueError("GEMS: null_space_mode='subspace' needs side='right': only bases of inputs lie in it.")
        if self.basis == "sketch" and self.task_basis == "residual":
            raise ValueError("GEMS: task_basis='residual' needs basis='svd'.")
        if self.backward == "per_layer" and not self.gate_lag:
            raise ValueError(
                "GEMS: backward='per_layer' needs gate_lag=1: a layer moves before the norms of its step are known."
            )
        if self.backward == "per_layer" and self.null_space_mode == "gradient":
            raise ValueError("GEMS: null_space_mode='gradient' needs backward='full'.")

    @classmethod
    def of(cls, preset: str = "paper", **overrides: Any) -> GEMSConfig:
        """The settings of a preset with some of them replaced; raises ValueError for unknown names and values."""
        if preset not in PRESETS:
            raise ValueError(f"GEMS: unknown preset '{preset}'. {nearest(preset, PRESETS)}")
        names = [field.name for field in fields(cls)]
        for name in overrides:
            if name not in names:
                raise ValueError(f"GEMS: unknown setting '{name}'. {nearest(name, names)}")
        return cls(**{**PRESETS[preset], **overrides})


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    # The price of LoRA: no gradient of full size is ever formed.
    "fast": {
        "side": "right",
        "basis": "sketch",
        "stagger": True,
        "moment_transfer": "rotate",
        "null_space_mode": "subspace",
        "backward": "projected",
        "gate_lag": 1,
    },
    # What the authors' released code does (not what the paper says); never in the main tables.
    "reference": {
        "shared": "token_mean",
        "eps": 1e-6,
        "weight_decay": 0.01,
        "gate": "heuristic",
        "gate_ema": 0.0,
        "null_space_mode": "gradient",
        "step_counter": "shared",
        "rounding": "nearest",
    },
}


def nearest(name: object, known: Iterable[str | int]) -> str:
    """Words for an error: the nearest known name first, then all of them."""
    names = [str(value) for value in known]
    close = difflib.get_close_matches(str(name), names, 1)
    listed = ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Known: {listed}."


def _choices() -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(GEMSConfig)
    return {name: get_args(hint) for name, hint in hints.items() if getattr(hint, "__origin__", None) is Literal}

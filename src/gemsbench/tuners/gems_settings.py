"""Settings of the tuner gems; they can be read without torch, so that the workflow knows which basis a run needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gemsbench.errors import InputError
from gemsbench.optim import GEMSConfig

# The paper names a grid of ranks (256, 512, 1024) and no choice: its least for T5, whose matrices are 768 wide, and the
# middle one for the wider Qwen2. It gives no learning rates; these are ours.
RANKS: Mapping[str, int] = {"t5": 256, "qwen2": 512}
LEARNING_RATES: Mapping[str, float] = {"t5": 5e-4, "qwen2": 2e-5}


@dataclass(frozen=True)
class GEMSSettings:
    """Config of GEMS; None: what the preset or the kind of backbone has. Raises InputError for values out of range.

    Grid of the paper: rank 256, 512, 1024; scale 0.5 to 4; gate_temperature 0.1 to 3. Only scale * learning_rate
    counts for the projected matrices.
    """

    preset: Literal["paper", "fast", "reference"] = "paper"  # reference: the released code's settings
    rank: int | None = None  # of the shared subspace; None: 256 on T5, 512 on Qwen2; clipped to the matrix
    task_rank: int | None = None  # of each task's; None: half of rank; 0: one subspace for all
    learning_rate: float | None = None  # None: 5e-4 on T5, 2e-5 on Qwen2
    rows_learning_rate: float | None = None  # of the new tokens' rows; None: learning_rate
    scale: float = 1.0
    update_gap: int = 200  # steps between two bases of a matrix
    null_space: bool = True
    null_space_form: Literal["complement", "literal"] = "complement"  # literal: Eq. 19 as it is printed
    null_space_side: Literal["input", "output"] | None = None  # of the basis; None: output in reference, else input
    task_basis: Literal["raw", "residual"] | None = None
    moment_transfer: Literal["keep", "rotate"] | None = None
    gate: Literal["learned", "prior", "uniform", "heuristic"] | None = None
    gate_temperature: float = 1.0
    gate_prior: float = 1.0
    weight_decay: float | None = None  # above 0 it changes what the null space preserves

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("task_rank", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"gems: {name} is {value}; it must be at least {least}.")
        for name in ("learning_rate", "rows_learning_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"gems: {name} is {value}; it must be at least 0 and below 1.")
        self._check_null_space()
        self.optimizer_config()

    def _check_null_space(self) -> None:
        """Refuse what no fit could begin with, and settings that would have no effect."""
        if self.null_space and self.preset == "fast" and self.basis_side == "output":
            raise InputError(
                "gems: preset fast keeps its subspaces inside the allowed inputs and cannot use null_space_side: "
                "output. Leave null_space_side out, or use preset paper."
            )
        without = {"null_space_side": self.null_space_side, "null_space_form": self.null_space_form}
        for name, value in without.items():
            if not self.null_space and value not in (None, "complement"):
                raise InputError(
                    f"gems: {name} is {value}, and null_space is false: there is nothing it could change. Leave "
                    f"{name} out, or set null_space: true."
                )

    def optimizer_config(self) -> GEMSConfig:
        """The optimizer's own configuration; raises InputError where it refuses it."""
        always = ("scale", "update_gap", "null_space_form", "gate_temperature", "gate_prior")
        chosen = ("task_basis", "moment_transfer", "gate", "weight_decay")
        values: dict[str, Any] = {name: getattr(self, name) for name in always}
        values |= {name: getattr(self, name) for name in chosen if getattr(self, name) is not None}
        try:
            return GEMSConfig.of(self.preset, **values)
        except ValueError as error:
            raise InputError(f"gems: {str(error).removeprefix('GEMS: ')}") from error

    @property
    def basis_side(self) -> Literal["input", "output"] | None:
        """The side of the knowledge basis that must be handed to the tuner; None: it needs none."""
        if not self.null_space:
            return None
        return self.null_space_side or ("output" if self.preset == "reference" else "input")

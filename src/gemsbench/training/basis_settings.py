"""Settings of a knowledge basis; they can be read without torch, as the workflow does."""

from __future__ import annotations

from dataclasses import dataclass

from gemsbench.errors import InputError
from gemsbench.optim.kept_directions import KeptDirections


@dataclass(frozen=True)
class BasisSettings:
    """How a knowledge basis is collected. Raises InputError for values out of range."""

    documents: int = 10_000  # a seeded sample; all where the corpus has fewer
    min_characters: int = 50  # shorter documents are left out
    max_tokens: int | None = None  # of a document, the rest is left out; None: 512, a stand-in's window of pre-training
    k: int | str = "n/8"  # directions kept of what a layer reads: a number, n/8, energy=0.95 or threshold=2e-2
    output_k: int | str = "threshold=2e-2"  # the same of what a layer gives, as the released code has it
    batch_size: int = 16  # documents per forward pass
    threads: int = 1  # of torch; results are bit-identical for a fixed number

    def __post_init__(self) -> None:
        least = {"documents": 1, "min_characters": 1, "max_tokens": 4, "batch_size": 1, "threads": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise InputError(f"knowledge: {name} is {value}; it must be at least {smallest}.")
        for name in ("k", "output_k"):
            try:
                KeptDirections.parse(getattr(self, name))
            except ValueError as error:
                raise InputError(f"knowledge: {name}: {error}") from error

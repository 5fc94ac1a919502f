"""What a card says of a dataset in words; numbers come from the recipe and its statistics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What a reader of the dataset's card is told in words."""

    about: str  # who did what, where, when
    cut: tuple[str, ...]  # the steps from raw files to cases, in order
    flaws: tuple[str, ...] = ()  # known ones, of the data and of the recipe

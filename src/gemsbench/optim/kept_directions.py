"""How many directions of a spectrum count as knowledge (k), by one of four rules."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gemsbench.optim.feature_moments import Spectrum

_FREE_AT_LEAST = 0.05  # of the width, where a threshold would leave no direction to train in
_SKETCH_SHARE = 4  # the part of the width that is looked at where k depends on the eigenvalues
_OVERSAMPLING = 2  # columns of a sketch per direction to keep
_HOW = "Write a number, 'n/8', 'energy=0.95' or 'threshold=2e-2'."


@dataclass(frozen=True)
class KeptDirections:
    """A rule for k. count: k itself; share: k = n // d; energy: the first k that hold this share of the trace.

    threshold: the directions whose eigenvalue is at least t; the lowest 5 % of the width stay free if that is all of
    them (the fallback of the released code; d, t: value).
    """

    kind: Literal["count", "share", "energy", "threshold"]
    value: float

    @classmethod
    def parse(cls, rule: int | str) -> KeptDirections:
        """Read a number, "n/8", "energy=0.95" or "threshold=2e-2"; raises ValueError."""
        if isinstance(rule, int) and not isinstance(rule, bool):
            if rule < 1:
                raise ValueError(f"k is {rule}; it must be at least 1. {_HOW}")
            return cls("count", rule)
        text = str(rule).replace(" ", "")
        if share := re.fullmatch(r"n/(\d+)", text):
            if int(share[1]) < 2:
                raise ValueError(f"k = {rule}: nothing would be left to train in. {_HOW}")
            return cls("share", int(share[1]))
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"k is {rule!r}, which is no rule. {_HOW}") from None
        if name == "energy" and 0 < value < 1:
            return cls("energy", value)
        if name == "threshold" and 0 < value < math.inf:
            return cls("threshold", value)
        raise ValueError(f"k is {rule!r}; energy lies between 0 and 1, a threshold above 0. {_HOW}")

    def sketch_columns(self, width: int) -> int:
        """How many directions to look for where not all can be: twice as many as are kept."""
        if self.kind == "count":
            expected = int(self.value)
        else:
            expected = width // int(self.value if self.kind == "share" else _SKETCH_SHARE)
        return min(width, _OVERSAMPLING * max(1, expected))

    def of(self, spectrum: Spectrum) -> int:
        """The k of a spectrum; raises ValueError when it is the whole width, or more than is known of the spectrum."""
        width, known = spectrum.width, len(spectrum.values)
        k = self._by_values(spectrum) if self.kind in ("energy", "threshold") else self._by_width(width)
        if self.kind == "threshold" and k >= width:
            k = width - max(1, int(_FREE_AT_LEAST * width))
        if self.kind == "energy":
            k = min(k, width - 1)
        if k >= width:
            raise ValueError(f"k = {k} of {width} directions: nothing would be left to train in. Choose a smaller k.")
        if k > known or (known < width and k == known and self.kind in ("energy", "threshold")):
            raise ValueError(
                f"{self.kind} {self.value:g} asks for more than the {known} leading directions that are known of "
                f"{width}. Choose a smaller k, or give more text."
            )
        return k

    def _by_width(self, width: int) -> int:
        return int(self.value) if self.kind == "count" else max(1, width // int(self.value))

    def _by_values(self, spectrum: Spectrum) -> int:
        if self.kind == "threshold":
            return int((spectrum.values >= self.value).sum())
        held = spectrum.values.cumsum(0)
        return min(len(held), int((held < self.value * spectrum.trace).sum()) + 1)

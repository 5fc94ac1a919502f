"""How much and how often the simulated customers of the real Electronics file buy, fitted to published totals.

Fitted to what GenSAR's public scripts print of the file (arXiv 2504.05730): 1,689,188 reviews by 192,403 users, the
quartiles (3, 4, 6) and standard deviation (5.80) of their searches but the first, and the 1,288,753 purchases that come
on a later day than the first search. Nothing is fitted to Table 4 of arXiv 2601.09496.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Habits:
    """A user's number of purchases and how they share days.

    Purchases beyond the fewest allowed: floor of a log-normal number (log_mean, log_sd), at most `most`. A user starts
    a new day with each purchase with a chance of its own, drawn from Beta(new_day, same_day): some write many reviews
    in one sitting.
    """

    log_mean: float
    log_sd: float
    most: int
    new_day: float
    same_day: float
    longest: int  # days between a user's first and last purchase

    def lengths(self, users: int, shortest: int, rng: np.random.Generator) -> IntArray:
        """Purchases per user, int64 [users]."""
        extra = np.floor(np.exp(self.log_mean + self.log_sd * rng.standard_normal(users)))
        return shortest + np.minimum(extra, self.most).astype(np.int64)

    def starts_day(self, user: IntArray, rng: np.random.Generator) -> BoolArray:
        """Whether a purchase is on a later day than the one before it, bool like user (sorted, 0 ... users - 1)."""
        chance = rng.beta(self.new_day, self.same_day, size=int(user[-1]) + 1)
        return np.asarray(rng.random(user.size) < chance[user])


ELECTRONICS_2014 = Habits(log_mean=0.675, log_sd=1.252, most=430, new_day=0.74, same_day=0.26, longest=1_400)

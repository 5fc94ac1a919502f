"""What a trained SASRec says of candidates: the product of a user's state and an item's row, summed in float64."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gemsbench.encoders.sasrec_model import START, SASRecModel
from gemsbench.encoders.sasrec_sequences import padded
from gemsbench.training.token_lists import TokenLists

HISTORIES_AT_A_TIME = 1024
PAIRS_AT_A_TIME = 65_536


class SASRecScorer:
    """A frozen copy of a model, on the CPU and in float64.

    Sums are rounded to float32 once, at the end, so that a score does not depend on the cases that share its batch.
    An item that training never met has the mean row of those it met: its score is the mean score of the known items,
    which says nothing of it, as nothing is known. (A zero row would say a lot: under cross-entropy the scores of most
    known items are below zero.)
    """

    def __init__(self, model: SASRecModel) -> None:
        self.model = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
        known = self.model.known
        self.rows = self.model.items.detach().clone()
        self.rows[~known] = self.rows[known].mean(dim=0)

    @torch.no_grad()
    def states(self, past: TokenLists) -> Tensor:
        """Last state of each history (item ids, at most max_length of them), float64 [n, d]."""
        found = torch.empty(len(past), self.rows.shape[1], dtype=torch.float64)
        for start in range(0, len(past), HISTORIES_AT_A_TIME):
            numbers = np.arange(start, min(start + HISTORIES_AT_A_TIME, len(past)))
            part = past.take(numbers)
            table = padded(part, START, int(part.lengths.max(initial=0)))
            sequences = torch.from_numpy(np.pad(table, ((0, 0), (1, 0)), constant_values=START))
            last = torch.from_numpy(part.lengths)
            found[start : start + len(part)] = self.model(sequences)[torch.arange(len(part)), last]
        return found

    def scores(
        self, past: TokenLists, rows: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Scores float32 [P] of items int64 [P], each for the history whose number is in rows int64 [P]."""
        states = self.states(past)
        owner, item = torch.from_numpy(rows), torch.from_numpy(items)
        parts = [
            (states[owner[start : start + PAIRS_AT_A_TIME]] * self.rows[item[start : start + PAIRS_AT_A_TIME]]).sum(-1)
            for start in range(0, len(items), PAIRS_AT_A_TIME)
        ]
        return torch.cat(parts).float().numpy() if parts else np.empty(0, dtype=np.float32)

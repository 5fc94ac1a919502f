"""LETTER's diversity regularisation: codewords keep together with their group and apart from all others.

arXiv 2405.07314, L_div; the groups come from balanced_groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CodeGroupTable:
    """The groups of the codes of L levels, laid out so that another member is found by one look-up.

    order: int64 [L, K], the codes of a level sorted by group. place: int64 [L, K], where a code stands in its level's
    order. first, size: int64 [L, K], of a code's group: where it begins in order, and how many members it has.
    """

    order: Tensor
    place: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def of(cls, groups: Tensor) -> CodeGroupTable:
        """Lay out groups, int64 [L, K], the group 0, 1, ... of every code."""
        order = groups.argsort(dim=1, stable=True)
        members = torch.zeros_like(groups).scatter_add_(1, groups, torch.ones_like(groups))
        begins = members.cumsum(dim=1) - members
        return cls(order, order.argsort(dim=1), begins.gather(1, groups), members.gather(1, groups))

    def others(self, codes: Tensor, draws: Tensor) -> Tensor:
        """Another code of the same group for each of codes, int64 [B, L]; the code itself where its group is one.

        draws: [B, L] in [0, 1), uniform: then every other member is as likely.
        """
        level = torch.arange(codes.shape[1], device=codes.device)
        size = self.size[level, codes]
        step = 1 + (draws * (size - 1)).long().clamp_max((size - 2).clamp_min(0))
        first = self.first[level, codes]
        return self.order[level, first + (self.place[level, codes] - first + step) % size]


def diversity_loss(codebooks: Tensor, codes: Tensor, positives: Tensor) -> Tensor:
    """-mean log( exp<e_c, e_p> / sum over j != c of exp<e_c, e_j> ) over items and levels, a scalar.

    codebooks: [L, K, d], which alone get a gradient. codes, positives: int64 [B, L]; p = c, a group of one, adds
    nothing. Temperature 1 (official code, vq.py).
    """
    # A term depends on the pair of codes alone: all K x K pairs once, whatever the size of the batch.
    own = torch.eye(codebooks.shape[1], dtype=torch.bool, device=codebooks.device)
    products = (codebooks @ codebooks.transpose(1, 2)).masked_fill(own, -torch.inf)
    losses = -products.log_softmax(dim=2).masked_fill(own, 0.0)
    level = torch.arange(codes.shape[1], device=codes.device)
    return losses[level, codes, positives].mean()

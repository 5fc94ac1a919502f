"""LETTER's collaborative regularisation: items used alike get quantised latents alike (arXiv 2405.07314, L_CF)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def alignment_loss(quantised: Tensor, collaborative: Tensor, known: Tensor) -> Tensor:
    """-mean_i log( exp<q_i, h_i> / sum_j exp<q_i, h_j> ) over the items of a batch that have an h, a scalar.

    quantised: [B, d], Quantised.quantised, whose gradient is the latent's: the encoder learns from this loss, the
    codebooks do not. collaborative: h [B, d]. known: bool [B]; items without an h are in neither sum. A plain dot
    product, no temperature and no normalisation (official code, CF_loss). An item twice in a batch would be its own
    negative: draw batches without replacement. 0 where no item has an h.
    """
    rows, targets = quantised[known], collaborative[known]
    if not len(rows):
        return quantised.sum() * 0.0
    return cross_entropy(rows @ targets.T, torch.arange(len(rows), device=rows.device))

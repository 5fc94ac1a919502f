"""The RQ-VAE: an autoencoder whose latent is a sum of codewords, one per level (TIGER, arXiv 2305.05065, section 3.1).

Every level gets its commitment gradient: the next residual is r - sg[e]. Subtracting the straight-through output
instead, as several public codes do, leaves the encoder without any gradient from the second level on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from gemsbench.identifiers.distinct_rows import distinct_rows

Reduction = Literal["sum", "mean"]
AssignLast = Callable[[Tensor], Tensor]  # squared distances float32 [B, K] of the last level -> codes int64 [B]

_CHUNK = 8192  # rows quantised at a time


@dataclass(frozen=True)
class Quantised:
    """What the quantiser made of a batch of B vectors; L levels of d-dimensional codewords.

    latent: z [B, d]. residuals: [B, L, d], r_1 = z and r_{l+1} = r_l - sg[e_l], so that the encoder's gradient passes
    through every level. codes: int64 [B, L]. codewords: [B, L, d], the chosen e_l, with gradient to the codebooks only.
    quantised: [B, d], sum_l e_l in value with the gradient of z (straight-through). reconstruction: [B, D], of the
    standardised vectors.
    """

    latent: Tensor
    residuals: Tensor
    codes: Tensor
    codewords: Tensor
    quantised: Tensor
    reconstruction: Tensor


class ResidualQuantiser(nn.Module):
    """Encoder, codebooks [L, K, d] and decoder; vectors are standardised by mean [D] and std, a scalar."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        latent: int,
        levels: int,
        codebook_size: int,
        generator: torch.Generator,
        initial: Literal["uniform", "xavier"] = "uniform",
    ) -> None:
        """Layers width-hidden-latent and back, ReLU between them and none at the ends.

        initial: weights uniform within 1 / sqrt(inputs), biases too; or Xavier-normal with biases 0 (LETTER). The
        codebooks start uniform within 1 / K: fit_start replaces them.
        """
        super().__init__()
        sizes = [width, *hidden, latent]
        self.encoder = _layers(sizes, generator, initial)
        self.decoder = _layers(sizes[::-1], generator, initial)
        codebooks = torch.empty(levels, codebook_size, latent)
        self.codebooks = nn.Parameter(codebooks.uniform_(-1 / codebook_size, 1 / codebook_size, generator=generator))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(()))

    @property
    def levels(self) -> int:
        """L."""
        return int(self.codebooks.shape[0])

    @property
    def codebook_size(self) -> int:
        """K."""
        return int(self.codebooks.shape[1])

    def standardise_by(self, vectors: Tensor) -> None:
        """Take the mean of every dimension and one standard deviation from vectors float32 [n, D]; 1 if all are equal.

        One for all dimensions: a scale for each would give the weakest dimensions of an SVD the weight of the strongest
        (items near in text then share a first code hardly more often than others).
        """
        parts = torch.split(vectors, _CHUNK)  # double precision of all of them at once would need twice their memory
        n = len(vectors)
        mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / n
        variance = torch.stack([(part.double() - mean).square().sum(dim=0) for part in parts]).sum(dim=0) / n
        std = variance.mean().sqrt()
        # Below this the vectors are constant up to the rounding of float32.
        constant = std <= 1e-6 * torch.stack([part.abs().amax() for part in parts]).amax()
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(constant, 1.0))

    def standardised(self, vectors: Tensor) -> Tensor:
        """The vectors [B, D] as the encoder sees them, and as the decoder has to give them back."""
        return (vectors - self.mean) / self.std

    def forward(self, vectors: Tensor, assign_last: AssignLast | None = None) -> Quantised:
        """Quantise vectors [B, D]; assign_last decides the codes of the last level, None: the nearest codeword."""
        latent = self.encoder(self.standardised(vectors))
        residual, residuals, codes = latent, [], []
        for level, codebook in enumerate(self.codebooks.detach()):
            residuals.append(residual)
            last = level == self.levels - 1
            codes.append(_assigned(residual.detach(), codebook, assign_last if last else None))
            residual = residual - embedding(codes[-1], codebook)
        chosen = torch.stack(codes, dim=1)
        codewords = self.codewords(chosen)
        quantised = latent + (codewords.sum(dim=1) - latent).detach()
        return Quantised(latent, torch.stack(residuals, dim=1), chosen, codewords, quantised, self.decoder(quantised))

    def codewords(self, codes: Tensor) -> Tensor:
        """The codewords [B, L, d] of codes int64 [B, L], with gradient to the codebooks."""
        first = torch.arange(self.levels, device=codes.device) * self.codebook_size
        return embedding(codes + first, self.codebooks.flatten(0, 1))

    @torch.no_grad()
    def codes(self, vectors: Tensor) -> Tensor:
        """Codes int64 [n, L] of vectors float32 [n, D]: the nearest codeword on every level, no gradient, in chunks.

        Equal vectors get equal codes, whatever rows they stand in and whatever stands beside them.
        """
        first, inverse = distinct_rows(vectors.detach().cpu().numpy())
        rows = torch.from_numpy(first)
        parts = [self._nearest(vectors[part.to(vectors.device)]) for part in torch.split(rows, _CHUNK)]
        return torch.cat(parts)[torch.from_numpy(inverse).to(parts[0].device)]

    def _nearest(self, vectors: Tensor) -> Tensor:
        residual = self.encoder(self.standardised(vectors.float()))
        codes = []
        for codebook in self.codebooks:
            codes.append(_assigned(residual, codebook, None))
            residual = residual - embedding(codes[-1], codebook)
        return torch.stack(codes, dim=1)


def _layers(sizes: Sequence[int], generator: torch.Generator, initial: str) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
        if initial == "xavier":
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        else:
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _assigned(residual: Tensor, codebook: Tensor, assign: AssignLast | None) -> Tensor:
    """Codes int64 [B] of residuals [B, d]; the lowest code where several are nearest."""
    # ||r - e||^2 without ||r||^2, which is the same for all codes.
    distances = torch.addmm(codebook.square().sum(dim=1), residual, codebook.T, alpha=-2)
    if assign is None:
        return distances.argmin(dim=1)
    return assign((distances + residual.square().sum(dim=1, keepdim=True)).clamp_min(0))


def quantisation_loss(quantised: Quantised, commitment: float, reduction: Reduction) -> Tensor:
    """sum_l ||sg[r_l] - e_l||^2 + commitment ||r_l - sg[e_l]||^2 (TIGER, section 3.1), a scalar.

    reduction "sum": over dimensions and levels, as in the formula; "mean": over both, as LETTER's code. Always the mean
    over the batch. The first term moves the codebooks, the second the encoder.
    """
    residuals, codewords = quantised.residuals, quantised.codewords
    to_codebooks = (residuals.detach() - codewords).square()
    to_encoder = (residuals - codewords.detach()).square()
    loss = to_codebooks + commitment * to_encoder
    return loss.sum(dim=(1, 2)).mean() if reduction == "sum" else loss.mean()


def reconstruction_loss(standardised: Tensor, quantised: Quantised, reduction: Reduction) -> Tensor:
    """||x - xhat||^2 of the standardised vectors [B, D], summed or averaged over dimensions, mean over the batch."""
    error = (standardised - quantised.reconstruction).square()
    return error.sum(dim=1).mean() if reduction == "sum" else error.mean()

"""What is to be known of a trained residual quantiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gemsbench.identifiers.distinct_rows import Float32Array
from gemsbench.identifiers.k_means import codebook_load
from gemsbench.identifiers.residual_quantiser import ResidualQuantiser
from gemsbench.identifiers.vectors import ItemVectors

_CHUNK = 8192  # rows measured at a time


def training_record(
    log: Sequence[Mapping[str, Any]], left: Mapping[str, Any], vectors: ItemVectors, codebook_size: int
) -> dict[str, Any]:
    """JSON values of a training, the same bits in every run with the same inputs: no times.

    log: lines of train_quantiser. left: what variance_left measured. items_without_vector: of which the encoder knows
    nothing. vectors_per_code, few_vectors_per_code: see codebook_load. last_epoch: terms of the loss, share of codes
    used per level and dead codes moved.
    """
    known = int(vectors.known.sum())
    last = {name: value for name, value in log[-1].items() if name not in ("epoch", "seconds")} if log else {}
    return {
        "encoder": vectors.encoder,
        "items_without_vector": vectors.n_items - known,
        **codebook_load(known, codebook_size),
        "epochs": len(log),
        "last_epoch": last,
        "dead_codes_reseated": sum(int(line["reseated"]) for line in log),
        "variance_left": dict(left),
    }


@torch.no_grad()
def variance_left(model: ResidualQuantiser, vectors: Float32Array, codes: Tensor) -> dict[str, Any]:
    """What the codes int64 [n, L] leave of vectors float32 [n, D], as shares of a variance.

    latent: after each level, of the latent vectors. reconstruction: by the decoder, of the standardised vectors. The
    last bits depend on the order of rows: give them in known_items.known_by_rank.
    """
    rows, codes_of = torch.split(torch.from_numpy(vectors), _CHUNK), torch.split(codes, _CHUNK)
    latents = [model.encoder(model.standardised(part)) for part in rows]
    centre = torch.cat(latents).double().mean(dim=0)
    total, error, varying = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    left = torch.zeros(model.levels, dtype=torch.float64)
    for part, latent, part_codes in zip(rows, latents, codes_of, strict=True):
        sums = model.codewords(part_codes).cumsum(dim=1)
        total += (latent.double() - centre).square().sum()
        left += (latent[:, None] - sums).double().square().sum(dim=(0, 2))
        standardised = model.standardised(part)
        error += (standardised - model.decoder(sums[:, -1])).double().square().sum()
        varying += standardised.double().square().sum()
    return {"latent": (left / total).tolist(), "reconstruction": float(error / varying)}

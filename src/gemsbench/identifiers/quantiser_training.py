"""Training of a residual quantiser on the vectors of a catalogue, resumable bit by bit.

The order of an epoch and what its dead codes are moved to are functions of (seed, epoch) alone, and the rows are put
in the order of item ids: a killed run ends with the same bits as another, and so do permuted rows.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch
from torch import Tensor

from gemsbench import seeds
from gemsbench.checkpoint import below, load_checkpoint, optimizer_tensors, restore_optimizers, save_checkpoint
from gemsbench.config import settings_dict
from gemsbench.errors import InputError
from gemsbench.files import sha256_json
from gemsbench.identifiers.distinct_rows import Float32Array, Int64Array, distinct_rows
from gemsbench.identifiers.k_means import k_means, nearest
from gemsbench.identifiers.residual_quantiser import (
    AssignLast,
    Quantised,
    Reduction,
    ResidualQuantiser,
    quantisation_loss,
    reconstruction_loss,
)
from gemsbench.progress import progress_bar
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads

CHECKPOINT = "quantiser.safetensors"
_LEAST_ADVISED = 16  # codes of a level, where there are as many vectors

# Named, weighted scalars that are added to the loss of a batch: (model, what it made of the batch, item ids int64 [B],
# epochs done before this one).
ExtraLoss = Callable[[ResidualQuantiser, Quantised, Tensor, int], Mapping[str, Tensor]]
# (residuals [m, d], their k-means centroids [K, d]) -> codewords to start a level with [K, d]
InitialCodebook = Callable[[Float32Array, Float32Array], Float32Array]


@dataclass(frozen=True)
class QuantiserSettings:
    """An RQ-VAE and its training; the defaults are TIGER's (arXiv 2305.05065) where it names them.

    Raises InputError for values out of range.
    """

    hidden: tuple[int, ...] = (512, 256, 128)  # widths between the vectors and the latent; the decoder mirrors them
    latent: int = 32
    levels: int = 3
    codebook_size: int = 256
    commitment: float = 0.25  # weight of the encoder's half of the quantisation loss
    reduction: Reduction = "sum"  # over dimensions and levels, as in the formula; "mean" is that of LETTER's code
    initial: Literal["uniform", "xavier"] = "uniform"  # weights
    learning_rate: float = 1e-3  # AdamW
    weight_decay: float = 1e-4
    batch_size: int = 1024
    epochs: int = 1000  # 160,000 steps for 160,000 items; the paper's 20,000 epochs of 12,000 items are 235,000
    initial_sample: int = 20_480  # items at most that the k-means start of the codebooks sees
    dead_codes_until: float = 0.8  # of the epochs; later ones leave unused codes alone
    threads: int = 1  # results are bit-identical for a fixed number
    checkpoint_seconds: float = 30.0  # least time between checkpoints; the next falls at a multiple of save_every

    def __post_init__(self) -> None:
        least: dict[str, float] = dict.fromkeys(("latent", "levels", "batch_size", "initial_sample", "threads"), 1)
        least |= {"codebook_size": 2, "commitment": 0, "learning_rate": 0, "weight_decay": 0, "epochs": 0}
        least |= {"dead_codes_until": 0, "checkpoint_seconds": 0}
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise InputError(f"quantiser: {name} is {getattr(self, name)}; it must be at least {smallest}.")
        if min(self.hidden, default=1) < 1:
            raise InputError(f"quantiser: hidden is {list(self.hidden)}; widths must be at least 1.")
        if self.dead_codes_until > 1:
            raise InputError(
                f"quantiser: dead_codes_until is {self.dead_codes_until}, a share of the epochs: at most 1."
            )


@dataclass(frozen=True)
class Hooks:
    """What a scheme adds to the plain RQ-VAE; see train_quantiser."""

    extra: ExtraLoss | None = None
    assign_last: AssignLast | None = None
    initial_codebook: InitialCodebook | None = None
    on_epoch: Callable[[ResidualQuantiser, int], None] | None = None
    save_every: int = 1


def train_quantiser(
    vectors: Float32Array,
    ids: Int64Array,
    settings: QuantiserSettings,
    seed: int,
    checkpoint: Path,
    *,
    extra: ExtraLoss | None = None,
    assign_last: AssignLast | None = None,
    initial_codebook: InitialCodebook | None = None,
    on_epoch: Callable[[ResidualQuantiser, int], None] | None = None,
    save_every: int = 1,
    fingerprint_extra: Mapping[str, Any] | None = None,
) -> tuple[ResidualQuantiser, list[dict[str, Any]]]:
    """Train on vectors float32 [n, D], finite, of the items ids int64 [n], each once; model and log lines.

    Batches are drawn from the items in the order of ids: ranks that do not hang on how a catalogue is numbered
    (item_order.keyed_ranks) make the result a function of the items alone.

    extra: see ExtraLoss. assign_last: codes of the last level from its distances, while training. initial_codebook: see
    InitialCodebook; None: the centroids. on_epoch: called before every epoch with the epochs done. save_every: a
    checkpoint may fall only where the epochs done are a multiple of it, so that an on_epoch that makes something anew
    that rarely makes it anew after a kill. fingerprint_extra: JSON values of all that the hooks depend on.
    A log line has epoch (the epochs done), the terms of the loss as means over the epoch's items, used (share of the
    codes, per level), reseated (dead codes moved after the epoch) and seconds.
    Raises InputError for fewer distinct vectors than codes, and when the loss is no longer finite.
    """
    distinct = len(distinct_rows(vectors)[0])
    if distinct < settings.codebook_size:
        raise InputError(_too_few(distinct, settings.codebook_size))
    order = np.argsort(ids)
    hooks = Hooks(extra, assign_last, initial_codebook, on_epoch, save_every)
    rows, numbers = np.ascontiguousarray(vectors[order]), ids[order]
    fingerprint = _fingerprint(rows, numbers, settings, seed, fingerprint_extra or {})
    with torch_threads(settings.threads):
        path = checkpoint / CHECKPOINT
        run = _Run(torch.from_numpy(rows), torch.from_numpy(numbers), settings, seed, hooks, path, fingerprint)
        run.train()
    return run.model, run.log


def _too_few(distinct: int, codebook_size: int) -> str:
    problem = f"quantiser: {distinct} distinct vectors cannot fill a codebook of {codebook_size} codes."
    if distinct < 2:
        return f"{problem} Look at the vectors first (stats.json of the encoder): no quantiser tells equal ones apart."
    if distinct < _LEAST_ADVISED:
        return f"{problem} Lower codebook_size to at most {distinct}, or take more items."
    advised = max(_LEAST_ADVISED, 2 ** ((distinct // 8).bit_length() - 1))
    return (
        f"{problem} Lower codebook_size to at most {distinct}; {advised} is advised (the largest power of two not "
        f"above an eighth of the vectors, and at least {_LEAST_ADVISED})."
    )


def _fingerprint(
    rows: Float32Array, ids: Int64Array, settings: QuantiserSettings, seed: int, extra: Mapping[str, Any]
) -> str:
    """Of all that the result depends on: a checkpoint of another one is not used."""
    identity = {
        "vectors": hashlib.sha256(rows.data).hexdigest(),
        "ids": hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest(),
        "settings": settings_dict(replace(settings, checkpoint_seconds=0.0)),
        "seed": seed,
        "versions": {module.__name__: module.__version__ for module in (torch, faiss, np)},
        "code": source_sha256(__name__),
        "extra": dict(extra),
    }
    return sha256_json(identity)


def untrained(width: int, settings: QuantiserSettings, seed: int) -> ResidualQuantiser:
    """The model with the weights of the seed; its codebooks mean nothing yet."""
    generator = torch.Generator().manual_seed(seeds.stream_seed(seed, "quantiser", "weights"))
    sizes = (settings.latent, settings.levels, settings.codebook_size)
    return ResidualQuantiser(width, settings.hidden, *sizes, generator, settings.initial)


@torch.no_grad()
def start_codebooks(
    model: ResidualQuantiser,
    vectors: Tensor,
    settings: QuantiserSettings,
    seed: int,
    initial_codebook: InitialCodebook | None = None,
) -> None:
    """Standardise by vectors float32 [n, D], then set every level's codewords to k-means centroids of its residuals.

    A sample of initial_sample rows takes part. Residuals that are too few or too alike leave codewords that repeat
    others: dead codes, which the first epochs move.
    """
    model.standardise_by(vectors)
    rng = seeds.stream(seed, "quantiser", "initial sample")
    rows = np.sort(rng.permutation(len(vectors))[: settings.initial_sample])
    residuals = model.encoder(model.standardised(vectors[torch.from_numpy(rows)])).numpy()
    for level, codebook in enumerate(model.codebooks):
        level_seed = seeds.stream_seed(seed, "quantiser", "initial codebook", level)
        size, threads = settings.codebook_size, settings.threads
        codewords = k_means(residuals, size, level_seed, threads=threads, allow_empty=True)
        if initial_codebook is not None:
            codewords = initial_codebook(residuals, codewords)
        codebook.copy_(torch.from_numpy(codewords))
        residuals = residuals - codewords[nearest(residuals, codewords, threads)]


@dataclass
class _Run:
    """A training on its way; vectors and ids are in the order of ids."""

    vectors: Tensor
    ids: Tensor
    settings: QuantiserSettings
    seed: int
    hooks: Hooks
    path: Path
    fingerprint: str
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        self.model = untrained(self.vectors.shape[1], settings, self.seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )
        self.saved_at = time.monotonic()
        loaded = load_checkpoint(self.path, self.fingerprint)
        if loaded is None:
            start_codebooks(self.model, self.vectors, settings, self.seed, self.hooks.initial_codebook)
            return
        state, tensors = loaded
        self.log = state["log"]
        self.model.load_state_dict(below(tensors, "model/"))
        restore_optimizers([self.optimizer], below(tensors, "optimizer/"))

    def train(self) -> None:
        """Run the epochs that are missing."""
        with progress_bar("quantiser", self.settings.epochs) as report:
            for epoch in range(len(self.log), self.settings.epochs):
                if self.hooks.on_epoch is not None:
                    self.hooks.on_epoch(self.model, epoch)
                began = time.perf_counter()
                line = {"epoch": epoch + 1, **self._epoch(epoch)}
                self.log.append({**line, "seconds": round(time.perf_counter() - began, 4)})
                report(epoch + 1, f"quantiser: epoch {epoch + 1}, loss {line['loss']:.4f}")
                due = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
                if due and (epoch + 1) % self.hooks.save_every == 0:
                    self._save()

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """One pass over all items in batches of nearly equal size; what to log of it."""
        n = len(self.vectors)
        order = torch.from_numpy(seeds.stream(self.seed, "quantiser", "order", epoch).permutation(n))
        totals: dict[str, Tensor] = {}
        codes = []
        for rows in order.tensor_split(math.ceil(n / self.settings.batch_size)):
            terms, batch_codes = self._step(rows, epoch)
            codes.append(batch_codes)
            for name, term in terms.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + term.double() * len(rows)
        means = {name: float(total) / n for name, total in totals.items()}
        if not math.isfinite(sum(means.values())):
            raise InputError(
                f"quantiser: the loss is no longer finite in epoch {epoch + 1} ({means}). Lower learning_rate (now "
                f"{self.settings.learning_rate}) or the weights of the added losses."
            )
        unused = _counts(torch.cat(codes), self.settings.codebook_size) == 0
        reseated = 0
        if epoch + 1 <= self.settings.dead_codes_until * self.settings.epochs:
            reseated = self._reseat(unused, epoch)
        used = (1 - unused.double().mean(dim=1)).tolist()
        return {"loss": sum(means.values()), **means, "used": used, "reseated": reseated}

    def _step(self, rows: Tensor, epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        """One step on rows int64 [B]; the terms of its loss and the codes int64 [B, L]."""
        settings, vectors = self.settings, self.vectors.index_select(0, rows)
        quantised = self.model(vectors, self.hooks.assign_last)
        terms = {
            "reconstruction": reconstruction_loss(self.model.standardised(vectors), quantised, settings.reduction),
            "quantisation": quantisation_loss(quantised, settings.commitment, settings.reduction),
        }
        if self.hooks.extra is not None:
            terms |= self.hooks.extra(self.model, quantised, self.ids[rows], epoch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}, quantised.codes

    @torch.no_grad()
    def _reseat(self, unused: Tensor, epoch: int) -> int:
        """Move the unused codes, bool [L, K], onto present residuals of random items; how many there were.

        Level by level, so that a level's residuals are those of the codes that the levels before it have by then.
        """
        rng = seeds.stream(self.seed, "quantiser", "dead codes", epoch)
        for level in torch.nonzero(unused.any(dim=1))[:, 0].tolist():
            dead = unused[level]
            rows = torch.from_numpy(rng.permutation(len(self.vectors))[: int(dead.sum())])
            self.model.codebooks[level, dead] = self.model(self.vectors[rows]).residuals[:, level]
            moments = self.optimizer.state[self.model.codebooks]
            for name in ("exp_avg", "exp_avg_sq"):  # what the optimizer remembers is of the old place
                moments[name][level, dead] = 0.0
        return int(unused.sum())

    def _save(self) -> None:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors([self.optimizer]).items()}
        save_checkpoint(self.path, {"fingerprint": self.fingerprint, "log": self.log}, tensors)
        self.saved_at = time.monotonic()


def _counts(codes: Tensor, size: int) -> Tensor:
    """How often each code occurs, int64 [L, K], in codes int64 [n, L]."""
    levels = codes.shape[1]
    flat = codes + size * torch.arange(levels)
    return torch.bincount(flat.flatten(), minlength=levels * size).reshape(levels, size)

"""LETTER's identifiers: RQ-VAE codes of the text that also follow use and spread evenly (arXiv 2405.07314)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy
import torch
from torch import Tensor

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers.balanced_groups import balanced_groups, size_bounds
from gemsbench.identifiers.code_diversity import CodeGroupTable, diversity_loss
from gemsbench.identifiers.codes import Int32Array
from gemsbench.identifiers.collaborative_alignment import alignment_loss
from gemsbench.identifiers.collisions import append_level, code_groups
from gemsbench.identifiers.distinct_rows import Float32Array, Int64Array
from gemsbench.identifiers.item_order import keyed_ranks
from gemsbench.identifiers.known_items import code_table, known_by_rank, required_vectors
from gemsbench.identifiers.quantiser_record import training_record, variance_left
from gemsbench.identifiers.quantiser_training import QuantiserSettings, train_quantiser
from gemsbench.identifiers.residual_quantiser import Quantised, Reduction, ResidualQuantiser
from gemsbench.identifiers.scheme import Identifiers, RawCodes
from gemsbench.identifiers.sinkhorn import balanced_codes
from gemsbench.identifiers.sinkhorn_reassignment import ReassignmentSettings, reassign
from gemsbench.identifiers.statistics import require_spread
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads

if TYPE_CHECKING:
    import polars as pl

    from gemsbench.identifiers.vectors import ItemVectors

Use: TypeAlias = tuple[Float32Array, npt.NDArray[np.bool_]]  # collaborative vectors [n, d], and which are known
SCHEME = "letter"
TEXT_ENCODER = "item-text"
USE_ENCODER = "sasrec"
# What the training depends on beside the quantiser; the rest is for the codes that it gave.
_TRAINED_BY = ("alpha", "beta", "groups", "regroup_every", "balance_epsilon", "balance_iterations")


@dataclass(frozen=True)
class LETTERQuantiser(QuantiserSettings):
    """Levels, codes, losses, weights and optimizer of the official code, but 1,000 epochs instead of its 20,000.

    Its means over dimensions and levels are what alpha and beta are published for.
    """

    hidden: tuple[int, ...] = (512, 256, 128, 64)  # the official code has 2048 and 1024 before them
    levels: int = 4
    reduction: Reduction = "mean"
    initial: Literal["uniform", "xavier"] = "xavier"


@dataclass(frozen=True)
class LETTERSettings:
    """Config of the scheme; raises InputError for values out of range."""

    quantiser: LETTERQuantiser = field(default_factory=LETTERQuantiser)
    alpha: float = 0.02  # weight of the collaborative loss; 0: none; official runs: 0.1 and 0.01, by data set
    beta: float = 1e-4  # weight of the diversity loss; 0: none
    groups: int = 10  # of the codes of a level, for the diversity loss
    regroup_every: int = 10  # epochs; 1 in the official code
    balance_epsilon: float = 0.003  # of the last level's balanced assignment while training
    balance_iterations: int = 50  # 0: the nearest codeword there, too
    reassignment: ReassignmentSettings = field(default_factory=ReassignmentSettings)
    most_per_code: int = 256  # items that may share their codes after re-assignment

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "balance_iterations"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{SCHEME}: {name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("groups", "regroup_every", "most_per_code"):
            if getattr(self, name) < 1:
                raise InputError(f"{SCHEME}: {name} is {getattr(self, name)}; it must be at least 1.")
        if not self.balance_epsilon > 0:
            raise InputError(f"{SCHEME}: balance_epsilon is {self.balance_epsilon}; it must be positive.")
        if self.beta:
            size_bounds(self.quantiser.codebook_size, self.groups)


class LETTER:
    """RQ-VAE of the text vectors with LETTER's losses; its re-assignment of equal codes, and numbers for the rest."""

    Config: ClassVar[type] = LETTERSettings

    def make(
        self,
        config: LETTERSettings,
        items: pl.DataFrame,
        vectors: Mapping[str, ItemVectors],
        seed: int,
        checkpoint: Path,
    ) -> Identifiers:
        """Train, take the codes once, re-assign and number equal ones; see Scheme.make.

        An item without text has the codes of the mean vector; one without use has no part in the collaborative loss.
        Raises InputError when the vectors of use are not as wide as the latent.
        """
        text = required_vectors(vectors, TEXT_ENCODER, items, SCHEME)
        use = _vectors_of_use(config, vectors, items)
        ranks = keyed_ranks(items)
        known = known_by_rank(text, ranks)
        rows = text.vectors[known]
        with torch_threads(config.quantiser.threads):
            model, log = _trained(config, rows, ranks[known].astype(np.int64), _by_rank(use, ranks), seed, checkpoint)
            codes = model.codes(torch.from_numpy(rows))
            left = variance_left(model, rows, codes)
            of_mean = model.codes(model.mean[None])[0]
            raw = code_table(text.n_items, known, codes.numpy(), of_mean.numpy(), config.quantiser.codebook_size)
            require_spread(raw, SCHEME)
            resolved, policy = _resolved(model, text, raw, config.reassignment)
        record = {
            **training_record(log, left, text, config.quantiser.codebook_size),
            "items_without_use": None if use is None else use.n_items - int(use.known.sum()),
            "reassignment": policy,
        }
        appended = append_level(resolved, items, SCHEME, most=config.most_per_code, always=False)
        return Identifiers(appended, quantised=raw, resolved=resolved, record=record, log=log)


def _vectors_of_use(
    config: LETTERSettings, vectors: Mapping[str, ItemVectors], items: pl.DataFrame
) -> ItemVectors | None:
    """The collaborative vectors, None where no loss reads them; raises InputError when they are of another width."""
    if not config.alpha:
        return None
    use = required_vectors(vectors, USE_ENCODER, items, SCHEME)
    if use.width != config.quantiser.latent:
        raise InputError(
            f"identifiers '{SCHEME}': the vectors of '{USE_ENCODER}' have {use.width} dimensions and the latent has "
            f"{config.quantiser.latent}, but the collaborative loss is their dot product. Set quantiser.latent of "
            f"'{SCHEME}' to {use.width}, or the width of '{USE_ENCODER}' to {config.quantiser.latent}."
        )
    return use


def _by_rank(use: ItemVectors | None, ranks: Int32Array) -> Use | None:
    """The rows of use in the order of ranks int32 [n_items + 1], without padding."""
    if use is None:
        return None
    items = np.argsort(ranks[1:]) + 1
    return use.vectors[items], use.known[items]


def _trained(
    config: LETTERSettings,
    rows: Float32Array,
    ids: Int64Array,
    use: Use | None,
    seed: int,
    checkpoint: Path,
) -> tuple[ResidualQuantiser, list[dict[str, Any]]]:
    """The quantiser of rows float32 [n, D] of the items ids int64 [n], trained with LETTER's losses; use: row = id."""
    losses = _Losses(config, use, int(ids.max()), seed)
    balanced = partial(balanced_codes, epsilon=config.balance_epsilon, iterations=config.balance_iterations)
    identity = {
        "settings": {name: getattr(config, name) for name in _TRAINED_BY},
        "use": None if use is None else hashlib.sha256(use[0].tobytes() + use[1].tobytes()).hexdigest(),
        "versions": {"scipy": scipy.__version__},  # balanced_groups solves an assignment with it
        "code": source_sha256(__name__),
    }
    return train_quantiser(
        rows,
        ids,
        config.quantiser,
        seed,
        checkpoint,
        extra=losses.of_batch,
        assign_last=balanced if config.balance_iterations else None,
        initial_codebook=partial(_balanced_start, config) if config.balance_iterations else None,
        on_epoch=losses.on_epoch,
        save_every=config.regroup_every if config.beta else 1,  # groups of the codes are not in a checkpoint
        fingerprint_extra=identity,
    )


def _balanced_start(config: LETTERSettings, residuals: Float32Array, centroids: Float32Array) -> Float32Array:
    """The means of residuals [m, d] shared evenly among the centroids [K, d]: no code starts with few items."""
    rows, centres = torch.from_numpy(residuals).double(), torch.from_numpy(centroids).double()
    distances = torch.cdist(rows, centres).square()
    codes = balanced_codes(distances, config.balance_epsilon, config.balance_iterations)
    sums = torch.zeros_like(centres).index_add_(0, codes, rows)
    counts = torch.bincount(codes, minlength=len(centres))[:, None]
    means = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return np.asarray(means.float().numpy())


class _Losses:
    """The two added losses of an epoch: the groups of the codes and the draws among them change with it."""

    def __init__(self, config: LETTERSettings, use: Use | None, largest_id: int, seed: int) -> None:
        self._config, self._seed, self._largest_id = config, seed, largest_id
        self._use = None if use is None else (torch.from_numpy(use[0]), torch.from_numpy(use[1]))
        self._table: CodeGroupTable | None = None
        self._draws = torch.empty(0)

    def on_epoch(self, model: ResidualQuantiser, epoch: int) -> None:
        """Group the codes anew every regroup_every epochs; draw for every item and level."""
        if not self._config.beta:
            return
        if epoch % self._config.regroup_every == 0:
            books = model.codebooks.detach().numpy()
            groups = [
                balanced_groups(book, self._config.groups, seeds.stream(self._seed, SCHEME, "groups", epoch, level))
                for level, book in enumerate(books)
            ]
            self._table = CodeGroupTable.of(torch.from_numpy(np.stack(groups)))
        draws = seeds.stream(self._seed, SCHEME, "positives", epoch).random((self._largest_id + 1, model.levels))
        self._draws = torch.from_numpy(draws)

    def of_batch(self, model: ResidualQuantiser, found: Quantised, ids: Tensor, epoch: int) -> Mapping[str, Tensor]:
        """The weighted losses of a batch of the items ids int64 [B]."""
        losses: dict[str, Tensor] = {}
        if self._use is not None:
            vectors, known = self._use
            losses["collaborative"] = self._config.alpha * alignment_loss(found.quantised, vectors[ids], known[ids])
        if self._table is not None:
            positives = self._table.others(found.codes, self._draws[ids])
            losses["diversity"] = self._config.beta * diversity_loss(model.codebooks, found.codes, positives)
        return losses


def _resolved(
    model: ResidualQuantiser, text: ItemVectors, raw: RawCodes, settings: ReassignmentSettings
) -> tuple[RawCodes, dict[str, Any]]:
    """The codes after re-assignment on the last level, and JSON values that say what it did."""
    rows = np.where(text.known[1:, None], text.vectors[1:], model.mean.numpy())
    made = reassign(model, rows, raw.codes[1:].astype(np.int64), settings)
    resolved = RawCodes(np.concatenate([raw.codes[:1], made.codes.astype(np.int32)]), raw.sizes)
    before, after = code_groups(raw.codes), code_groups(resolved.codes)
    items = text.n_items
    policy = {
        "collision_rate_before": 1 - len(before.sizes) / items,
        "collision_rate_after": 1 - len(after.sizes) / items,
        "items_moved": made.moved,
        "items_left": int(after.shared.sum()),
        "rounds": made.rounds,
    }
    return resolved, policy

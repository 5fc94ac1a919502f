"""What is to be known of identifiers: how many codes they use, how evenly, and which items share theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ABSENT, Int32Array
from gemsbench.identifiers.collisions import code_groups
from gemsbench.identifiers.scheme import Identifiers, RawCodes

# A quantiser below one of these has collapsed. Sound ones are far above: TIGER reports at least 80 % usage.
LEAST_DISTINCT = 0.05  # distinct identifiers over items
LEAST_USAGE = 0.25  # codes used on a level over those that could be
LEAST_PERPLEXITY = 0.10  # exp(entropy) of a level's codes over the same


def identifier_statistics(made: Identifiers) -> dict[str, Any]:
    """JSON values that describe what a scheme made.

    scheme, n_items, sizes. levels: one mapping per level of the final codes (size, used, usage = used / size,
    perplexity = exp(entropy in nats), perplexity_share = perplexity / size, prefixes = distinct beginnings that end
    on this level); items without a code on a level take no part in it. collisions: for each of quantised, resolved
    and final that there is, distinct, rate = (n - distinct) / n, sharing = items whose codes another item has, and
    largest_group. appended: size of the further level and items told apart by it, None where there is none.
    """
    final = RawCodes(made.codes.codes, made.codes.sizes)
    stages = {"quantised": made.quantised, "resolved": made.resolved, "final": final}
    collisions = {name: _collisions(raw) for name, raw in stages.items() if raw is not None}
    before = made.resolved if made.resolved is not None else made.quantised
    appended = None
    if before is not None and len(final.sizes) == len(before.sizes) + 1:
        last = "resolved" if made.resolved is not None else "quantised"
        appended = {"size": final.sizes[-1], "items": collisions[last]["sharing"]}
    return {
        "scheme": made.codes.scheme,
        "n_items": made.codes.n_items,
        "sizes": list(final.sizes),
        "levels": _levels(final),
        "collisions": collisions,
        "appended": appended,
    }


def require_spread(raw: RawCodes, scheme: str) -> None:
    """Raise InputError when a quantiser collapsed: its codes tell few items apart, or a level uses few of its codes.

    Called before equal codes are told apart, which would hide it. A level is judged by the distinct identifiers,
    each counted once, so that many items of one text are not taken for a fault of the quantiser; it can use at most
    as many codes as there are of them.
    """
    require_distinct(raw, scheme)
    distinct = np.unique(raw.codes[1:], axis=0)
    for number, (column, size) in enumerate(zip(distinct.T, raw.sizes, strict=True), start=1):
        counts = _counts(column, size)
        possible = min(size, len(distinct))
        used, perplexity = int((counts > 0).sum()), _perplexity(counts)
        if used < LEAST_USAGE * possible or perplexity < LEAST_PERPLEXITY * possible:
            raise InputError(
                f"identifiers '{scheme}': level {number} has collapsed. Its {len(distinct)} distinct identifiers use "
                f"{used} of {possible} possible codes (at least {LEAST_USAGE:.0%} expected) with a perplexity of "
                f"{perplexity:.1f} (at least {LEAST_PERPLEXITY * possible:.1f} expected). Lower codebook_size or "
                "levels, lower the learning rate, or train for more epochs."
            )


def require_distinct(raw: RawCodes, scheme: str) -> None:
    """Raise InputError when the codes tell fewer than 5 % of the items (at least two) apart."""
    items = len(raw.codes) - 1
    groups = code_groups(raw.codes)
    distinct = len(groups.sizes)
    if distinct < min(items, max(2.0, LEAST_DISTINCT * items)):
        raise InputError(
            f"identifiers '{scheme}': {items} items have {distinct} distinct identifiers, and {groups.sizes.max()} "
            f"items share one (at least {LEAST_DISTINCT:.0%} distinct expected). Look at the vectors first (stats.json "
            "of the encoder): if they are equal, no quantiser can tell the items apart; if they are not, lower the "
            "learning rate, train for more epochs, or use more levels."
        )


def _collisions(raw: RawCodes) -> dict[str, Any]:
    groups = code_groups(raw.codes)
    items, distinct = len(groups.of), len(groups.sizes)
    return {
        "distinct": distinct,
        "rate": (items - distinct) / items,
        "sharing": int(groups.shared.sum()),
        "largest_group": int(groups.sizes.max()),
    }


def _levels(raw: RawCodes) -> list[dict[str, Any]]:
    levels = []
    for column, size, prefixes in zip(raw.codes[1:].T, raw.sizes, _prefixes(raw.codes), strict=True):
        counts = _counts(column, size)
        used, perplexity = int((counts > 0).sum()), _perplexity(counts)
        levels.append(
            {
                "size": size,
                "used": used,
                "usage": used / size,
                "perplexity": perplexity,
                "perplexity_share": perplexity / size,
                "prefixes": int(prefixes),
            }
        )
    return levels


def _counts(column: Int32Array, size: int) -> npt.NDArray[np.int64]:
    """How often each code of a level occurs, int64 [size]."""
    return np.bincount(column[column != ABSENT], minlength=size)


def _perplexity(counts: npt.NDArray[np.int64]) -> float:
    """The exponential of the entropy of the counts; 0 where nothing was counted."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _prefixes(codes: Int32Array) -> npt.NDArray[np.int64]:
    """Number of distinct beginnings of every length 1..L, int64 [L]; an absent code ends none."""
    rows = codes[1:]
    ordered = rows[np.lexsort(rows.T[::-1])]
    new = np.ones(ordered.shape, np.bool_)
    new[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    counts: npt.NDArray[np.int64] = (new & (ordered != ABSENT)).sum(axis=0, dtype=np.int64)
    return counts

"""One job of the workflow: the identifiers of a recipe under one scheme, with what is to be known of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemsbench import registry
from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.files import write_json
from gemsbench.identifiers.statistics import identifier_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from gemsbench.identifiers.scheme import Identifiers, Scheme
    from gemsbench.identifiers.vectors import ItemVectors

STATS = "stats.json"


def make_identifiers(
    target: str,
    values: Mapping[str, Any],
    items: pl.DataFrame,
    vectors: Mapping[str, ItemVectors],
    seed: int,
    out: Path,
    where: str,
) -> dict[str, Any]:
    """Run a scheme and write codes.parquet, codes.json and, last, stats.json into the folder out.

    target: of registry.SCHEMES. values: fields of the scheme's Config; where: what they are called in messages.
    vectors: by name of the encoder. Goes on from `<out>.checkpoint` after a kill. Returns the statistics. Raises
    InputError for a wrong setting, and for identifiers that are not one of its own for every item.
    """
    scheme: Scheme = registry.resolve(target)()
    config: Any = load_settings(scheme.Config, values, where)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    made: Identifiers = scheme.make(config, items.sort("item_id"), vectors, seed, checkpoint)
    if made.codes.n_items != items.height:
        raise InputError(
            f"{where}: identifiers for {made.codes.n_items} items, the recipe has {items.height}. Give every item one."
        )
    made.codes.require_injective()
    stats = {**identifier_statistics(made), **made.record}
    out.mkdir(parents=True, exist_ok=True)
    made.codes.save(out)
    write_json(out / STATS, stats)
    delete_checkpoint(checkpoint)
    return stats

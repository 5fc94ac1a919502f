"""One job of the workflow: the identifiers of a recipe under one scheme, with what is to be known of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemsbench import registry
from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.files import write_json, write_text
from gemsbench.identifiers.statistics import identifier_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

    from gemsbench.identifiers.scheme import Identifiers, Scheme
    from gemsbench.identifiers.vectors import ItemVectors

STATS = "stats.json"
LOG = "log.jsonl"


def make_identifiers(
    target: str,
    values: Mapping[str, Any],
    items: pl.DataFrame,
    vectors: Mapping[str, ItemVectors],
    seed: int,
    out: Path,
    where: str,
) -> dict[str, Any]:
    """Run a scheme and write codes.parquet, codes.json, log.jsonl and, last, stats.json into the folder out.

    target: of registry.SCHEMES. values: fields of the scheme's Config; where: what they are called in messages.
    items: in any row order. vectors: by name of the encoder. Goes on from `<out>.checkpoint` after a kill. The log is
    empty for a scheme that keeps none. Returns the statistics. Raises InputError, which says where, for a wrong
    setting, for what the scheme refuses, and for identifiers that are not one of its own for every item.
    """
    scheme: Scheme = registry.resolve(target)()
    config: Any = load_settings(scheme.Config, values, where)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with _naming(where):
        made: Identifiers = scheme.make(config, items, vectors, seed, checkpoint)
        if made.codes.n_items != items.height:
            raise InputError(
                f"identifiers for {made.codes.n_items} items, the recipe has {items.height}. Give every item one."
            )
        made.codes.require_injective()
    stats = {**identifier_statistics(made), **made.record}
    out.mkdir(parents=True, exist_ok=True)
    made.codes.save(out)
    write_text(out / LOG, "".join(f"{json.dumps(line)}\n" for line in made.log))
    write_json(out / STATS, stats)
    delete_checkpoint(checkpoint)
    return stats


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put where before the message of an InputError that does not begin with it."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from error

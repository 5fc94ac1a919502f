"""One job of the workflow: an encoder's vectors of the items of a recipe, with what they tell of the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemsbench import registry
from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings
from gemsbench.encoders.telling import what_vectors_tell
from gemsbench.errors import InputError
from gemsbench.files import write_json, write_text
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemsbench.encoders.contract import Encoder
    from gemsbench.protocol.pack import TrainingData

STATS = "stats.json"
LOG = "log.jsonl"


def make_vectors(
    name: str, values: Mapping[str, Any], data: TrainingData, seed: int, out: Path, where: str
) -> dict[str, Any]:
    """Run the encoder called name and write vectors.safetensors, log.jsonl and, last, stats.json into the folder out.

    values: fields of the encoder's Config; where: what they are called in messages. Goes on from `<out>.checkpoint`
    after a kill. Returns the statistics. Raises InputError for a wrong setting, and for vectors that do not fit the
    items.
    """
    encoder: Encoder = registry.resolve(registry.lookup(registry.ENCODERS, name, "encoder"))()
    config: Any = load_settings(encoder.Config, values, where)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    encoded = encoder.encode(config, data, seed, checkpoint)
    if len(encoded.vectors) != data.n_items + 1:
        raise InputError(
            f"{name}: gave {len(encoded.vectors) - 1} vectors for {data.n_items} items. Give one per item."
        )
    vectors = ItemVectors(name, catalogue_sha256(data.items), encoded.vectors, encoded.known)
    stats = {
        "encoder": name,
        "n_items": vectors.n_items,
        "width": vectors.width,
        "known": int(vectors.known.sum()),
        **what_vectors_tell(data, vectors),
        **encoded.record,
    }
    out.mkdir(parents=True, exist_ok=True)
    vectors.save(out)
    write_text(out / LOG, "".join(f"{json.dumps(line)}\n" for line in encoded.log))
    write_json(out / STATS, stats)
    delete_checkpoint(checkpoint)
    return stats

"""Check a prepared folder again: every invariant, and that nothing was changed since it was written."""

from __future__ import annotations

from pathlib import Path

from gemsbench.data import schema
from gemsbench.data.invariants import Violation, structure_violations
from gemsbench.data.recipe import Recipe
from gemsbench.errors import InputError
from gemsbench.files import read_table
from gemsbench.protocol.candidates import NEGATIVES
from gemsbench.protocol.fingerprint import protocol_fingerprint
from gemsbench.protocol.invariants import protocol_violations
from gemsbench.protocol.pack import load_pack
from gemsbench.protocol.released_invariants import released_violations


def validate(folder: Path, recipe: Recipe, seed: int) -> list[Violation]:
    """Broken invariants of a prepared folder; empty when all hold.

    Raises InputError naming a file that is missing, changed or of the wrong shape.
    """
    if not folder.exists():
        raise InputError(
            f"{folder}: is not there. Make it: `gemsbench data prepare {recipe.name}` with the same --config and --out."
        )
    pack = load_pack(folder)
    tables = {
        name: schema.conform(read_table(pack.folder / f"{name}.parquet"), columns, name)
        for name, columns in schema.TABLES.items()
    }
    negatives = int(pack.manifest.get("negatives", NEGATIVES))
    counts = pack.manifest.get("funnel")
    if recipe.released:
        broken = released_violations(tables, recipe, negatives, counts=counts)
    else:
        broken = structure_violations(tables, recipe, counts) or protocol_violations(
            tables, recipe, seed, negatives=negatives
        )
    if not broken and protocol_fingerprint(tables["cases"], tables["candidates"]) != pack.fingerprint:
        broken = [Violation("T2", "stats.json: the fingerprint is not that of cases and candidates.")]
    return broken

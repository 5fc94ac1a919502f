"""Write a prepared recipe as a pack for people who never run this workflow: questions, candidates, labels apart."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, sha256_file, write_json, write_table, write_text
from gemsbench.protocol.pack import CHECKSUMS, EXPORTED, FORMAT_VERSION, MANIFEST, Pack

# Keys of stats.json that a reader of the pack needs.
CARRIED = (
    "recipe",
    "title",
    "licence",
    "citation",
    "seed",
    "history_length",
    "negatives",
    "fingerprint",
    "train_events",
    "n_users",
)

README = """# {recipe}: a gemsbench pack

{title}

Licence of the data: {licence}
Please cite: {citation}

| file | what it holds |
|---|---|
| items.parquet | texts; item ids start at 1; `n_train` counts training events |
| queries.parquet | texts of all questions; query id 0 means "no query"; `n_items`: see below |
| interactions.parquet | training events only |
| cases.parquet | one row per question: user, task (rec or src), query, history (oldest first); no answers |
| candidates.parquet | the items to rank, one list per valid and test case, in a fixed random order |
| labels.parquet | the answers; do not read the rows with split "test" before your scores are final |
| pack.json, VERSION, checksums.json | settings, version of this format, sha256 of every file |

`hist_tasks` is a bitmask: 1 recommendation, 2 search, 3 a purchase and the search made from it. `n_items` counts the
items that training searches or category paths lead to; it is 0 for a query that only validation or test asks.

Your method gives one number per candidate, higher is better, in the order of the list `items`.

    from gemsbench.protocol import load_pack
    pack = load_pack("this folder")
    data = pack.training_data()              # training events and cases, validation candidates
    questions = pack.questions("test")       # no answers in here

Protocol fingerprint: {fingerprint}. Compare numbers only if their fingerprints are equal.
"""


def export_pack(pack: Pack, out: Path | str) -> Path:
    """Write pack to the new folder out; `load_pack(out)` reads it back with the same fingerprint.

    Raises InputError when out exists and is not an exported pack.
    """
    out = Path(out)
    if out.exists() and not (out / MANIFEST).is_file():
        raise InputError(f"{out}: exists and is not a pack. Choose a new folder.")
    manifest = {"format_version": FORMAT_VERSION, **{key: pack.manifest.get(key, "") for key in CARRIED}}
    with atomic_path(out) as folder:
        folder.mkdir()
        for name, table in _tables(pack).items():
            # conform keeps the columns of an exported pack only: no answers outside labels.
            write_table(folder / f"{name}.parquet", schema.conform(table, EXPORTED[name], name))
        write_json(folder / MANIFEST, manifest)
        write_text(folder / "VERSION", f"{FORMAT_VERSION}\n")
        write_text(folder / "README.md", README.format(**manifest))
        write_json(folder / CHECKSUMS, {path.name: sha256_file(path) for path in sorted(folder.iterdir())})
    return out


def _tables(pack: Pack) -> dict[str, pl.DataFrame]:
    cases = pack.cases()
    candidates = pack.candidates()
    positives = candidates.select("case_id", "positives")
    labels = cases.join(positives, on="case_id", how="left", maintain_order="left").with_columns(
        pl.coalesce("positives", pl.concat_list("target_item"))
    )
    return {
        "items": pack.items,
        "queries": pack.queries,
        "interactions": pack.training_data().events,
        "cases": cases,
        "candidates": candidates,
        "labels": labels,
    }

"""A recipe as everyone reads it: questions without answers, training data without the test split, labels apart.

`load_pack` reads a prepared folder (results/<profile>/prepared/<recipe>) or an exported pack (see export.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file, table_sha256

FORMAT_VERSION = 1
STATS = "stats.json"
MANIFEST = "pack.json"
CHECKSUMS = "checksums.json"

# An exported pack keeps the answers in one file of their own.
LABELS: schema.Schema = {
    "case_id": pl.Int64(),
    "split": schema.SPLIT,
    "target_item": pl.Int32(),
    "positives": pl.List(pl.Int32),
}
EXPORTED: Mapping[str, schema.Schema] = {
    "items": schema.ITEMS,
    "queries": schema.QUERIES,
    "interactions": schema.INTERACTIONS,
    "cases": {name: kind for name, kind in schema.CASES.items() if name != "target_item"},
    "candidates": {name: kind for name, kind in schema.CANDIDATES.items() if name != "positives"},
    "labels": LABELS,
}
QUESTION_COLUMNS = (
    *("case_id", "user_id", "task", "query_id", "query"),
    *("hist_items", "hist_tasks", "hist_queries", "items"),
)


@dataclass(frozen=True)
class TrainingData:
    """All that a method may see when it is fitted: nothing of the test split.

    items: the canonical table (text of all items; `n_train` counts train events only).
    queries: the rows of the canonical table that train and valid cases ask or category paths make, with the query_id
    of the whole table; `n_items` counts items by train searches and paths only.
    n_users, n_items: users have ids 0..n_users-1, items 1..n_items (0 is padding).
    events: train interactions (columns of schema.INTERACTIONS).
    cases: train and valid cases with their targets (columns of schema.CASES).
    valid_candidates: candidates of the valid cases (columns of schema.CANDIDATES).
    """

    items: pl.DataFrame
    queries: pl.DataFrame
    n_users: int
    n_items: int
    events: pl.DataFrame
    cases: pl.DataFrame
    valid_candidates: pl.DataFrame

    @cached_property
    def fitted_on(self) -> dict[str, str]:
        """What an artefact fitted on these data declares: the split and the sha256 of its events (invariant L-g)."""
        return {"split": "train", "events": table_sha256(self.events)}


@dataclass(frozen=True)
class Pack:
    """One recipe on disk; tables are read when asked for, so that evaluation never loads training cases."""

    folder: Path
    manifest: Mapping[str, Any]
    exported: bool

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.manifest["recipe"])

    @property
    def fingerprint(self) -> str:
        """Protocol fingerprint (protocol/fingerprint.py): numbers with different ones never share a table."""
        return str(self.manifest["fingerprint"])

    @property
    def fitted_on(self) -> dict[str, str]:
        """What a run on this recipe must have been fitted on; evaluation refuses scores that declare anything else."""
        return {"split": "train", "events": str(self.manifest.get("train_events", ""))}

    @property
    def n_users(self) -> int:
        """Number of users; their ids are 0..n_users-1."""
        return int(self.manifest["n_users"])

    @property
    def n_items(self) -> int:
        """Number of items; their ids are 1..n_items."""
        return self.items.height

    @cached_property
    def items(self) -> pl.DataFrame:
        """The items table (schema.ITEMS)."""
        return self._read("items", schema.ITEMS)

    @cached_property
    def queries(self) -> pl.DataFrame:
        """The queries table (schema.QUERIES)."""
        return self._read("queries", schema.QUERIES)

    def cases(self, *splits: str) -> pl.DataFrame:
        """Cases of the splits with their targets (schema.CASES), in case_id order; all splits when none is named."""
        wanted = _splits(splits)
        if not self.exported:
            return self._read("cases", schema.CASES, pl.col("split").is_in(wanted))
        cases = self._read("cases", EXPORTED["cases"], pl.col("split").is_in(wanted))
        targets = self._labels(wanted).drop("split", "positives")
        joined = cases.join(targets, on="case_id", how="left", maintain_order="left")
        return schema.conform(joined, schema.CASES, f"{self.folder}: cases with labels")

    def candidates(self, *splits: str) -> pl.DataFrame:
        """Candidate lists of the splits with their positives (schema.CANDIDATES), in case_id order."""
        wanted = [split for split in _splits(splits) if split != "train"]
        lists = self._candidate_lists(wanted)
        if not self.exported:
            return lists
        positives = self._labels(wanted).drop("split", "target_item")
        joined = lists.join(positives, on="case_id", how="left", maintain_order="left")
        return schema.conform(joined, schema.CANDIDATES, f"{self.folder}: candidates with labels")

    def labels(self, split: str) -> pl.DataFrame:
        """case_id and positives (list<int32>) of the split's cases."""
        return self.candidates(split).select("case_id", "positives")

    def questions(self, split: str = "test", task: str | None = None) -> pl.DataFrame:
        """What a method is asked: the columns QUESTION_COLUMNS, no target and no label, in case_id order."""
        asked = pl.col("split").is_in(_splits((split,)))
        if task is not None:
            if task not in schema.TASKS:
                raise InputError(f"unknown task '{task}'. Use {' or '.join(schema.TASKS)}.")
            asked &= pl.col("task") == task
        cases = self._read("cases", EXPORTED["cases"], asked)
        lists = self._candidate_lists([split]).select("case_id", "items")
        text = self.queries.select("query_id", query="text")
        return (
            cases.join(text, on="query_id", how="left", maintain_order="left")
            .with_columns(pl.col("query").fill_null(""))
            .join(lists, on="case_id", how="inner", maintain_order="left")
            .select(QUESTION_COLUMNS)
        )

    def training_data(self) -> TrainingData:
        """Training events, training and validation cases, validation candidates; nothing of the test split."""
        cases = self.cases("train", "valid")
        made = self.items["query_ids"].list.explode(empty_as_null=False)
        known = pl.concat([cases["query_id"], made]).unique()
        return TrainingData(
            items=self.items,
            queries=self.queries.filter(pl.col("query_id").is_in(known.implode())),
            n_users=self.n_users,
            n_items=self.n_items,
            events=self._read("interactions", schema.INTERACTIONS, pl.col("split") == "train"),
            cases=cases,
            valid_candidates=self.candidates("valid"),
        )

    def _labels(self, splits: list[str]) -> pl.DataFrame:
        return self._read("labels", LABELS, pl.col("split").is_in(splits))

    def _candidate_lists(self, splits: list[str]) -> pl.DataFrame:
        columns = EXPORTED["candidates"] if self.exported else schema.CANDIDATES
        of_split = pl.scan_parquet(self.folder / "cases.parquet").filter(pl.col("split").is_in(splits))
        ids = of_split.select("case_id").collect().to_series()
        return self._read("candidates", columns, pl.col("case_id").is_in(ids.implode()))

    def _read(self, name: str, columns: schema.Schema, keep: pl.Expr | None = None) -> pl.DataFrame:
        path = self.folder / f"{name}.parquet"
        frame = pl.scan_parquet(path).select(list(columns))
        try:
            table = (frame if keep is None else frame.filter(keep)).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{path}: not readable ({error}). Delete the folder and prepare it again.") from error
        table = schema.conform(table, columns, str(path))
        return table.sort("case_id") if "case_id" in columns else table


def load_pack(path: Path | str) -> Pack:
    """Open a prepared folder or an exported pack, after checking file checksums, columns and types.

    Raises InputError naming the file that is missing, changed or of the wrong shape.
    """
    folder = Path(path)
    exported = (folder / MANIFEST).is_file()
    if not exported and not (folder / STATS).is_file():
        raise InputError(
            f"{folder}: neither a prepared recipe (no {STATS}) nor an exported pack (no {MANIFEST}). "
            "Make one with `gemsbench data prepare RECIPE`."
        )
    manifest = read_json(folder / (MANIFEST if exported else STATS))
    _check_manifest(folder, manifest, exported)
    checksums = read_json(folder / CHECKSUMS) if exported else manifest["files"]
    tables = EXPORTED if exported else schema.TABLES
    _check_files(folder, checksums, {f"{name}.parquet" for name in tables})
    for name, columns in tables.items():
        _check_columns(folder / f"{name}.parquet", columns)
    return Pack(folder, manifest, exported)


def _check_manifest(folder: Path, manifest: Any, exported: bool) -> None:
    keys = ("recipe", "fingerprint", "n_users", "format_version", *(() if exported else ("files",)))
    missing = [key for key in keys if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise InputError(f"{folder}: its description lacks {', '.join(missing)}. Prepare or download it again.")
    if manifest["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{folder}: format version {manifest['format_version']}, this gemsbench reads {FORMAT_VERSION}. "
            "Prepare it again, or install the gemsbench version that wrote it."
        )


def _check_files(folder: Path, checksums: Mapping[str, str], needed: set[str]) -> None:
    for name in sorted(needed | set(checksums)):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file. Prepare or download the folder again.")
        if name not in checksums:
            raise InputError(f"{path}: has no checksum. Prepare or download the folder again.")
        if sha256_file(path) != checksums[name]:
            raise InputError(
                f"{path}: its sha256 is not the recorded one, so it was changed or cut after it was written. "
                "Prepare or download the folder again."
            )


def _check_columns(path: Path, columns: schema.Schema) -> None:
    try:
        found = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}).") from error
    schema.conform(pl.DataFrame(schema=found), columns, str(path))


def _splits(splits: tuple[str, ...]) -> list[str]:
    for split in splits:
        if split not in schema.SPLITS:
            raise InputError(f"unknown split '{split}'. Use {', '.join(schema.SPLITS)}.")
    return list(splits or schema.SPLITS)

"""Small sets of questions, in memory and as a prepared folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench import files
from gemsbench.data import schema
from gemsbench.evaluation import Scores
from gemsbench.protocol.fingerprint import protocol_fingerprint
from gemsbench.protocol.pack import FORMAT_VERSION


@dataclass(frozen=True)
class SmallPack:
    """What evaluation reads of a pack, without a folder."""

    case_table: pl.DataFrame
    candidate_table: pl.DataFrame
    fingerprint: str

    def cases(self, *splits: str) -> pl.DataFrame:
        return self.case_table.filter(pl.col("split").cast(pl.String).is_in(list(splits or schema.SPLITS)))

    def candidates(self, *splits: str) -> pl.DataFrame:
        return self.candidate_table.join(self.cases(*splits).select("case_id"), on="case_id", how="semi")

    def scores(self, values: Sequence[Sequence[float]], tasks: Sequence[str] = schema.TASKS, **header: Any) -> Scores:
        """Scores of the test cases of the tasks, in their order."""
        asked = self.cases("test").filter(pl.col("task").cast(pl.String).is_in(list(tasks)))
        flat = np.concatenate([np.asarray(v, dtype=np.float32) for v in values])
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
        header = {"method": "m", "fingerprint": self.fingerprint, "tasks": list(tasks), **header}
        return Scores(asked["case_id"].to_numpy(), flat, offsets, header)


MakePack = Callable[..., SmallPack]


def small_pack(
    items: Sequence[Sequence[int]],
    positives: Sequence[Sequence[int]],
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    first_id: int = 100,
) -> SmallPack:
    """One case per list of items; tasks default to rec, splits to test; case ids first_id, first_id + 3, ..."""
    n = len(items)
    zeros, empty = np.zeros(n, dtype=np.int32), [[] for _ in range(n)]
    ids = first_id + 3 * np.arange(n, dtype=np.int64)
    cases = pl.DataFrame(
        {
            "case_id": ids,
            "user_id": zeros,
            "task": tasks or ["rec"] * n,
            "query_id": zeros,
            "target_item": [p[0] for p in positives],
            "split": splits or ["test"] * n,
            "order_key": ids,
            "hist_items": empty,
            "hist_tasks": empty,
            "hist_queries": empty,
            "hist_event_ids": empty,
        },
        schema=schema.CASES,
        strict=False,
    )
    rows = {"case_id": ids, "items": items, "positives": positives, "sampler": ["uniform"] * n, "seed": zeros}
    candidates = pl.DataFrame(rows, schema=schema.CANDIDATES, strict=False)
    return SmallPack(cases, candidates, protocol_fingerprint(cases, candidates))


@pytest.fixture
def make_pack() -> MakePack:
    return small_pack


@pytest.fixture
def random_pack() -> MakePack:
    """Factory of packs with both tasks: (n cases, n candidates, seed, most positives per case)."""

    def make(n: int, size: int = 12, seed: int = 0, most: int = 1) -> SmallPack:
        rng = np.random.default_rng(seed)
        items = [rng.permutation(np.arange(1, 500))[:size].tolist() for _ in range(n)]
        positives = [rng.permutation(row)[: rng.integers(1, most + 1)].tolist() for row in items]
        return small_pack(items, positives, [schema.TASKS[i % 2] for i in range(n)])

    return make


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[SmallPack], Path]:
    """Write a SmallPack as a prepared folder."""

    def write(pack: SmallPack) -> Path:
        folder = tmp_path / "prepared"
        tables = {name: pl.DataFrame(schema=columns) for name, columns in schema.TABLES.items()}
        tables |= {"cases": pack.case_table, "candidates": pack.candidate_table}
        for name, table in tables.items():
            files.write_table(folder / f"{name}.parquet", schema.conform(table, schema.TABLES[name], name))
        sums = {f"{name}.parquet": files.sha256_file(folder / f"{name}.parquet") for name in tables}
        described = {"recipe": "small", "fingerprint": pack.fingerprint, "n_users": 1, "format_version": FORMAT_VERSION}
        files.write_json(folder / "stats.json", described | {"files": sums})
        return folder

    return write

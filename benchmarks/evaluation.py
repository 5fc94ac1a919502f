"""Time and memory of evaluating 155,000 cases x 100 candidates from a score file, beside two peers in the same run.

Run: python benchmarks/evaluation.py [--cases N]. Writes results/benchmarks/evaluation.json.
Each contender runs in a process of its own, so that peak memory is its own. ours: gemsbench.evaluation.evaluate, from
the files to metrics. per-case numpy: one argsort per case in a Python loop, all cases. ir_measures: a sample of the
cases, handed over as dictionaries that are already in memory (its reading of files is not counted); scaled linearly.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tabulate import tabulate

from gemsbench import files, seeds
from gemsbench.data import schema
from gemsbench.evaluation import evaluate, read_scores, write_scores
from gemsbench.protocol.pack import FORMAT_VERSION

CANDIDATES = 100
PEER_SAMPLE = 2_000
OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "evaluation.json"


def make_pack(folder: Path, n: int) -> None:
    """A prepared folder with n test cases (half per task), 20 history events each, and random float32 scores."""
    rng = seeds.stream(1, "benchmark", "evaluation")
    items = rng.integers(1, 60_000, size=(n, 1)) + np.arange(CANDIDATES) * 7
    items = rng.permuted(items, axis=1).astype(np.int32)
    target = items[np.arange(n), rng.integers(0, CANDIDATES, size=n)]
    history = rng.integers(1, 60_000, size=(n, 20)).astype(np.int32)
    case_id = np.arange(n, dtype=np.int64)
    tables = {name: pl.DataFrame(schema=columns) for name, columns in schema.TABLES.items()}
    tables["cases"] = pl.DataFrame(
        {
            "case_id": case_id,
            "user_id": (case_id // 2).astype(np.int32),
            "task": pl.Series(np.where(case_id % 2 == 0, "rec", "src")).cast(schema.TASK),
            "query_id": np.zeros(n, dtype=np.int32),
            "target_item": target,
            "split": pl.Series(np.full(n, "test")).cast(schema.SPLIT),
            "order_key": case_id,
            "hist_items": pl.Series(history).arr.to_list(),
            "hist_tasks": pl.Series(np.ones((n, 20), dtype=np.int8)).arr.to_list(),
            "hist_queries": pl.Series(np.zeros((n, 20), dtype=np.int32)).arr.to_list(),
            "hist_event_ids": pl.Series(history.astype(np.int64)).arr.to_list(),
        }
    )
    tables["candidates"] = pl.DataFrame(
        {
            "case_id": case_id,
            "items": pl.Series(items).arr.to_list(),
            "positives": pl.Series(target.reshape(n, 1)).arr.to_list(),
            "sampler": np.full(n, "uniform"),
            "seed": np.zeros(n, dtype=np.int64),
        }
    )
    for name, table in tables.items():
        files.write_table(folder / f"{name}.parquet", schema.conform(table, schema.TABLES[name], name))
    manifest = {
        "recipe": "benchmark",
        "fingerprint": "benchmark",
        "n_users": n,
        "format_version": FORMAT_VERSION,
        "files": {f"{name}.parquet": files.sha256_file(folder / f"{name}.parquet") for name in tables},
    }
    files.write_json(folder / "stats.json", manifest)
    scores = rng.standard_normal(n * CANDIDATES, dtype=np.float32)
    header = {"method": "random", "fingerprint": "benchmark", "tasks": ["rec", "src"]}
    write_scores(folder / "scores.parquet", case_id, (scores, np.full(n, CANDIDATES)), header)


def ours(folder: Path) -> tuple[float, float]:
    """(seconds, NDCG@10 over all cases) of evaluate, from the files to the metrics."""
    start = time.perf_counter()
    evaluation = evaluate(folder / "scores.parquet", folder)
    seconds = time.perf_counter() - start
    total = sum(values["n"] for values in evaluation.metrics.values())
    return seconds, sum(values["ndcg@10"] * values["n"] for values in evaluation.metrics.values()) / total


def argsort_per_case(folder: Path) -> tuple[float, float]:
    """(seconds, NDCG@10) of one stable argsort per case in a Python loop, from the files."""
    start = time.perf_counter()
    scores = read_scores(folder / "scores.parquet")
    table = pl.read_parquet(folder / "candidates.parquet", columns=["items", "positives"])
    items, targets = table["items"].explode().to_numpy(), table["positives"].list.first().to_numpy()
    total = 0.0
    for case in range(len(targets)):
        part = slice(scores.offsets[case], scores.offsets[case + 1])
        ranked = items[part][np.argsort(-scores.flat[part], kind="stable")]
        rank = int(np.flatnonzero(ranked == targets[case])[0]) + 1
        total += 1.0 / np.log2(rank + 1) if rank <= 10 else 0.0
    return time.perf_counter() - start, total / len(targets)


def ir_measures_sample(folder: Path) -> tuple[float, float]:
    """(seconds, NDCG@10) of ir_measures for Hit and NDCG at 5 and 10 on the first PEER_SAMPLE cases."""
    import ir_measures

    table = pl.read_parquet(folder / "candidates.parquet").head(PEER_SAMPLE)
    scores = read_scores(folder / "scores.parquet", table["case_id"].to_list())
    run, qrels = {}, {}
    for case, (case_id, items, positives) in enumerate(table.select("case_id", "items", "positives").iter_rows()):
        part = scores.flat[scores.offsets[case] : scores.offsets[case + 1]].tolist()
        run[str(case_id)] = dict(zip(map(str, items), part, strict=True))
        qrels[str(case_id)] = dict.fromkeys(map(str, positives), 1)
    measures = [ir_measures.parse_measure(name) for name in ("Success@5", "Success@10", "nDCG@5", "nDCG@10")]
    start = time.perf_counter()
    values = ir_measures.calc_aggregate(measures, qrels, run)
    return time.perf_counter() - start, float(values[measures[3]])


def _child(contender: Callable[[Path], tuple[float, float]], folder: Path, answer: Connection) -> None:
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, value = contender(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.send({"seconds": seconds, "peak_mib": peak / 1024, "imported_mib": imported / 1024, "ndcg@10": value})


def measure(contender: Callable[[Path], tuple[float, float]], folder: Path, repeats: int) -> dict[str, Any]:
    """The fastest of some runs, each in a fresh process; memory is the largest of them."""
    context = multiprocessing.get_context("spawn")
    results = []
    for _ in range(repeats):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(contender, folder, sender))
        process.start()
        sender.close()
        results.append(receiver.recv())
        process.join()
    fastest: dict[str, Any] = min(results, key=lambda result: result["seconds"])
    return fastest | {
        "peak_mib": max(result["peak_mib"] for result in results),
        "slowest_seconds": max(result["seconds"] for result in results),
    }


def main() -> None:
    """Make the input, measure every contender, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=155_000)
    n = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pack(folder, n)
        measured = {
            "ours": (n, measure(ours, folder, repeats=3)),
            "argsort per case": (n, measure(argsort_per_case, folder, repeats=1)),
            "ir_measures": (min(PEER_SAMPLE, n), measure(ir_measures_sample, folder, repeats=1)),
        }
    records = {
        contender: result | {"cases": cases, "seconds_scaled": result["seconds"] * n / cases}
        for contender, (cases, result) in measured.items()
    }
    rows = [[k, r["cases"], r["seconds"], r["seconds_scaled"], r["peak_mib"], r["ndcg@10"]] for k, r in records.items()]
    heading = ["", "cases", "seconds", f"scaled to {n:,}", "peak MiB", "NDCG@10"]
    print(tabulate(rows, heading, floatfmt=(".0f", ".0f", ".2f", ".2f", ".0f", ".6f")))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    versions = {"numpy": np.__version__, "polars": pl.__version__}
    files.write_json(OUTPUT, {"contenders": records, "candidates": CANDIDATES, "machine": machine | versions})
    print(f"written: {json.dumps(str(OUTPUT))}")


if __name__ == "__main__":
    main()

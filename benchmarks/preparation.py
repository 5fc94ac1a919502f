"""Time and memory of preparing datasets of true size, beside a plain pandas script in the same run.

Run: python benchmarks/preparation.py [--scale S] [--peer-scale S]. Writes results/benchmarks/preparation.json at true
size, and nothing at another scale.
The raw files are simulated, with as many lines and bytes as the real ones (preparation_files.py). Each contender runs
in a process of its own, so that peak memory is its own; seconds are wall time from the raw files to the prepared
folder, imports left out; cpu is user and system time together. ours: gemsbench.protocol.prepare with the rules of
electronics-2014, all invariants checked. plain: preparation_peer.py, which checks nothing; its counts must be ours.
plain / ours is a ratio of wall times: 4.6 on two cores, of which plain uses one; "cpu" is that of processor times: 3.5.
whole / half: ours on the file and on one made at half the scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from tabulate import tabulate

from gemsbench import files
from gemsbench.data import amazon, qilin
from gemsbench.data.recipe import CaseRules
from gemsbench.data.simulation.qilin_files import write_qilin
from gemsbench.data.simulation.request_world import RequestWorldSettings
from gemsbench.protocol.candidates import build_candidates
from gemsbench.protocol.prepare import prepare
from gemsbench.protocol.validate import validate
from preparation_files import METADATA_BYTES, REVIEW_BYTES, write_true_size

SEED, HISTORY = 2026, 20
NAME = "electronics-benchmark"
ELECTRONICS = dataclasses.replace(amazon.SIMULATED, name=NAME, cases=CaseRules(min_history=5, train_share=0.3))
CASES_PER_TASK = 155_000  # about as many as the test sets of arXiv 2601.09496
OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "preparation.json"


def electronics(folder: Path, out: Path) -> dict[str, Any]:
    settings = amazon.AmazonSettings()
    stats = prepare(ELECTRONICS, settings, folder, out / "prepared", seed=SEED, history_length=HISTORY)
    funnel = stats["funnel"]
    cases = stats["cases"]
    return {
        **{name: funnel[name] for name in ("purchases", "items", "queries")},
        "users": stats["users"],
        "cases": {f"{task} {split}": cases[task][split] for task in cases for split in ("valid", "test")},
        "training cases": sum(per["train"] for per in cases.values()),
    }


def plain(folder: Path, out: Path) -> dict[str, Any]:
    peer = importlib.import_module("preparation_peer")
    result: dict[str, Any] = peer.prepare(folder, out, SEED, NAME)
    return {"steps": result.pop("seconds"), **result}


def check(folder: Path, out: Path) -> dict[str, Any]:
    broken = validate(folder, ELECTRONICS, SEED)
    if broken:
        raise SystemExit(f"the benchmark's own data are broken: {broken}")
    return {}


def candidates(folder: Path, out: Path) -> dict[str, Any]:
    names = ("cases", "interactions", "users", "items")
    tables = {name: files.read_table(folder / f"{name}.parquet") for name in names}
    test = tables["cases"].filter(pl.col("split") == "test")
    asked = pl.concat(test.filter(pl.col("task") == task).head(CASES_PER_TASK) for task in ("rec", "src"))
    made = build_candidates(
        asked, tables["interactions"], tables["users"], tables["items"].height, seed=SEED, recipe=NAME
    )
    files.write_table(out / "candidates.parquet", made)
    return {"candidates": made.height, "cases": dict(asked.group_by("task").len().sort("task").iter_rows())}


def qilin_whole(folder: Path, out: Path) -> dict[str, Any]:
    settings = qilin.SimulatedQilinSettings()
    stats = prepare(qilin.SIMULATED, settings, folder, out / "prepared", seed=SEED, history_length=HISTORY)
    return {"users": stats["users"], "items": stats["items"], "cases": stats["cases"]}


def amazon_files(scale: Path, out: Path) -> dict[str, Any]:
    return {"bytes": write_true_size(out, float(scale.name), SEED)}


def qilin_files(scale: Path, out: Path) -> dict[str, Any]:
    share = float(scale.name)
    requests = RequestWorldSettings(round(15_482 * share), round(1_983_938 * share), 480, 60, 3.2, 6.1, 20)
    write_qilin(out, requests, SEED)
    return {}


CONTENDERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    run.__name__: run for run in (amazon_files, qilin_files, electronics, plain, check, candidates, qilin_whole)
}


def measure(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Run one contender in a fresh process."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--child", name, str(folder), str(out)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    record: dict[str, Any] = json.loads(answer)
    print(f"{name}: {record['seconds']:.1f} s, cpu {record['cpu']:.1f} s, {record['peak_gib']:.2f} GiB", flush=True)
    return record


def child(name: str, folder: Path, out: Path) -> None:
    """Run a contender here and print its record as the last line."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    record = CONTENDERS[name](folder, out)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps(record | {"seconds": seconds, "cpu": cpu, "peak_gib": after.ru_maxrss / 2**20}))


def compare(root: Path, scale: float, peer_scale: float) -> dict[str, Any]:
    """Every measurement, by name."""
    sizes = {}
    for part in sorted({scale, scale / 2, peer_scale}):
        sizes[str(part)] = measure("amazon_files", Path(str(part)), root / str(part))["bytes"]
    measure("qilin_files", Path(str(scale)), root / "qilin")
    whole = measure("electronics", root / str(scale), root / "out")
    prepared = root / "out" / "prepared"
    records = {
        "electronics": whole,
        "electronics, half": measure("electronics", root / str(scale / 2), root / "out-half"),
        "validate": measure("check", prepared, root / "out"),
        "candidates": measure("candidates", prepared, root / "out"),
        "qilin": measure("qilin_whole", root / "qilin", root / "out-qilin"),
        "plain": measure("plain", root / str(peer_scale), root / "out-plain"),
    }
    peer, half = records["plain"], records["electronics, half"]
    known = {scale: whole, scale / 2: half}
    same = known.get(peer_scale) or measure("electronics", root / str(peer_scale), root / "out-same")
    differing = {key for key in same if key in peer and key not in ("seconds", "cpu", "peak_gib")}
    differing = {key for key in differing if same[key] != peer[key]}
    if differing:
        raise SystemExit(f"the plain script counts otherwise: {[(k, same[k], peer[k]) for k in sorted(differing)]}")
    ratios = {
        "plain / ours": peer["seconds"] / same["seconds"],
        "plain / ours, cpu": peer["cpu"] / same["cpu"],
        "whole / half": whole["seconds"] / half["seconds"],
        "whole / half, cpu": whole["cpu"] / half["cpu"],
    }
    return {"records": records, "ratios": ratios, "raw_bytes": sizes, "scale": scale, "peer_scale": peer_scale}


def main() -> None:
    """Make the files, measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real size")
    parser.add_argument("--peer-scale", type=float, help="share at which the plain script is run; default: the same")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        name, folder, out = asked.child
        child(name, Path(folder), Path(out))
        return
    peer_scale = asked.peer_scale or asked.scale
    with tempfile.TemporaryDirectory() as name:
        result = compare(Path(name), asked.scale, peer_scale)
    rows = [[key, r["seconds"], r["cpu"], r["peak_gib"]] for key, r in result["records"].items()]
    print(tabulate(rows, ["", "seconds", "cpu seconds", "peak GiB"], floatfmt=".2f"))
    print(tabulate(result["ratios"].items(), floatfmt=".2f"))
    if (asked.scale, peer_scale) != (1.0, 1.0):
        print(f"not of true size: {OUTPUT.name} is left as it is")
        return
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    versions = {"numpy": np.__version__, "pandas": pd.__version__, "polars": pl.__version__}
    real = {"reviews": REVIEW_BYTES, "metadata": METADATA_BYTES}
    files.write_json(OUTPUT, result | {"real_bytes": real, "machine": machine | versions})
    print(f"written: {json.dumps(str(OUTPUT))}")


if __name__ == "__main__":
    main()

"""Residual k-means of a large catalogue, beside faiss.ResidualQuantizer, and the cost of an RQ-VAE epoch.

Run: python benchmarks/quantisers.py [--quick] [--threads 2]. Results are added to results/benchmarks/quantisers.json,
one entry per size and number of threads. Vectors are random: groups of groups with noise, of length one. Each
contender runs in a fresh process that makes the same vectors first, so that its peak of resident memory is its own; the
peer, faiss.ResidualQuantizer with Train_default, a beam of one and as many iterations, is set to use all rows (its
default silently takes a sample of 256 rows per code). With --repeats the contenders take turns, and ratios are medians
over repeats. Reconstruction error: mean squared distance between a vector and the sum of its codewords, over the
variance. The RQ-VAE epochs follow the k-means start, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when faiss is imported: waiting threads sleep

import faiss
import numpy as np
import numpy.typing as npt
import torch

from gemsbench.identifiers.quantiser_training import QuantiserSettings, train_quantiser
from gemsbench.identifiers.rqkmeans import residual_k_means

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "quantisers.json"
TARGET = {"seconds": 180.0, "peak_mib": 3072.0}  # of residual k-means of 160,000 x 768, 3 x 256, on two threads
Array = npt.NDArray[np.float32]


def catalogue(args: argparse.Namespace) -> Array:
    """Vectors float32 [n, width] of length one."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((args.items, args.width), np.float32)
    for groups, size in ((40, 1.0), (2000, 0.7)):
        vectors += size * rng.standard_normal((groups, args.width), np.float32)[rng.integers(0, groups, args.items)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def error_share(vectors: Array, codes: npt.NDArray[np.int64], codebooks: Array) -> float:
    """Squared distances to the sums of codewords over those to the mean, in parts so that they take no memory."""
    centre, left, total = vectors.mean(axis=0), 0.0, 0.0
    for start in range(0, len(vectors), 8192):
        rows = vectors[start : start + 8192]
        sums = sum(book[codes[start : start + 8192, level]] for level, book in enumerate(codebooks))
        left += float(np.square(rows - sums).sum())
        total += float(np.square(rows - centre).sum())
    return left / total


def ours(args: argparse.Namespace, vectors: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """Codes [n, L] and codebooks [L, K, d] of residual k-means."""
    fitted = residual_k_means(vectors, args.levels, args.codes, 0, args.iterations, args.threads)
    return fitted.codes, fitted.codebooks


def peer(args: argparse.Namespace, vectors: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """The same of faiss.ResidualQuantizer."""
    faiss.omp_set_num_threads(args.threads)
    bits = args.codes.bit_length() - 1
    quantizer = faiss.ResidualQuantizer(args.width, args.levels, bits)
    quantizer.train_type, quantizer.max_beam_size = faiss.ResidualQuantizer.Train_default, 1
    quantizer.cp.niter, quantizer.cp.seed = args.iterations, 1234
    quantizer.cp.max_points_per_centroid = len(vectors)
    quantizer.train(vectors)
    codes = faiss.unpack_bitstrings(quantizer.compute_codes(vectors), args.levels, bits)
    codebooks = faiss.vector_to_array(quantizer.codebooks).reshape(args.levels, args.codes, args.width)
    return codes.astype(np.int64), codebooks


def k_means_entry(function: Callable[..., Any], args: argparse.Namespace) -> dict[str, float]:
    """Seconds, memory and error of one contender."""
    vectors = catalogue(args)
    before, began, worked = peak_mib(), time.perf_counter(), time.process_time()
    codes, codebooks = function(args, vectors)
    found = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked}
    found |= {"peak_mib": peak_mib(), "peak_mib_before": before}
    distinct = len(np.unique(codes @ args.codes ** np.arange(args.levels)))
    return found | {"error_share": error_share(vectors, codes, codebooks), "distinct_share": distinct / args.items}


def epochs_entry(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of an RQ-VAE epoch after the first."""
    settings = QuantiserSettings(codebook_size=args.codes, levels=args.levels, epochs=args.epochs, threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        _, log = train_quantiser(catalogue(args), np.arange(1, args.items + 1), settings, 0, Path(folder))
    seconds = [float(line["seconds"]) for line in log]
    return {"epoch_seconds": statistics.median(seconds[1:]), "first_epoch_seconds": seconds[0], "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


CONTENDERS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "residual_k_means": lambda args: k_means_entry(ours, args),
    "faiss_residual_quantizer": lambda args: k_means_entry(peer, args),
    "rqvae": epochs_entry,
}


def fresh(name: str, args: argparse.Namespace) -> dict[str, float]:
    """What a contender found in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All contenders in turn; medians, and the ratios of ours to the peer."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for repeat in range(args.repeats):
        for name, entries in runs.items():
            entries.append(fresh(name, args))
            print(f"repeat {repeat}: {name} {entries[-1]}", flush=True)
    pairs = list(zip(runs["residual_k_means"], runs["faiss_residual_quantizer"], strict=True))
    names = ("seconds", "processor_seconds", "peak_mib", "error_share")
    ratios = {name: statistics.median(one[name] / other[name] for one, other in pairs) for name in names}
    medians = {
        name: {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        for name, entries in runs.items()
    }
    return {"medians": medians, "times_peer": ratios, "runs": runs}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 x 64, 3 x 32, instead of 160,000 x 768, 3 x 256")
    parser.add_argument("--items", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--codes", type=int, help="per level, a power of two (the peer knows no other number)")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=3, help="of the RQ-VAE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name, quick, full in (("items", 4000, 160_000), ("width", 64, 768), ("codes", 32, 256)):
        setattr(args, name, getattr(args, name) or (quick if args.quick else full))
    return args


def main() -> None:
    """Measure, print, and add to the record."""
    args = arguments()
    if args.only:
        print(json.dumps(CONTENDERS[args.only](args)))
        return
    found = measure(args)
    found["setting"] = {name: value for name, value in vars(args).items() if name not in ("output", "only", "quick")}
    found["versions"] = {module.__name__: module.__version__ for module in (faiss, torch, np)}
    found["machine"] = {"processor": platform.machine(), "cores": os.cpu_count()}
    key = f"{args.items} x {args.width}, {args.levels} x {args.codes}, {args.threads} threads"
    print(key)
    for name, entry in found["medians"].items():
        print(f"  {name:26}", ", ".join(f"{key} {value:.4g}" for key, value in entry.items()))
    print("  ours / peer", ", ".join(f"{key} {value:.3f}" for key, value in found["times_peer"].items()))
    if not args.quick:
        print("  target", ", ".join(f"{key} < {value:.0f}" for key, value in TARGET.items()))
    record = json.loads(args.output.read_text("utf-8")) if args.output.exists() else {}
    record[key] = found
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    partial.replace(args.output)


if __name__ == "__main__":
    main()

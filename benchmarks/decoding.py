"""Exact ranking of 100 candidates in one tree pass, beside constrained `generate` with 10, 20 and 100 beams.

Run: python benchmarks/decoding.py --shape t5-base [--batch 8] [--device cuda] [--layers N]. Needs torch and
transformers; random weights of the real shapes, nothing is downloaded. Results are added to
results/benchmarks/decoding.json, one entry per shape, layers, device and batch.
Contenders take turns within a repeat, so that a busy machine slows all of them; the ratios are medians over repeats.
On the CPU processor time is recorded too (waiting threads sleep instead of spinning): other work does not lengthen it.
Both include the encoder or the prompt. `generate` copies every prompt per beam: it gets as many cases at a time as make
--rows copies. Where --beam-cases limits how many cases it gets at all, its time is scaled linearly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from gemsbench.decoding import CandidateScorer, constrained_beam, pack

LEVELS, CODES = 4, 256
OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "decoding.json"
Scores = list[npt.NDArray[np.float32]]


def t5_base(layers: int | None) -> tuple[Any, int]:
    """Flan-T5-base's shape, untied, with rows for the codes; (model, id of the first code)."""
    first = 32_128
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=first + LEVELS * CODES,
        d_model=768,
        d_ff=2048,
        num_layers=layers or 12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    model = T5ForConditionalGeneration(config)
    head = torch.nn.Linear(768, config.vocab_size, bias=False)  # the class ties it whatever the config says
    model.lm_head.weight = head.weight
    return model, first


def qwen2_5_3b(layers: int | None) -> tuple[Any, int]:
    """Qwen2.5-3B's shape, tied, with rows for the codes; (model, id of the first code)."""
    first = 151_936
    config = Qwen2Config(
        vocab_size=first + LEVELS * CODES,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=layers or 36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config), first


SHAPES = {"t5-base": t5_base, "qwen2.5-3b": qwen2_5_3b}


def make_cases(args: argparse.Namespace, batch: int, first: int) -> tuple[list[list[int]], list[npt.NDArray[np.int64]]]:
    """Prompts of random words and tables of uniform codes."""
    rng = np.random.default_rng([batch, args.prompt_tokens])
    prompts = rng.integers(2, first // 2, (batch, args.prompt_tokens)).tolist()
    codes = rng.integers(0, CODES, (batch, args.candidates, LEVELS))
    return prompts, list(first + codes + CODES * np.arange(LEVELS))


def timed(function: Callable[[], Scores], device: str) -> tuple[tuple[float, float], Scores]:
    """Seconds by the wall and of the processor in one call, and what it gave."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, worked = time.perf_counter(), time.process_time()
    scores = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start, time.process_time() - worked), scores


def contenders(args: argparse.Namespace, model: Any, batch: int, first: int) -> dict[str, Callable[[], Scores]]:
    """What takes turns: name -> scores of the first cases."""
    prompts, tables = make_cases(args, batch, first)
    limit = min(batch, args.beam_cases or batch)

    def generate(beams: int) -> Scores:
        found = []
        at_a_time = max(1, args.rows // beams)
        for start in range(0, limit, at_a_time):
            part = slice(start, min(limit, start + at_a_time))
            found += constrained_beam(model, prompts[part], tables[part], beams)
        return found

    scorer = CandidateScorer(model)
    beams = {f"beams={beams}": lambda beams=beams: generate(beams) for beams in args.beams}
    return {"exact": lambda: scorer.score(prompts, tables), **beams}


def measure(args: argparse.Namespace, model: Any, batch: int, first: int) -> dict[str, Any]:
    """Seconds of every contender and repeat, their ratios to ours, and whether the rankings are equal."""
    functions = contenders(args, model, batch, first)
    used = min(batch, args.beam_cases or batch)
    functions["exact"]()  # allocations and kernels are there afterwards
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    scores: dict[str, Scores] = {}
    for repeat in range(args.repeats):
        for name, function in functions.items():
            beams = int(name.partition("=")[2] or 0)
            if beams < 100 or repeat < args.repeats_100:
                (wall, worked), scores[name] = timed(function, args.device)
                scale = 1.0 if name == "exact" else batch / used
                seconds[name].append((wall * scale, worked * scale))
                print(f"batch {batch}, repeat {repeat}: {name} {wall * scale:.2f} s", flush=True)
    found = {}
    for name, values in seconds.items():
        ratios = np.median([np.divide(*both) for both in zip(values, seconds["exact"], strict=False)], axis=0)
        pairs = list(zip(scores["exact"], scores[name], strict=False))
        found[name] = {
            "seconds": [wall for wall, _ in values],
            "processor_seconds": [worked for _, worked in values],
            "times_exact": float(ratios[0]),
            "processor_times_exact": float(ratios[1]),
            "same_ranking": all(np.array_equal(np.argsort(-a), np.argsort(-b)) for a, b in pairs),
            "same_top10": statistics.mean(np.array_equal(np.argsort(-a)[:10], np.argsort(-b)[:10]) for a, b in pairs),
            "largest_difference": max(float(np.abs(a - b)[np.isfinite(b)].max()) for a, b in pairs),
        }
    nodes = [pack(table).n_nodes for table in make_cases(args, batch, first)[1]]
    return {"contenders": found, "mean_nodes": statistics.mean(nodes), "beam_cases": used}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="t5-base")
    parser.add_argument("--layers", type=int, help="instead of the real number")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20, 100])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--repeats-100", type=int, default=1, help="repeats with 100 beams or more")
    parser.add_argument("--rows", type=int, default=200, help="cases x beams in one `generate`")
    parser.add_argument("--beam-cases", type=int, default=0, help="0: all")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


def main() -> None:
    """Build the model, measure every batch size, print a table and add it to the record."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, first = SHAPES[args.shape](args.layers)
    model = model.to(device=args.device, dtype=getattr(torch, args.dtype)).eval()
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    setting = {name: value for name, value in vars(args).items() if name not in ("output", "batch")}
    record = json.loads(args.output.read_text("utf-8")) if args.output.exists() else {}
    for batch in args.batch:
        found = measure(args, model, batch, first) | {"setting": setting | {"batch": batch}, "versions": versions}
        key = f"{args.shape}, {args.layers or 'all'} layers, {args.device}, {args.dtype}, batch {batch}"
        record[key] = found | {"machine": {"processor": machine, "cores": os.cpu_count()}}
        print(key)
        for name, row in found["contenders"].items():
            wall, worked = statistics.median(row["seconds"]), statistics.median(row["processor_seconds"])
            times = f"{wall:9.2f} s {row['times_exact']:6.2f} x, processor {worked:9.2f} s"
            print(f"  {name:12}{times} {row['processor_times_exact']:6.2f} x", end="  ")
            print(f"same ranking: {row['same_ranking']}, same top 10: {row['same_top10']:.2f}")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        partial = args.output.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
        partial.replace(args.output)


if __name__ == "__main__":
    main()

"""Whole training steps with GEMS beside AdamW, LoRA, GaLore and the released three-pass scheme, in one run.

Run: python benchmarks/optimizer.py --shape t5-base --layers 2 --rank 128 [--device cuda]. Needs torch, transformers and
peft (galore-torch where installed); random weights of the real shapes, nothing is downloaded. The result is added to
results/benchmarks/optimizer.json, one entry per shape, layers, device, dtype, rank and tokens; the tables of all are
in optimizer.md beside it.
All methods train the same linear layers on the same batch, half of its rows per task, every weight matrix seeing
--tokens positions (an encoder-decoder has as many decoder positions, unless --target-length says fewer). `paper` and
`per-layer` run the two tasks one after the other, the rest one mixed batch. All methods are in memory at once and take
turns within a round, so that a busy machine slows all of them; reported are medians. Plain steps are timed without a
refresh of bases and without training of GEMS's gate; these are timed by themselves and spread over --update-gap and
10 steps. Memory is measured in steps of their own:
what stands (weights, buffers, state) and the most that is allocated beside it, on the CPU by torch's allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import peft
import torch
import transformers

from optimizer_steps import field, table
from optimizer_steps.clocks import PHASES, Clock, Seconds
from optimizer_steps.contender import Contender
from optimizer_steps.memory import FullSize, most_allocated, standing_bytes, storage_bytes
from optimizer_steps.models import SHAPES, Batch, Setup, make_batch
from optimizer_steps.ours import random_knowledge
from optimizer_steps.peers import trained_shapes

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "optimizer.json"
FEW_ROWS, FEW_LENGTH = 2, 33  # too few for an activation to have the shape of a matrix


def memory_of(
    contender: Contender, shapes: list[tuple[int, int]], rank: int, batch: Batch, few: Batch, device: str
) -> dict[str, Any]:
    """Bytes: what stands, the peak of a step, state by measure and formula, and what a step of few tokens adds."""
    standing = standing_bytes(contender)
    state = sum(tensor.nbytes for tensor in contender.state())
    formula = contender.formula()
    dtype = batch.states["inputs_embeds"].dtype
    wide = [shape for shape in shapes if min(shape) > 2 * rank]  # stacked bases cannot be taken for one of these
    with FullSize(contender, wide) as seen:
        contender.step(few, Clock(device))
    return {
        "standing": standing,
        "weights": storage_bytes([*contender.model.parameters(), *contender.model.buffers()]),
        "peak": standing + most_allocated(lambda: contender.step(batch, Clock(device)), device),
        "state": state,
        "state_formula": formula["state"],
        "gradients_formula": formula["gradients"],
        "allocated_with_few_tokens": most_allocated(lambda: contender.step(few, Clock(device)), device),
        "largest_matrix": max(rows * columns for rows, columns in shapes) * dtype.itemsize,
        "full_size": seen.found,
    }


def take_turns(
    contenders: dict[str, Contender], batch: Batch, few: Batch, repeats: int, device: str
) -> dict[str, list[dict[str, Seconds]]]:
    """Seconds per phase of every contender and round, after a step of few tokens that makes the state."""
    for contender in contenders.values():
        contender.step(few, Clock(device))
    found: dict[str, list[dict[str, Seconds]]] = {name: [] for name in contenders}
    for repeat in range(1, repeats + 1):
        for name, contender in contenders.items():
            clock = Clock(device)
            contender.step(batch, clock)
            found[name].append({phase: clock.phases[phase] for phase in PHASES})
            spent = clock.total
            print(f"round {repeat}: {name} {spent.wall:.2f} s, processor {spent.processor:.2f} s", flush=True)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one setting."""
    setup = Setup(
        args.shape, args.layers, args.device, getattr(torch, args.dtype), args.rank, args.update_gap, args.checkpointing
    )
    model = setup.model()
    batch = make_batch(setup, model, args.tokens, args.length, args.target_length or args.length)
    few = make_batch(setup, model, FEW_ROWS * FEW_LENGTH, FEW_LENGTH, FEW_LENGTH)
    missing = field.missing(args.methods)
    knowledge = None
    if args.null_space and any(name.startswith("GEMS") for name in args.methods):
        knowledge = random_knowledge(model, few)
    shapes = trained_shapes(model)
    del model
    contenders = {name: field.build(name, setup, few, knowledge) for name in args.methods if name not in missing}
    steps = take_turns(contenders, batch, few, args.repeats, args.device)
    result: dict[str, Any] = {}
    for name, contender in contenders.items():
        occasional = contender.now_and_then(batch, args.device)
        for what, each in occasional.items():
            print(f"{name}: {what} {each.seconds.wall:.2f} s every {each.every} steps ({each.how})", flush=True)
        result[name] = table.summary(steps[name], occasional)
        result[name]["memory"] = memory_of(contender, shapes, args.rank, batch, few, args.device)
    return {"contenders": result, "missing": missing, "lora_equal_rank": field.equal_rank(setup)}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="t5-base")
    parser.add_argument("--layers", type=int, help="instead of the real number (an encoder and a decoder have it each)")
    parser.add_argument("--rank", type=int, default=128, help="shared; each task has half of it")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=256, help="positions per row")
    parser.add_argument("--target-length", type=int, help="decoder positions per row (default: --length)")
    parser.add_argument("--methods", nargs="+", choices=field.NAMES, default=list(field.NAMES), metavar="METHOD")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--update-gap", type=int, default=200)
    parser.add_argument("--null-space", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, in all methods")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args(given)


def write(path: Path, text: str) -> None:
    """The whole file, or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Measure one setting, add it to the record, write the tables of all."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    found = measure(args)
    found["clock"] = "wall" if args.device == "cuda" else "processor"
    found["ratios"] = {clock: table.ratios(found["contenders"], clock) for clock in ("wall", "processor")}
    found["targets"] = {clock: table.targets(found["contenders"], clock) for clock in ("wall", "processor")}
    found["setting"] = {name: value for name, value in vars(args).items() if name != "output"}
    found["vocabulary"] = "embedding and head have 1,000 rows (frozen), so that the head does not decide"
    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    found["machine"] = {"processor": machine, "cores": os.cpu_count()}
    key = f"{args.shape}, {args.layers or 'all'} layers, {args.device}, {args.dtype}, rank {args.rank}"
    key += f", {args.tokens} tokens"
    if args.target_length:
        key += f", targets of {args.target_length}"
    if args.checkpointing:
        key += ", checkpointing"
    record = json.loads(args.output.read_text("utf-8")) if args.output.exists() else {}
    record[key] = found
    write(args.output, json.dumps(record, indent=2, sort_keys=True) + "\n")
    tables = [table.markdown(name, entry) for name, entry in sorted(record.items())]
    title = "# Whole training steps: GEMS and its peers\n\nWritten by `benchmarks/optimizer.py`.\n"
    write(args.output.with_suffix(".md"), "\n".join([title, *tables]))
    print(table.markdown(key, found))
    return record


if __name__ == "__main__":
    main()

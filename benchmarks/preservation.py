"""What 200 steps of tuning do to what a stand-in knows: GEMS with its null space, without, and with a random one.

Run: python benchmarks/preservation.py [--profile mini] [--steps 200], after `snakemake` has made the profile's
backbones, bases and prepared recipe. Writes results/benchmarks/preservation.json.

Every run tunes the same backbone on the same batches of both tasks (atomic identifiers, as "Ours"). Measured per
matrix: |(W_N - W_0) U| / |W_0 U| for the directions U that the knowledge basis keeps, the relative change of the
layer's output on known features (largest and median over the matrices); and over the whole network: the relative change
of the logits of old tokens on general text, which also has parts outside U. A random basis of equal size shows what
freezing as many directions does when they are any directions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from tabulate import tabulate
from torch import Tensor

from gemsbench.backbones.corpus import read_corpus, token_windows
from gemsbench.backbones.folder import check_folder
from gemsbench.backbones.loading import load_backbone
from gemsbench.files import write_json
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.methods.generative import Assembly, GenerativeSettings, TunerChoice, assemble
from gemsbench.optim import KnowledgeBasis
from gemsbench.pipeline.data_jobs import fetch_job
from gemsbench.profile import load_profile
from gemsbench.protocol.pack import load_pack
from gemsbench.training.batches import Batches
from gemsbench.training.loop_settings import LoopSettings
from gemsbench.training.objective import identifier_loss
from gemsbench.training.step import Stepper

OUTPUT = Path("results/benchmarks/preservation.json")
BATCH = 64
RANK = 16
VARIANTS = {
    "paper, null space": ("paper", "known"),
    "fast, null space": ("fast", "known"),
    "paper, random null space": ("paper", "random"),
    "paper, none": ("paper", "none"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    profile = load_profile(Path(f"config/{chosen.profile}.yaml"))
    results = Path("results") / profile.profile
    recipe = next(iter(profile.recipes))
    data = load_pack(results / "prepared" / recipe).training_data()
    raw = fetch_job(profile, profile.corpus.name)
    assert raw is not None
    corpus = read_corpus(next(iter(raw.outputs.values())), 0.05).heldout
    found: dict[str, Any] = {}
    for name in dict.fromkeys(profile.tables.blocks.values()):
        folder, basis = results / "backbones" / name, KnowledgeBasis.load(results / "basis" / f"{name}.safetensors")
        texts = _windows(folder, corpus)
        for variant, (preset, kept) in VARIANTS.items():
            parts = _assembled(folder, data, preset, kept, basis, chosen.lr)
            found[f"{name}: {variant}"] = _tune_and_compare(parts, basis, texts, chosen.steps)
            print(name, variant, found[f"{name}: {variant}"], flush=True)
    columns = list(next(iter(found.values())))
    print(tabulate([[key, *row.values()] for key, row in found.items()], ["", *columns], floatfmt=".2e"))
    settings = {**vars(chosen), "recipe": recipe, "rank": RANK, "batch": BATCH, "torch": torch.__version__}
    write_json(OUTPUT, {"settings": settings, "runs": json.loads(json.dumps(found))})


def _assembled(folder: Path, data: Any, preset: str, kept: str, basis: KnowledgeBasis, rate: float) -> Assembly:
    kind = check_folder(folder).kind
    config = {"preset": preset, "rank": RANK, "update_gap": 20, "learning_rate": rate, "rows_learning_rate": 1e-2}
    loop = LoopSettings(batch_size=BATCH, micro_batch_size=BATCH)
    tuner = TunerChoice("gems", {**config, "null_space": kept != "none"}, loop)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "basis.safetensors"
        (_random(basis) if kept == "random" else basis).save(file)
        settings = GenerativeSettings(tuners={kind: tuner}, loop=loop)
        return assemble(settings, atomic_codes(data.items), data, folder, 1, basis=file)


def _random(basis: KnowledgeBasis) -> KnowledgeBasis:
    """The same sizes, any directions."""
    generator = torch.Generator().manual_seed(7)
    groups = tuple(
        dataclasses.replace(group, directions=_orthonormal(group.directions.shape, generator)) for group in basis.groups
    )
    return dataclasses.replace(basis, groups=groups, _made={})


def _orthonormal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    columns: Tensor = torch.linalg.qr(torch.randn(shape, generator=generator))[0]
    return columns.to(torch.bfloat16).contiguous()


def _windows(folder: Path, documents: Any) -> Tensor:
    """32 passages of 32 tokens of text that the backbone was not trained on."""
    return torch.from_numpy(token_windows(load_backbone(folder).tokenizer, documents, 32)[:32])


def _logits(parts: Assembly, texts: Tensor) -> Tensor:
    """Logits of the old tokens; T5 goes on from the first half."""
    model: Any = parts.tuned.model.eval()
    with torch.no_grad():
        if parts.backbone.kind == "t5":
            out = model(input_ids=texts[:, :16], decoder_input_ids=texts[:, 16:], use_cache=False)
        else:
            out = model(input_ids=texts, use_cache=False)
    logits: Tensor = out.logits[..., : parts.first_row]
    return logits


def _tune_and_compare(parts: Assembly, basis: KnowledgeBasis, texts: Tensor, steps: int) -> dict[str, float]:
    model, optimizer = parts.tuned.model, parts.tuned.optimizer
    weights = {name: p for name, p in model.named_parameters() if name.removesuffix(".weight") in basis.weights}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    logits = _logits(parts, texts)
    sizes = {"batch_size": BATCH, "micro_batch_size": BATCH, "seed": 1}
    batches = Batches(parts.examples, parts.backbone.kind, parts.backbone.tokenizer.pad_token_id, **sizes)
    stepper = Stepper(
        model, optimizer, lambda _, tensors: identifier_loss(model, tensors), Accelerator(cpu=True), 1, 1.0
    )
    losses = []
    for step in range(steps):
        model.train()
        done = stepper.step(step, batches.step(*divmod(step, batches.steps_per_epoch)))
        losses.append(sum(done.sums.values()) / sum(done.tokens.values()))
    changes, moved = [], []
    for name, weight in weights.items():
        kept = basis.of(name)
        difference = weight.detach() - before[name]
        changes.append(float((difference @ kept).norm() / (before[name] @ kept).norm()))
        moved.append(float(difference.norm() / before[name].norm()))
    after = _logits(parts, texts)
    return {
        "largest change on known features": max(changes),
        "median": statistics.median(changes),
        "median change of a weight": statistics.median(moved),
        "change of logits on text": float((after - logits).norm() / logits.norm()),
        "loss of the last 20 steps": sum(losses[-20:]) / len(losses[-20:]),
    }


if __name__ == "__main__":
    main()

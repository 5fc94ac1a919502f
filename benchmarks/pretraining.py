"""The stand-in backbones pre-trained from random weights by AdamW, by GaLore and by GEMS: Table 5, row "pre-training".

Run: python benchmarks/pretraining.py [--backbone t5-mini ...] [--steps 300] [--rank 32] [--text FILE]. Needs torch and
transformers. Prints a table and writes results/benchmarks/pretraining.json.
Same data in the same order, same steps, schedule and rates; linear layers by GEMS (or GaLore), everything else
(embeddings, norms) by AdamW in all rows. Pre-training has one task for qwen-mini. t5-mini has two, span corruption and
going on with a text, and here they are called one: with one task GEMS is GaLore with the rank of both its subspaces,
whose updates add up. So the row GEMS shows that the optimizer pre-trains a model, not that its subspaces help.
State: bytes of the optimizer's tensors, of the linear layers alone and in all.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import torch
import transformers
from tabulate import tabulate
from torch import nn

from gemsbench.backbones.catalogue import QwenMiniSettings, T5MiniSettings
from gemsbench.backbones.corpus import Corpus, read_corpus
from gemsbench.backbones.stand_ins import build_stand_in
from gemsbench.data.encyclopedia import CORPUS
from gemsbench.optim import GEMS, gems_param_groups
from gemsbench.training.loop import LoopSettings, Problem, train
from gemsbench.training.pretraining import BETAS, TASK, WEIGHT_DECAY, TextTask, text_loss

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "pretraining.json"
SETTINGS: Mapping[str, T5MiniSettings | QwenMiniSettings] = {
    "t5-mini": T5MiniSettings(),
    "qwen-mini": QwenMiniSettings(),
}
METHODS = ("AdamW", "GaLore", "GEMS", "GEMS fast")
SEED = 1

Maker = Callable[[nn.Module], torch.optim.Optimizer]


def makers(rate: float, rank: int, gap: int, decay: float) -> dict[str, Maker]:
    """Optimizers by name."""

    def projected(model: nn.Module, preset: str, task_rank: int) -> torch.optim.Optimizer:
        groups = gems_param_groups(model, rank=rank, task_rank=task_rank, others="trained")
        values = {"update_gap": gap, "betas": BETAS, "weight_decay": decay}
        return GEMS(groups, lr=rate, tasks=(TASK,), preset=preset, seed=SEED, **values)

    return {
        "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=rate, betas=BETAS, weight_decay=decay),
        "GaLore": functools.partial(projected, preset="paper", task_rank=0),
        "GEMS": functools.partial(projected, preset="paper", task_rank=rank // 2),
        "GEMS fast": functools.partial(projected, preset="fast", task_rank=rank // 2),
    }


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of the state tensors: of the linear layers without the head, and of all parameters."""
    linear = {id(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    found = {"linear": 0, "all": 0}
    for parameter, values in optimizer.state.items():
        size = sum(value.nbytes for value in values.values() if isinstance(value, torch.Tensor))
        found["all"] += size
        found["linear"] += size if id(parameter) in linear else 0
    return found


def pretrain(name: str, method: str, corpus: Corpus, args: argparse.Namespace) -> dict[str, Any]:
    """One training from random weights; what it cost and came to."""
    settings = SETTINGS[name]
    lines = [line for document in corpus.train for line in document.splitlines() if line]
    backbone = build_stand_in(settings, lines, SEED)
    text = TextTask(backbone, corpus, settings, SEED)
    before = {key: parameter.shape for key, parameter in backbone.model.named_parameters()}
    decay = WEIGHT_DECAY[backbone.kind]
    optimizer = makers(args.rate, args.rank, args.gap, decay)[method](backbone.model)
    problem = Problem(
        model=backbone.model,
        optimizer=optimizer,
        steps_per_epoch=args.steps,
        step=text.step,
        loss=text_loss,
        evaluate=text.evaluate,
        fingerprint="benchmark",
        seed=SEED,
    )
    loop = LoopSettings(epochs=1, evaluations_per_epoch=4, patience=5, checkpoint_seconds=1e9)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = train(problem, loop, Path(folder), lambda done, line: None)
    seconds = time.process_time() - began
    assert {key: parameter.shape for key, parameter in backbone.model.named_parameters()} == before
    heldout = [line["heldout_loss"] for line in result.log if line["stage"] == "train"]
    return {
        "backbone": name,
        "method": method,
        "heldout_losses": heldout,
        "unigram_loss": text.unigram_loss,
        "state_bytes": state_bytes(backbone.model, optimizer),
        "processor_seconds": round(seconds, 1),
    }


def read_text(path: Path | None) -> Corpus:
    """The text file, or the simulated encyclopedia of the mini profile."""
    share = T5MiniSettings().pretraining.heldout_share
    if path is not None:
        return read_corpus(path, share)
    assert CORPUS.simulate is not None
    with tempfile.TemporaryDirectory() as folder:
        CORPUS.simulate(Path(folder), CORPUS.settings(), 2026)
        return read_corpus(Path(folder) / CORPUS.simulated_files[0], share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rank", type=int, default=32, help="of the shared subspace; the task's has half of it")
    parser.add_argument("--gap", type=int, default=50)
    parser.add_argument("--rate", type=float, default=T5MiniSettings().pretraining.learning_rate)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    corpus = read_text(args.text)
    rows = []
    for name in args.backbone:
        for method in METHODS:
            rows.append(pretrain(name, method, corpus, args))
            print(f"{name}, {method}: held-out {rows[-1]['heldout_losses'][-1]:.4f}", flush=True)
    table = [
        [
            row["backbone"],
            row["method"],
            *(f"{loss:.3f}" for loss in row["heldout_losses"]),
            f"{row['unigram_loss']:.3f}",
            row["state_bytes"]["linear"],
            row["state_bytes"]["all"],
            row["processor_seconds"],
        ]
        for row in rows
    ]
    steps = [f"step {args.steps * part // 4}" for part in range(5)]
    head = ["backbone", "method", *steps, "unigram", "state, linear (bytes)", "state, all (bytes)", "CPU s"]
    print(tabulate(table, headers=head, disable_numparse=True))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    values = {name: value for name, value in vars(args).items() if name != "text"}
    details = {"settings": values, "machine": platform.machine(), "versions": versions, "rows": rows}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

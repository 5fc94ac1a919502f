"""Two tasks that conflict, one of them a hundred times louder: joint Adam, GaLore and GEMS on one matrix.

Run: python benchmarks/conflict_toy.py [--seeds 5] [--steps 400] [--lr 0.003 ...]. Needs torch and tabulate. Writes
results/benchmarks/conflict_toy.json.

W [32, 48] starts at 0. C (2 columns), S (6) and R (4) are random orthonormal blocks; A = [C, S] Z1 and
B = -0.5 C Z1[:2] + R Z2 with standard normal Z. L_src = |[C, S]^T (W - A)|^2 / 2 and
L_rec = |[C, R]^T (W - B)|^2 / 2 pull W apart in the span of C. The gradients are noisy, and rec's are scaled down:
G_src = P (W - A) + P noise with P = [C, S] [C, S]^T, G_rec = 0.01 (Q (W - B) + 0.1 noise) with Q = [C, R] [C, R]^T.
Score: L_src / L_src(0) + L_rec / L_rec(0) after the last step, mean over the seeds; 2 is where nothing was learned.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from gemsbench.optim import GEMS

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "conflict_toy.json"
ROWS, COLUMNS = 32, 48
UPDATE_GAP = 50
RATES = (0.003, 0.01, 0.02, 0.03, 0.05, 0.1)
METHODS = ("joint Adam", "GaLore r 16", "GEMS 16/8/8")


@dataclass(frozen=True)
class Task:
    """L(W) = |basis^T (W - target)|^2 / 2 with orthonormal basis [32, d] and target [32, 48]."""

    basis: Tensor
    target: Tensor
    loudness: float  # of the gradients, not of the loss
    noise: float
    confined: bool  # whether the noise lies in the span of the basis

    def loss(self, weight: Tensor) -> float:
        """Without noise and loudness."""
        return float((self.basis.T @ (weight - self.target)).square().sum() / 2)

    def gradient(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """A noisy gradient [32, 48]."""
        projector = self.basis @ self.basis.T
        noise = self.noise * torch.randn(weight.shape, generator=generator)
        return self.loudness * (projector @ (weight - self.target) + (projector @ noise if self.confined else noise))


def make_tasks(generator: torch.Generator) -> dict[str, Task]:
    """The two tasks of one seed."""
    columns = torch.linalg.qr(torch.randn(ROWS, 12, generator=generator))[0]
    conflict, own_src, own_rec = columns[:, :2], columns[:, 2:8], columns[:, 8:]
    first, second = torch.randn(8, COLUMNS, generator=generator), torch.randn(4, COLUMNS, generator=generator)
    src, rec = torch.cat([conflict, own_src], dim=1), torch.cat([conflict, own_rec], dim=1)
    return {
        "src": Task(src, src @ first, 1.0, 1.0, confined=True),
        "rec": Task(rec, -0.5 * conflict @ first[:2] + own_rec @ second, 0.01, 0.1, confined=False),
    }


def make_optimizer(method: str, weight: torch.nn.Parameter, lr: float) -> torch.optim.Optimizer:
    """Torch's Adam, or GEMS with and without subspaces of the tasks' own."""
    if method == "joint Adam":
        return torch.optim.Adam([weight], lr=lr)
    group = {"params": [("weight", weight)], "rank": 16, "task_rank": 8 if method.startswith("GEMS") else 0}
    return GEMS([group], lr=lr, tasks=("src", "rec"), preset="paper", gate="uniform", update_gap=UPDATE_GAP)


def run(method: str, lr: float, seed: int, steps: int) -> dict[str, float]:
    """Train once; the score, its two parts, and the mean cosine of the tasks' gradients over the first 20 steps."""
    generator = torch.Generator().manual_seed(seed)
    tasks = make_tasks(generator)
    weight = torch.nn.Parameter(torch.zeros(ROWS, COLUMNS))
    start = {name: task.loss(weight.detach()) for name, task in tasks.items()}
    opt = make_optimizer(method, weight, lr)
    cosines = []
    for _ in range(steps):
        gradients = {name: task.gradient(weight.detach(), generator) for name, task in tasks.items()}
        cosines.append(float(torch.cosine_similarity(gradients["src"].flatten(), gradients["rec"].flatten(), dim=0)))
        if isinstance(opt, GEMS) and method.startswith("GEMS"):
            for name, gradient in gradients.items():
                with opt.task(name, tokens=1) as part:
                    part.backward((weight * gradient).sum())
        else:
            weight.grad = gradients["src"] + gradients["rec"]
        opt.step()
        opt.zero_grad()
    parts = {name: task.loss(weight.detach()) / start[name] for name, task in tasks.items()}
    return {"score": sum(parts.values()), **parts, "cosine": statistics.mean(cosines[:20])}


def measure(rates: list[float], seeds: int, steps: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> learning rate -> means over the seeds, and the score of each."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for method in METHODS:
        found[method] = {}
        for lr in rates:
            runs = [run(method, lr, seed, steps) for seed in range(seeds)]
            means = {key: statistics.mean(values[key] for values in runs) for key in runs[0]}
            found[method][str(lr)] = {**means, "scores": [values["score"] for values in runs]}
    return found


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Scores, a row per method and a column per learning rate."""
    rates = list(next(iter(found.values())))
    rows = [[method, *(f"{by_rate[lr]['score']:.2f}" for lr in rates)] for method, by_rate in found.items()]
    return tabulate(rows, headers=["lr", *rates], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(args.lr, args.seeds, args.steps)
    print(table(found))
    setting = {"seeds": args.seeds, "steps": args.steps, "update_gap": UPDATE_GAP, "shape": [ROWS, COLUMNS]}
    machine = {"processor": platform.machine(), "torch": torch.__version__}
    record = {"contenders": found, "setting": setting, "machine": machine}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    partial.replace(args.output)


if __name__ == "__main__":
    main()

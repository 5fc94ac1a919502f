"""What an optimizer's state costs, as formulas: elements and bytes per matrix and in total (Table 5 of the paper).

A matrix W is [m, n] (outputs, inputs); a basis on its right side lies over the n inputs, one on its left side over the
m outputs. `std` takes the right side where m >= n, so that bases are as small as they can be; ranks are clipped to
min(m, n). The formula printed in the paper, 2mr + 4nr, is the case m <= n with task ranks r/2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

Side = Literal["std", "right", "left"]


@dataclass(frozen=True)
class Cost:
    """Numbers of elements by purpose; costs add up field by field.

    weights: of the model during training. bases: projections. back: copies of bases with the null space folded in.
    moments: Adam's. gradients: alive at once before the step. counters: bytes, not elements, of step counts and flags.
    """

    weights: int = 0
    bases: int = 0
    back: int = 0
    moments: int = 0
    gradients: int = 0
    counters: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)))

    def __mul__(self, times: int) -> Cost:
        return Cost(*(getattr(self, field.name) * times for field in fields(Cost)))

    @property
    def state(self) -> int:
        """Elements of the optimizer's state: bases, their copies and moments."""
        return self.bases + self.back + self.moments

    def state_bytes(self, basis_bytes: int = 2, moment_bytes: int = 4) -> int:
        """Bytes of the optimizer's state, counters included; by default bf16 bases and fp32 moments."""
        return (self.bases + self.back) * basis_bytes + self.moments * moment_bytes + self.counters


@dataclass(frozen=True)
class Linears:
    """`count` weight matrices [rows, columns] of one kind."""

    name: str
    rows: int
    columns: int
    count: int

    @property
    def size(self) -> int:
        """Elements of all of them."""
        return self.rows * self.columns * self.count


def oriented(rows: int, columns: int, side: Side) -> tuple[int, int]:
    """(width of the basis, width of the moments) of a matrix [rows, columns]."""
    right = side == "right" or (side == "std" and rows >= columns)
    return (columns, rows) if right else (rows, columns)


def adamw(rows: int, columns: int) -> Cost:
    """All weights trained: two moments and a gradient of the matrix's size, a 4-byte step count."""
    size = rows * columns
    return Cost(weights=size, moments=2 * size, gradients=size, counters=4)


def lora(rows: int, columns: int, rank: int) -> Cost:
    """Adapters B [m, r] and A [r, n] (Hu et al. 2021) trained by Adam, a step count each."""
    added = rank * (rows + columns)
    return Cost(weights=rows * columns + added, moments=2 * added, gradients=added, counters=8)


def galore(rows: int, columns: int, rank: int, side: Side = "std") -> Cost:
    """One basis and the moments of the projected gradient (Zhao et al. 2024); its counts are Python numbers."""
    basis, moments = oriented(rows, columns, side)
    rank = min(rank, rows, columns)
    size = rows * columns
    return Cost(weights=size, bases=basis * rank, moments=2 * moments * rank, gradients=size)


def gems(
    rows: int,
    columns: int,
    shared_rank: int,
    task_ranks: Sequence[int],
    side: Side = "std",
    backward: Literal["full", "projected"] = "full",
    back: bool = False,
    free: int | None = None,
) -> Cost:
    """A shared basis and one per task with the moments of what each of them projects.

    backward: `full` holds a gradient of the matrix's size per task; `projected` holds, per task, what the shared and
    the task's own basis make of it. back: whether bases have a copy with the null space folded in. free: dimensions
    that the null space leaves, where bases lie inside it. Counters: an int64 step count and a flag per basis, and the
    int64 step at which they were last turned.
    """
    basis, moments = oriented(rows, columns, side)
    limit = min(rows, columns) if free is None else min(rows, columns, free)
    shared, tasks = min(shared_rank, limit), [min(rank, limit) for rank in task_ranks]
    stacked = shared + sum(tasks)
    projected = (len(tasks) * shared + sum(tasks)) * moments
    return Cost(
        weights=rows * columns,
        bases=basis * stacked,
        back=basis * stacked if back else 0,
        moments=2 * moments * stacked,
        gradients=projected if backward == "projected" else max(1, len(tasks)) * rows * columns,
        counters=(8 + 1) * (1 + len(tasks)) + 8,
    )


def total(costs: Iterable[tuple[Cost, int]]) -> Cost:
    """Sum of (cost of one matrix, how many of them)."""
    result = Cost()
    for cost, count in costs:
        result = result + cost * count
    return result


def knowledge_elements(inputs: Iterable[tuple[int, int]], divisor: int = 8) -> int:
    """Elements n x k of the knowledge bases, k = n / divisor; inputs: (width n, how many tensors of that width)."""
    return sum(width * max(1, width // divisor) * count for width, count in inputs)


def gate_elements(n_tasks: int = 2, hidden: int = 16) -> int:
    """Weights of the gate: three features per task -> hidden -> one number per task, with biases."""
    features = 3 * n_tasks
    return features * hidden + hidden + hidden * n_tasks + n_tasks


def break_even_rank(rows: int, columns: int) -> Fraction:
    """The shared rank r at which `std` with two task ranks r / 2 has as many state elements as Adam: mn / (a + 2b)."""
    short, long = sorted((rows, columns))
    return Fraction(rows * columns, short + 2 * long)


def lora_rank_for(linears: Sequence[Linears], state_bytes: int) -> int:
    """The largest LoRA rank, at least 1, whose fp32 moments on all `linears` take no more than `state_bytes`."""
    per_rank = sum(8 * (matrix.rows + matrix.columns) * matrix.count for matrix in linears)
    counters = sum(8 * matrix.count for matrix in linears)
    return max(1, (state_bytes - counters) // per_rank)


def qwen2_5_3b(layers: int = 36) -> tuple[Linears, ...]:
    """The linear layers of Qwen2.5-3B without its tied head."""
    return (
        Linears("q_proj", 2048, 2048, layers),
        Linears("k_proj", 256, 2048, layers),
        Linears("v_proj", 256, 2048, layers),
        Linears("o_proj", 2048, 2048, layers),
        Linears("gate_proj", 11_008, 2048, layers),
        Linears("up_proj", 11_008, 2048, layers),
        Linears("down_proj", 2048, 11_008, layers),
    )


def flan_t5_base(layers: int = 12) -> tuple[Linears, ...]:
    """The linear layers of Flan-T5-base's encoder and decoder (`layers` each) without its head."""
    attentions, blocks = 3 * layers, 2 * layers  # self twice, cross once
    return (
        *(Linears(name, 768, 768, attentions) for name in ("q", "k", "v", "o")),
        Linears("wi_0", 2048, 768, blocks),
        Linears("wi_1", 2048, 768, blocks),
        Linears("wo", 768, 2048, blocks),
    )


def qwen2_5_3b_inputs(layers: int = 36) -> tuple[tuple[int, int], ...]:
    """(width, count) of Qwen2.5-3B's groups of layers that read one tensor: q k v, o, gate up, down."""
    return ((2048, 3 * layers), (11_008, layers))


def flan_t5_base_inputs(layers: int = 12) -> tuple[tuple[int, int], ...]:
    """(width, count) of Flan-T5-base's groups; the cross attentions' k and v all read the encoder's output."""
    return ((768, 3 * layers + 5 * layers + 1), (2048, 2 * layers))

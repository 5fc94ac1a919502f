"""The formulas of the optimizer's state reproduce the published and derived figures, and behave as costs must."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gemsbench.optim import GEMS, KnowledgeBasis, accounting, gems_param_groups
from gemsbench.optim.accounting import Cost
from gemsbench.optim.knowledge_basis import BasisGroup

GIB = 2**30
sizes = st.integers(1, 3000)
ranks = st.integers(1, 3000)


def gems_std(rows: int, columns: int, rank: int) -> Cost:
    return accounting.gems(rows, columns, rank, (rank // 2, rank // 2))


def gems_right(rows: int, columns: int, rank: int) -> Cost:
    return accounting.gems(rows, columns, rank, (rank // 2, rank // 2), side="right")


METHODS = {
    "galore": accounting.galore,
    "std": gems_std,
    "right": gems_right,
    "adamw": lambda rows, columns, _: accounting.adamw(rows, columns),
    "lora": accounting.lora,
}
MODELS = {"qwen": accounting.qwen2_5_3b(), "t5": accounting.flan_t5_base()}
# GiB with fp32 moments and bf16 bases: rank -> galore, std, right, adamw
STATE = {
    "qwen": {
        128: (1.51, 3.01, 2.37, 20.67),
        256: (3.01, 6.03, 4.74, 20.67),
        512: (5.74, 11.77, 9.37, 20.67),
        1024: (11.19, 22.67, 18.42, 20.67),
    },
    "t5": {
        128: (0.29, 0.57, 0.53, 1.48),
        256: (0.57, 1.14, 1.05, 1.48),
        512: (1.14, 2.29, 2.11, 1.48),
        1024: (1.71, 4.00, 3.69, 1.48),
    },
}


def whole_model(model: str, method: str, rank: int) -> Cost:
    cost = METHODS[method]
    return accounting.total((cost(each.rows, each.columns, rank), each.count) for each in MODELS[model])


@pytest.mark.parametrize("model", STATE)
@pytest.mark.parametrize("rank", [128, 256, 512, 1024])
def test_state_of_the_two_backbones(model: str, rank: int) -> None:
    found = [whole_model(model, method, rank).state_bytes() / GIB for method in ("galore", "std", "right", "adamw")]
    assert [round(value, 2) for value in found] == list(STATE[model][rank])


@pytest.mark.parametrize(
    ("rank", "millions", "gib"), [(8, 15, 0.11), (16, 30, 0.22), (64, 120, 0.89), (256, 479, 3.57)]
)
def test_lora_on_all_linear_layers_of_qwen(rank: int, millions: int, gib: float) -> None:
    cost = whole_model("qwen", "lora", rank)
    assert round(cost.gradients / 1e6) == millions
    assert round(cost.state_bytes() / GIB, 2) == gib
    assert cost.weights - cost.gradients == sum(each.size for each in MODELS["qwen"])


def test_weights_and_knowledge_of_the_two_backbones() -> None:
    parameters = {model: sum(each.size for each in linears) for model, linears in MODELS.items()}
    assert {model: round(size / 1e6, 1) for model, size in parameters.items()} == {"qwen": 2774.5, "t5": 198.2}
    assert {model: sum(each.count for each in linears) for model, linears in MODELS.items()} == {"qwen": 252, "t5": 216}
    assert round(parameters["qwen"] * 2 / GIB, 2) == 5.17
    assert sum(count for _, count in accounting.qwen2_5_3b_inputs()) == 144
    assert sum(count for _, count in accounting.flan_t5_base_inputs()) == 121
    assert round(accounting.knowledge_elements(accounting.qwen2_5_3b_inputs()) * 2 / GIB, 1) == 1.1
    assert accounting.gate_elements() == 146


@pytest.mark.parametrize(
    ("rows", "columns", "printed"),
    [(2048, 2048, 683), (768, 768, 256), (11008, 2048, 936), (2048, 768, 323), (768, 2048, 323), (256, 2048, 120)],
)
def test_the_rank_at_which_adam_is_as_small(rows: int, columns: int, printed: int) -> None:
    exact = accounting.break_even_rank(rows, columns)
    assert abs(exact - printed) < 1  # the printed numbers are rounded, some up and some down
    adam = 2 * rows * columns
    below, above = 2 * math.ceil(exact / 2) - 2, 2 * math.floor(exact / 2) + 2  # even, so that r / 2 is whole
    assert gems_std(rows, columns, below).state < adam < gems_std(rows, columns, above).state


def test_a_square_matrix_at_the_break_even_rank_costs_exactly_what_adam_costs() -> None:
    assert accounting.break_even_rank(768, 768) == 256
    assert gems_std(768, 768, 256).state == accounting.adamw(768, 768).state
    assert gems_std(768, 768, 1024).state / accounting.adamw(768, 768).state == 3.5  # clipped: 768 + 512 + 512


@given(sizes, sizes, st.integers(1, 1500).map(lambda half: 2 * half))
def test_the_paper_s_table_5(rows: int, columns: int, rank: int) -> None:
    paper = 2 * rows * rank + 4 * columns * rank
    cost = gems_std(rows, columns, rank)
    if rows < columns and rank <= rows:  # a square matrix gives the same number from the other side
        assert cost.state == paper
    elif rows < columns:
        assert cost.state < paper  # ranks are clipped
    elif rows > columns:
        assert cost.state <= 2 * columns * rank + 4 * rows * rank


@given(sizes, sizes, ranks)
def test_symmetry_and_sides(rows: int, columns: int, rank: int) -> None:
    assert gems_std(rows, columns, rank) == gems_std(columns, rows, rank)
    assert gems_right(rows, columns, rank).state == (columns + 2 * rows) * _stacked(rows, columns, rank)
    left = accounting.gems(rows, columns, rank, (rank // 2, rank // 2), side="left")
    assert left == gems_right(columns, rows, rank)
    assert gems_std(rows, columns, rank).bases == min(left.bases, gems_right(rows, columns, rank).bases)
    assert accounting.galore(rows, columns, rank).state == accounting.gems(rows, columns, rank, ()).state


@given(sizes, sizes, ranks, st.booleans())
def test_copies_and_projected_gradients(rows: int, columns: int, rank: int, right: bool) -> None:
    side: accounting.Side = "right" if right else "left"
    plain = accounting.gems(rows, columns, rank, (rank // 2, rank // 2), side)
    copied = accounting.gems(rows, columns, rank, (rank // 2, rank // 2), side, back=True)
    assert copied.back == copied.bases == plain.bases
    assert copied.state - plain.state == plain.bases
    assert plain.back == 0
    assert plain.gradients == 2 * rows * columns
    projected = accounting.gems(rows, columns, rank, (rank // 2, rank // 2), side, "projected")
    assert projected.state == plain.state
    shared = min(rank, rows, columns)
    assert projected.gradients == (shared + _stacked(rows, columns, rank)) * (rows if right else columns)


@given(sizes, sizes, ranks, st.sampled_from(sorted(METHODS)), st.integers(0, 50))
def test_costs_add_up(rows: int, columns: int, rank: int, method: str, count: int) -> None:
    cost = METHODS[method](rows, columns, rank)
    summed = Cost()
    for _ in range(count):
        summed = summed + cost
    assert accounting.total([(cost, count)]) == summed
    assert summed.state_bytes(2, 4) == count * cost.state_bytes(2, 4)
    assert cost.state_bytes(2, 4) - cost.state_bytes(1, 2) == (cost.state_bytes(2, 4) - cost.counters) // 2


@given(st.integers(0, 10**11), st.sampled_from(sorted(MODELS)))
def test_lora_of_equal_state_is_the_largest_that_fits(budget: int, model: str) -> None:
    rank = accounting.lora_rank_for(MODELS[model], budget)
    assert whole_model(model, "lora", rank + 1).state_bytes() > budget
    assert rank == 1 or whole_model(model, "lora", rank).state_bytes() <= budget


@pytest.mark.parametrize("rank", [1, 7, 300])
def test_lora_of_equal_state_uses_the_last_byte(rank: int) -> None:
    exact = whole_model("qwen", "lora", rank).state_bytes()
    assert accounting.lora_rank_for(MODELS["qwen"], exact) == rank
    assert accounting.lora_rank_for(MODELS["qwen"], exact - 1) == max(1, rank - 1)


SHAPES = [(24, 40), (40, 24), (32, 32), (4, 40), (40, 8)]


def measured(optimizer: torch.optim.Optimizer) -> int:
    return sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())


def layers(dtype: torch.dtype) -> nn.Module:
    return nn.ModuleList(nn.Linear(columns, rows, bias=False, dtype=dtype) for rows, columns in SHAPES)


def backward(model: nn.Module) -> None:
    for layer in model.children():
        features = torch.ones(2, layer.in_features, dtype=layer.weight.dtype)  # type: ignore[arg-type, union-attr]
        layer(features).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "side"), [("paper", "std"), ("paper", "left"), ("fast", "right")])
@pytest.mark.parametrize("null_space", [False, True])
def test_gems_keeps_what_the_formula_says(preset: str, side: Any, null_space: bool, dtype: torch.dtype) -> None:
    model = layers(dtype)
    known = _knowledge(model) if null_space else None
    optimizer = GEMS(gems_param_groups(model, rank=6), tasks=("a", "b"), preset=preset, side=side, null_space=known)
    for _ in range(2):
        for task in ("a", "b"):
            with optimizer.task(task, tokens=2, last=task == "b"):
                backward(model)
        optimizer.step()
        optimizer.zero_grad()
    cost = Cost()
    for rows, columns in SHAPES:
        right = side == "right" or (side == "std" and rows >= columns)
        free = columns - 3 if null_space and preset == "fast" else None  # of 8 inputs 5 are left
        copied = null_space and right and preset == "paper"
        cost = cost + accounting.gems(rows, columns, 6, (3, 3), side, back=copied, free=free)
    assert measured(optimizer) == cost.state_bytes(basis_bytes=dtype.itemsize, moment_bytes=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_keeps_what_the_formula_says(dtype: torch.dtype) -> None:
    model = layers(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    backward(model)
    optimizer.step()
    cost = accounting.total((accounting.adamw(*shape), 1) for shape in SHAPES)
    assert measured(optimizer) == cost.state_bytes(moment_bytes=dtype.itemsize)
    factors = nn.ParameterList(torch.zeros(size, 5) for shape in SHAPES for size in shape)  # B [m, r], A^T [n, r]
    optimizer = torch.optim.AdamW(factors)
    sum(factor.sum() for factor in factors).backward()  # type: ignore[union-attr]
    optimizer.step()
    cost = accounting.total((accounting.lora(*shape, 5), 1) for shape in SHAPES)
    assert measured(optimizer) == cost.state_bytes()


def _knowledge(model: nn.Module) -> KnowledgeBasis:
    inputs = {layer: torch.randn(60, layer.in_features) for layer in model.children()}  # type: ignore[arg-type]
    groups = []
    for name, layer in model.named_children():
        directions = torch.linalg.qr(inputs[layer].T)[0][:, :3].to(torch.bfloat16)
        groups.append(BasisGroup((name,), directions, torch.ones(3), 3.0, 60))
    return KnowledgeBasis(tuple(groups), "input", "3", 0, "", {}, {})


def _stacked(rows: int, columns: int, rank: int) -> int:
    return min(rank, rows, columns) + 2 * min(rank // 2, rows, columns)

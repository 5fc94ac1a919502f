"""Parameter groups for GEMS: which matrices are projected, which rows are trained, and what stays frozen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gemsbench.optim.settings import nearest


def gems_param_groups(
    model: nn.Module,
    *,
    rank: int,
    task_rank: int | None = None,
    target_modules: str | Sequence[str] = "all-linear",
    exclude: Sequence[str] = ("lm_head",),
    rank_pattern: Mapping[str, int] | None = None,
    others: Literal["frozen", "trained"] = "frozen",
    rows: Mapping[str, range] | None = None,
    rows_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for `GEMS(groups, ...)`; sets requires_grad of every parameter of the model.

    rank, task_rank: of the shared subspace and of each task's (None: half of rank). target_modules: "all-linear" (every
    nn.Linear but the output layer and `exclude`) or ends of module names. rank_pattern: end of a module name -> its
    rank. others: parameters that are not projected are frozen, as the null space needs it (norms, biases and old
    embedding rows act on every feature), or trained by AdamW. rows: parameter name -> rows trained by AdamW (new
    tokens) with learning rate rows_lr (None: that of the optimizer); the other rows stay as they are.
    Raises ValueError when nothing is projected, or a name is not in the model.
    """
    _check_arguments(model, rank, task_rank, others, rank_pattern or {}, rows or {})
    layers = _target_layers(model, target_modules, exclude)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_rank: dict[int, dict[int, tuple[str, Tensor, tuple[nn.Module, ...]]]] = defaultdict(dict)
    projected: set[int] = set()
    for name, layer in layers.items():
        weight = layer.weight
        sharing = tuple(module for module in model.modules() if getattr(module, "weight", None) is weight)
        if id(weight) not in projected:
            by_rank[_rank_of(name, rank, rank_pattern or {})][id(weight)] = (names[id(weight)], weight, sharing)
        projected.add(id(weight))
    groups = [_projected_group(entries, r, task_rank, rank) for r, entries in sorted(by_rank.items(), reverse=True)]
    by_name = dict(model.named_parameters(remove_duplicate=False))
    trained_rows = {
        id(by_name[name]): (names[id(by_name[name])], by_name[name], chosen) for name, chosen in (rows or {}).items()
    }
    for name, parameter, chosen in trained_rows.values():
        group = {"params": [(name, parameter)], "rank": 0, "rows": (chosen.start, chosen.stop), "weight_decay": 0.0}
        groups.append(group if rows_lr is None else {**group, "lr": rows_lr})
    left = [(name, p) for name, p in model.named_parameters() if id(p) not in projected | trained_rows.keys()]
    for _, parameter in left:
        parameter.requires_grad_(others == "trained")
    for key in projected | trained_rows.keys():
        by_name[names[key]].requires_grad_(True)
    if left and others == "trained":
        groups.append({"params": left, "rank": 0})
    return groups


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError for a group whose values cannot be used, naming the value."""
    for name in ("lr", "scale", "weight_decay", "eps"):
        if not 0 <= float(group[name]) < math.inf:
            raise ValueError(f"GEMS: {name} of a group is {group[name]}; it must be at least 0.")
    for name, least in (("rank", 0), ("task_rank", 0), ("update_gap", 1)):
        value = group[name]
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"GEMS: {name} of a group is {value}; it must be a whole number of at least {least}.")
    if group["side"] not in ("std", "right", "left"):
        raise ValueError(f"GEMS: side (proj_type) '{group['side']}' is not one of std, right, left.")
    for parameter in group["params"]:
        if parameter.dtype not in (torch.float32, torch.float64, torch.bfloat16):
            raise ValueError(
                f"GEMS: a parameter is {parameter.dtype}. Train in float32 or bfloat16: float16 overflows."
            )


def _check_arguments(
    model: nn.Module,
    rank: int,
    task_rank: int | None,
    others: str,
    rank_pattern: Mapping[str, int],
    rows: Mapping[str, range],
) -> None:
    for what, value, least in (("rank", rank, 1), ("task_rank", task_rank or 0, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"gems_param_groups: {what} is {value}; it must be a whole number of at least {least}.")
    if others not in ("frozen", "trained"):
        raise ValueError(f"gems_param_groups: others is '{others}'. {nearest(others, ('frozen', 'trained'))}")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for end, value in rank_pattern.items():
        if not any(_ends(name, end) for name in linear) or value < 1:
            raise ValueError(f"gems_param_groups: rank_pattern '{end}': {value} fits no layer. {nearest(end, linear)}")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, chosen in rows.items():
        if name not in parameters:
            raise ValueError(f"gems_param_groups: rows names no parameter '{name}'. {nearest(name, parameters)}")
        if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= len(parameters[name]):
            raise ValueError(
                f"gems_param_groups: rows {chosen} of '{name}', which has {len(parameters[name])}. Name a range in it."
            )


def _target_layers(model: nn.Module, targets: str | Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Linear]:
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    if targets == "all-linear":
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        chosen = {n: layer for n, layer in linear.items() if layer is not head and id(layer.weight) not in tables}
    else:
        wanted = [targets] if isinstance(targets, str) else list(targets)
        for end in wanted:
            if not any(_ends(name, end) for name in linear):
                raise ValueError(
                    f"gems_param_groups: no linear layer's name ends in '{end}'. Known: {_ends_of(linear)}."
                )
        chosen = {name: layer for name, layer in linear.items() if any(_ends(name, end) for end in wanted)}
    chosen = {name: layer for name, layer in chosen.items() if not any(_ends(name, end) for end in exclude)}
    stored = {id(parameter) for parameter in model.parameters()}
    for name, layer in chosen.items():
        if id(layer.weight) not in stored:
            raise ValueError(
                f"gems_param_groups: the weight of '{name}' is computed from others (weight_norm, a parametrization). "
                "Remove that first, or name the layer in exclude."
            )
    if not chosen:
        raise ValueError(
            "gems_param_groups: the model has no nn.Linear to project (GPT-2's Conv1D is none). Name others in "
            "target_modules."
        )
    return chosen


def _projected_group(
    entries: Mapping[int, tuple[str, Tensor, tuple[nn.Module, ...]]], rank: int, task_rank: int | None, usual: int
) -> dict[str, Any]:
    own = max(1, rank // 2) if task_rank is None else -(-task_rank * rank // usual)
    return {
        "params": [(name, weight) for name, weight, _ in entries.values()],
        "rank": rank,
        "task_rank": own,
        "layers": [layers for _, _, layers in entries.values()],
    }


def _rank_of(name: str, rank: int, pattern: Mapping[str, int]) -> int:
    return next((value for end, value in pattern.items() if _ends(name, end)), rank)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _ends_of(layers: Mapping[str, nn.Linear]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in layers}))

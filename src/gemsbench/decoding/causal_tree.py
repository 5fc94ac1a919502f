"""Hidden states of a causal language model at every node of a tree, behind a prompt that is read once.

Prompts are padded on the right: no token sees the padding behind it, so the prompt pass is an ordinary causal one, and
its keys and values are reused by all nodes. Every node has the position of its depth, whatever its place in the tree.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from gemsbench.decoding.prompts import padded
from gemsbench.decoding.tree_batch import TreeBatch


@dataclass(frozen=True)
class ReadPrompts:
    """Q prompts after their pass: lengths [Q], the last token's state [Q, D], keys and values of every layer."""

    mask: Tensor
    last: Tensor
    layers: list[tuple[Tensor, Tensor]]


class CausalTree:
    """Prompts and trees through the body of a decoder-only model with rotary or learned positions."""

    def __init__(self, model: Any) -> None:
        self._body = model.base_model
        self.config = model.config
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        window = getattr(self.config, "sliding_window", None) if not hasattr(self.config, "layer_types") else None
        if kinds != {"full_attention"} or window is not None:
            raise ValueError(f"{type(model).__name__} has layers without full attention, which a tree needs")
        if self._body is model:
            raise ValueError(f"{type(model).__name__} has no output layer: give the model that has one")
        if "position_ids" not in inspect.signature(self._body.forward).parameters:
            raise ValueError(f"{type(model).__name__} takes no position_ids, which a tree of candidates needs")

    def read(self, prompts: Sequence[Sequence[int]], branching: bool) -> ReadPrompts:
        """One causal pass over Q prompts; keys and values are kept only when a tree has more than its root."""
        ids, mask = padded(prompts, self._body.device)
        cache = DynamicCache() if branching else None
        states = self._body(input_ids=ids, past_key_values=cache, use_cache=branching).last_hidden_state
        rows = torch.arange(len(prompts), device=ids.device)
        kept: list[Any] = list(cache.layers) if cache is not None else []
        return ReadPrompts(mask, states[rows, mask.sum(dim=1) - 1], [(layer.keys, layer.values) for layer in kept])

    def hidden(self, read: ReadPrompts, cases: Tensor, trees: TreeBatch) -> Tensor:
        """What the output layer gets at every node, fp32 [B, N, D]; cases [B] names the prompt of every tree."""
        root = read.last[cases].unsqueeze(1)
        if trees.width == 1:
            return root.float()
        cache = DynamicCache()
        for number, (keys, values) in enumerate(read.layers):
            cache.update(keys[cases], values[cases], number)
        mask = read.mask[cases]
        states = self._body(
            input_ids=trees.tokens[:, 1:],
            position_ids=mask.sum(dim=1, keepdim=True) - 1 + trees.depths[:, 1:],
            attention_mask=_tree_mask(mask, trees, root.dtype),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return torch.cat([root, states], dim=1).float()


def _tree_mask(prompt: Tensor, trees: TreeBatch, dtype: torch.dtype) -> Tensor:
    """[B, 1, N - 1, T + N - 1]: 0 at the prompt, the ancestors and the node itself, else the lowest number."""
    nodes = trees.sees()[:, 1:, 1:]  # the root is the last token of the prompt
    prompts = prompt.bool()[:, None].expand(-1, nodes.shape[1], -1)
    seen = torch.cat([prompts, nodes], dim=2)
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, lowest)[:, None]

"""Several packed trees side by side as padded tensors, and which node sees which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gemsbench.decoding.trie import PackedTree


class TreeBatch:
    """B trees of at most N nodes: tokens and depths, int64 [B, N], both 0 at roots and padding."""

    def __init__(self, trees: Sequence[PackedTree], device: torch.device) -> None:
        self.width = max(tree.n_nodes for tree in trees)
        shape = (len(trees), self.width)
        tokens, depths = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        parents = np.tile(np.arange(self.width), (len(trees), 1))
        for row, tree in enumerate(trees):
            tokens[row, 1 : tree.n_nodes] = tree.tokens[1:]
            depths[row, : tree.n_nodes] = tree.depths
            parents[row, : tree.n_nodes] = tree.parents
        sizes = np.array([tree.n_nodes for tree in trees])
        self.max_depth = int(depths.max())
        self.tokens, self.depths, self._parents = (torch.from_numpy(x).to(device) for x in (tokens, depths, parents))
        self.real = torch.from_numpy(np.arange(self.width) < sizes[:, None]).to(device)  # [B, N]

    def sees(self) -> Tensor:
        """Bool [B, N, N]: node i sees node j, that is, j is i or one of its ancestors; padding sees only itself."""
        node = torch.arange(self.width, device=self.tokens.device).expand_as(self.tokens)
        seen = torch.zeros((*self.tokens.shape, self.width), dtype=torch.bool, device=node.device)
        for _ in range(self.max_depth + 1):
            seen.scatter_(2, node.unsqueeze(-1), True)
            node = self._parents.gather(1, node)
        return seen

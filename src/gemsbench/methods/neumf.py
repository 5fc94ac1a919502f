"""NeuMF and its two parts, GMF and MLP, as one torch module (He et al., WWW 2017, arXiv 1708.05031, sections 3.2-3.4).

With f = factors and L = hidden layers: GMF multiplies two f-wide rows; MLP takes two rows of width 2^(L-1) f through
layers of widths 2^(L-1) f, ..., 2f, f; the output layer h reads one or both. The parts have embeddings of their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from gemsbench.methods.contract import ScoreArray

BOTH = ("gmf", "mlp")
EMBEDDING_STD = 0.01  # as in the authors' code
PAIRS_AT_A_TIME = 32_768  # bounds the activations in `scores`: 8f x 8 bytes per pair


class Head(nn.Module):
    """From the embedding rows of B pairs to B logits: everything of NeuMF that is not an embedding."""

    def __init__(self, factors: int, hidden_layers: int, parts: tuple[str, ...]) -> None:
        """Untrained layers; see NeuMF.initialize."""
        super().__init__()
        self.parts = parts
        widths = [factors * 2**level for level in range(hidden_layers, -1, -1)] if "mlp" in parts else []
        self.tower = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.output = nn.Linear(factors * len(parts), 1)

    def layers(self) -> list[nn.Linear]:
        """The hidden layers of the MLP, widest first."""
        return [layer for layer in self.tower if isinstance(layer, nn.Linear)]

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of pairs with rows user_gmf, item_gmf [B, f] and user_mlp, item_mlp [B, 2^(L-1) f]."""
        features = []
        if "gmf" in self.parts:
            features.append(rows["user_gmf"] * rows["item_gmf"])
        if "mlp" in self.parts:
            hidden = torch.cat([rows["user_mlp"], rows["item_mlp"]], dim=-1)
            for layer in self.tower:
                hidden = torch.relu(layer(hidden))
            features.append(hidden)
        logits: Tensor = self.output(torch.cat(features, dim=-1)).squeeze(-1)
        return logits


class NeuMF(nn.Module):
    """NeuMF, or one of its parts alone; `forward` gives logits, never probabilities."""

    def __init__(
        self, n_users: int, n_items: int, factors: int, hidden_layers: int, parts: tuple[str, ...] = BOTH
    ) -> None:
        """Tables for users 0..n_users-1 and item indices 0..n_items-1; call `initialize` before training."""
        super().__init__()
        self.parts = parts
        widths = {"gmf": factors, "mlp": factors * 2 ** (hidden_layers - 1)}
        self.embeddings = nn.ParameterDict(
            {
                f"{side}_{part}": nn.Parameter(torch.zeros(rows, widths[part]))
                for part in parts
                for side, rows in (("user", n_users), ("item", n_items))
            }
        )
        self.head = Head(factors, hidden_layers, parts)

    def initialize(self, generator: torch.Generator) -> NeuMF:
        """Embeddings N(0, 0.01^2), hidden layers Glorot uniform, output LeCun uniform, biases 0; returns self."""
        for table in self.embeddings.values():
            nn.init.normal_(table, 0.0, EMBEDDING_STD, generator=generator)
        for layer in self.head.layers():
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        bound = math.sqrt(3.0 / self.head.output.in_features)
        nn.init.uniform_(self.head.output.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.head.output.bias)
        return self

    def rows(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Embedding rows of B pairs; users, items int64 [B], items are indices item_id - 1."""
        ids = {"user": users, "item": items}
        # Sparse gradients: a step costs the rows of its batch, not the catalogue.
        return {
            name: embedding(ids[name.partition("_")[0]], table, sparse=True) for name, table in self.embeddings.items()
        }

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits [B], float32."""
        logits: Tensor = self.head(self.rows(users, items))
        return logits

    def squared_rows(self, users: Tensor, items: Tensor) -> Tensor:
        """Sum of squares of the embedding rows that a batch uses, each row once: what L2 acts on."""
        rows = self.rows(torch.unique(users), torch.unique(items))
        return torch.stack([row.square().sum() for row in rows.values()]).sum()

    @torch.no_grad()
    def load_pretrained(self, gmf: NeuMF, mlp: NeuMF, alpha: float) -> None:
        """Start from both parts: h = [alpha h_GMF; (1 - alpha) h_MLP], the bias likewise (equation 13)."""
        for part in (gmf, mlp):
            for name, table in part.embeddings.items():
                self.embeddings[name].copy_(table)
        self.head.tower.load_state_dict(mlp.head.tower.state_dict())
        of_gmf, of_mlp = gmf.head.output, mlp.head.output
        self.head.output.weight.copy_(torch.cat([alpha * of_gmf.weight, (1 - alpha) * of_mlp.weight], dim=-1))
        self.head.output.bias.copy_(alpha * of_gmf.bias + (1 - alpha) * of_mlp.bias)

    @torch.no_grad()
    def fill_unknown_users(self, known: npt.NDArray[np.bool_]) -> None:
        """Give users without training pairs the mean row of the others; training never reads or moves their rows."""
        mask = torch.from_numpy(known)
        for name, table in self.embeddings.items():
            if name.startswith("user_") and not bool(mask.all()):
                table[~mask] = table[mask].mean(dim=0)

    @torch.no_grad()
    def scores(self, users: npt.NDArray[np.int64], item_ids: npt.NDArray[np.int64]) -> ScoreArray:
        """Logits of P pairs for ranking, float32 [P]; item_ids start at 1.

        Summed in float64 and rounded once, so that a score does not depend on the pairs that share its batch.
        """
        head = copy.deepcopy(self.head).double()
        parts = []
        for start in range(0, len(users), PAIRS_AT_A_TIME):
            chunk = slice(start, start + PAIRS_AT_A_TIME)
            rows = self.rows(torch.from_numpy(users[chunk]), torch.from_numpy(item_ids[chunk] - 1))
            parts.append(head({name: row.double() for name, row in rows.items()}).float().numpy())
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

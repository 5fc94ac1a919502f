"""SASRec: a causal Transformer over the items of a user (Kang and McAuley, 2018, arXiv 1808.09781), in dense PyTorch.

Two choices differ from the paper. Layer norms stand before attention and feed-forward, not after the sum: in public
comparisons the better order on three of four datasets. A sequence begins with a learned start row, so that a user
without events has a vector too. That row is row 0 of the item table, which the ids leave free: row = item_id
everywhere. It stands before windows of later events as well, but only a user's first event is learned from it alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, relu, scaled_dot_product_attention

START = 0  # what a sequence begins with; also the padding, which causal attention never looks at
INITIAL_STD = 0.02


class SASRecModel(nn.Module):
    """Item table, positions and blocks; the score of an item is the product of its row with a user's last state."""

    known: Tensor

    def __init__(self, n_items: int, width: int, blocks: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.max_length = max_length
        self.dropout = dropout
        self.items = nn.Parameter(torch.zeros(n_items + 1, width))
        self.positions = nn.Parameter(torch.zeros(max_length + 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        # Items that training events contain; rows of all others are never moved and mean nothing.
        self.register_buffer("known", torch.zeros(n_items + 1, dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> SASRecModel:
        """Draw the weights: tables normal, matrices Xavier-uniform, biases 0, norms 1."""
        for table in (self.items, self.positions):
            nn.init.normal_(table, 0.0, INITIAL_STD, generator=generator)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        return self

    def forward(self, sequences: Tensor) -> Tensor:
        """States [B, T, d] of sequences int64 [B, T]; T is at most max_length + 1.

        A row is START and then item ids, oldest first, filled up with START on the right. A state knows its own
        position and the earlier ones only.
        """
        # Rows are scaled as in section 3.1 of the paper's code, so that items are not drowned by positions.
        hidden = (
            embedding(sequences, self.items) * math.sqrt(self.items.shape[1]) + self.positions[: sequences.shape[1]]
        )
        hidden = dropout(hidden, self.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden)
        states: Tensor = self.norm(hidden)
        return states


class _Block(nn.Module):
    """Pre-norm causal self-attention and a position-wise feed-forward layer of the same width (equations 2 to 6)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.joined = (nn.Linear(width, width) for _ in range(4))
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        hidden = hidden + dropout(self._attend(self.attention_norm(hidden)), self.dropout, self.training)
        inner = dropout(relu(self.inner(self.forward_norm(hidden))), self.dropout, self.training)
        return hidden + dropout(self.outer(inner), self.dropout, self.training)

    def _attend(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        share = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        joined: Tensor = self.joined(mixed.transpose(1, 2).flatten(2))
        return joined

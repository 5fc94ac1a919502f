"""Hidden states of T5's decoder at every node of a tree, in one pass.

T5's relative position bias follows the linear index of a token. The additive mask takes it away and puts the bias of
the depth difference in its place, per head; one mask serves all blocks, because T5 computes the bias in the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gemsbench.decoding.prompts import padded
from gemsbench.decoding.tree_batch import TreeBatch


class T5Tree:
    """The encoder over prompts and the decoder over trees of a T5ForConditionalGeneration."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.decoder.config
        if model.config.decoder_start_token_id is None:
            raise ValueError("the model's config has no decoder_start_token_id, which the root of a tree is")
        self._start = int(model.config.decoder_start_token_id)
        self._scale = float(model.model_dim) ** -0.5 if model.config.scale_decoder_outputs else 1.0

    def read(self, prompts: Sequence[Sequence[int]], branching: bool) -> tuple[Tensor, Tensor]:
        """Encoder states [Q, T, D] of Q prompts and their attention mask [Q, T]."""
        ids, mask = padded(prompts, self._model.device)
        states = self._model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        return states, mask

    def hidden(self, read: tuple[Tensor, Tensor], cases: Tensor, trees: TreeBatch) -> Tensor:
        """What the output layer gets at every node, fp32 [B, N, D]; cases [B] names the prompt of every tree."""
        states, mask = read
        ids = trees.tokens.clone()
        ids[:, 0] = self._start
        decoded = self._model.get_decoder()(
            input_ids=ids,
            attention_mask=self._tree_mask(trees, states.dtype) if trees.width > 1 else None,
            encoder_hidden_states=states[cases],
            encoder_attention_mask=mask[cases],
            use_cache=False,
        )
        return cast(Tensor, decoded.last_hidden_state.float() * self._scale)

    def _tree_mask(self, trees: TreeBatch, dtype: torch.dtype) -> Tensor:
        """[B, heads, N, N]: b(depth_j - depth_i) - b(j - i) where node i sees node j, else the lowest number."""
        attention = self._model.get_decoder().block[0].layer[0].SelfAttention
        by_index = attention.compute_bias(trees.width, trees.width, device=trees.tokens.device).float()
        by_depth = attention.compute_bias(trees.max_depth + 1, trees.max_depth + 1, device=trees.tokens.device).float()
        by_node = by_depth[0][:, trees.depths[:, :, None], trees.depths[:, None, :]].transpose(0, 1)
        lowest = torch.finfo(dtype).min
        return torch.where(trees.sees()[:, None], (by_node - by_index).to(dtype), lowest)

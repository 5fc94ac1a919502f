"""Exact log-probabilities of candidate identifiers: every distinct prefix is fed once, in one packed tree per case.

score_k = sum_d log p(c_kd | prompt, c_k,<d), softmax over the whole vocabulary, no normalisation by length or inside
the trie: what constrained beam search with as many beams as candidates gives, without its repeated work.
Cost: one pass over the prompts and one over about 284 nodes per case (100 candidates, 4 levels of 256 codes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, T5ForConditionalGeneration

from gemsbench.decoding.causal_tree import CausalTree
from gemsbench.decoding.head import Float32Array, Head, output_head, output_layer, step_log_probs
from gemsbench.decoding.prompts import checked_cases
from gemsbench.decoding.t5_tree import T5Tree
from gemsbench.decoding.tree_batch import TreeBatch
from gemsbench.decoding.tree_beam import BeamResult, beam_search
from gemsbench.decoding.trie import Int64Array, IntArray, PackedTree, pack


class Part(NamedTuple):
    """Some candidates of a case that are fed as one tree."""

    case: int
    candidates: Int64Array  # row numbers
    tree: PackedTree


class CandidateScorer:
    """Exact scores of the candidates of a batch of cases under a T5 or a decoder-only model.

    model: the model itself (peft modules inside are fine), attention "sdpa" or "eager".
    end_token: scored behind every identifier when given. head: from fp32 states [.., D], as the output layer gets
    them, to logits or log-probabilities [.., V]; default: the model's output layer in fp32.
    node_limit: a case with more nodes is fed as several trees, since a mask grows with the square of the nodes; 1 feeds
    every candidate alone.
    Raises ValueError for a model that it would score wrongly.
    """

    def __init__(
        self, model: Any, *, end_token: int | None = None, head: Head | None = None, node_limit: int = 512
    ) -> None:
        if node_limit < 1:
            raise ValueError(f"node_limit is {node_limit}; a tree has at least one node")
        self._model, self._end_token, self._head, self._node_limit = model, end_token, head, node_limit
        self._trees = _architecture(model)
        if head is None:
            output_layer(model)

    def score(self, prompts: Sequence[Sequence[int]], candidates: Sequence[IntArray]) -> list[Float32Array]:
        """Log-probabilities, float32 [C] per case.

        prompts: token ids without padding (T5: the encoder's input; else up to the last token before the identifier).
        candidates: token ids [C, L] per case, -1 = absent; equal rows get equal scores.
        Raises ValueError for an empty prompt, a malformed table, a token that the model does not have, a NaN score.
        """
        return [totals[tree.last_steps()].astype(np.float32) for tree, totals in self.prefixes(prompts, candidates)]

    def beam(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[IntArray], num_beams: int
    ) -> list[BeamResult]:
        """What constrained beam search of that width returns for every case, found in the exact scores (see score)."""
        return [beam_search(tree, totals, num_beams) for tree, totals in self.prefixes(prompts, candidates)]

    def prefixes(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[IntArray]
    ) -> list[tuple[PackedTree, npt.NDArray[np.float64]]]:
        """Per case, the tree and the log-probabilities [E] of all its prefixes; arguments and errors as in score."""
        tables = checked_cases(prompts, candidates, self._end_token, int(self._model.config.vocab_size))
        trees = [pack(table) for table in tables]
        cases = enumerate(zip(tables, trees, strict=True))
        parts = [part for case, (table, tree) in cases for part in _parts(case, table, tree, self._node_limit)]
        steps = [np.zeros(len(tree.step_nodes), dtype=np.float32) for tree in trees]
        for part, log_probs in zip(parts, self._log_probs(prompts, parts) if parts else [], strict=True):
            on_path = part.tree.paths >= 0
            whole = trees[part.case].paths[part.candidates, : on_path.shape[1]]
            steps[part.case][whole[on_path]] = log_probs[part.tree.paths[on_path]]
        for case, log_probs in enumerate(steps):
            if np.isnan(log_probs).any():
                raise ValueError(f"case {case}: the model gives NaN; are its weights finite?")
        return [(tree, tree.totals(log_probs)) for tree, log_probs in zip(trees, steps, strict=True)]

    def _log_probs(self, prompts: Sequence[Sequence[int]], parts: Sequence[Part]) -> list[Float32Array]:
        with torch.no_grad(), evaluation_mode(self._model):
            head = self._head or output_head(self._model)
            read = self._trees.read(prompts, branching=any(part.tree.n_nodes > 1 for part in parts))
            found = []
            for start in range(0, len(parts), len(prompts)):
                found += self._group_log_probs(read, parts[start : start + len(prompts)], head)
        return found

    def _group_log_probs(self, read: Any, group: Sequence[Part], head: Head) -> list[Float32Array]:
        trees = [part.tree for part in group]
        batch = TreeBatch(trees, self._model.device)
        cases = torch.tensor([part.case for part in group], device=self._model.device)
        hidden = self._trees.hidden(read, cases, batch)[batch.real]
        first_node = np.cumsum([0, *(tree.n_nodes for tree in trees)])
        nodes = np.concatenate([tree.step_nodes + first for tree, first in zip(trees, first_node, strict=False)])
        tokens = np.concatenate([tree.step_tokens for tree in trees])
        log_probs = step_log_probs(hidden, head, nodes, tokens)
        return np.split(log_probs, np.cumsum([len(tree.step_nodes) for tree in trees])[:-1])


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Within the block no module drops anything out; afterwards every module is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _architecture(model: Any) -> T5Tree | CausalTree:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{type(model).__name__} is no transformers model; of a peft model, give `get_base_model()`")
    if isinstance(model, T5ForConditionalGeneration):
        trees: T5Tree | CausalTree = T5Tree(model)
    elif not model.config.is_encoder_decoder:
        trees = CausalTree(model)
    else:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder model other than T5ForConditionalGeneration")
    attention = trees.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(f"attention '{attention}' takes no tree mask: load the model with attn_implementation='sdpa'")
    return trees


def _parts(case: int, table: Int64Array, tree: PackedTree, node_limit: int) -> list[Part]:
    """The whole case as one tree, or halves of its candidates, in the order of their tokens, until a tree fits."""
    parts, waiting = [], [Part(case, np.arange(len(table)), tree)]
    while waiting:
        part = waiting.pop()
        if part.tree.n_nodes <= node_limit or len(part.candidates) == 1:
            parts.append(part)
            continue
        ordered = part.candidates[np.lexsort(table[part.candidates].T[::-1])]
        waiting += [Part(case, half, pack(table[half])) for half in np.array_split(ordered, 2)]
    return parts

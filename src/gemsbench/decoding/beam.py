"""Beam search by `generate`, constrained to the candidates: the literal protocol, and an oracle for exact scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig

from gemsbench.decoding.exact import evaluation_mode
from gemsbench.decoding.prompts import checked_cases, padded
from gemsbench.decoding.trie import Int64Array, IntArray, Trie

_REAL = -1e6  # `generate` fills up with copies that start at -1e9 when there are fewer identifiers than beams


def constrained_beam(
    model: Any,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[IntArray],
    num_beams: int,
    end_token: int | None = None,
) -> list[npt.NDArray[np.float32]]:
    """The candidates' scores that `generate` returns, float32 [C] per case; -inf for the others.

    Arguments as in CandidateScorer; scores are log-probabilities over the whole vocabulary, summed, no length penalty,
    from logits in the model's own precision.
    Raises ValueError as there, for fewer than 2 beams, and when identifiers of unequal length have no end token.
    """
    if num_beams < 2:
        raise ValueError(f"num_beams is {num_beams}; beam search has at least 2")
    tables = checked_cases(prompts, candidates, end_token, int(model.config.vocab_size))
    if not tables:
        return []
    lengths = np.concatenate([(table >= 0).sum(axis=1) for table in tables])
    if end_token is None and lengths.min() != lengths.max():
        raise ValueError("identifiers differ in length: give the end token that stops a shorter one")
    causal = not model.config.is_encoder_decoder
    ids, mask = padded(prompts, model.device, left=causal)
    start = ids.shape[1] if causal else 1
    with torch.no_grad(), evaluation_mode(model), _plain_generation(model):
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            prefix_allowed_tokens_fn=_allowed_tokens(tables, start, end_token),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=int(lengths.max()),
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=end_token,
            pad_token_id=0,
            decoder_start_token_id=None if causal else model.config.decoder_start_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
    sequences = found.sequences[:, start:].reshape(len(tables), num_beams, -1).cpu().numpy()
    scores = found.sequences_scores.float().reshape(len(tables), num_beams).cpu().numpy()
    return [_returned(*case) for case in zip(tables, sequences, scores, strict=True)]


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Within the block none of the model's own settings (penalties, end tokens) changes what `generate` does."""
    settings: Callable[[], GenerationConfig] = GenerationConfig
    own, model.generation_config = model.generation_config, settings()
    try:
        yield
    finally:
        model.generation_config = own


def _allowed_tokens(
    tables: Sequence[Int64Array], start: int, end_token: int | None
) -> Callable[[int, Tensor], list[int]]:
    tries = [Trie(table) for table in tables]
    anything = [0 if end_token is None else end_token]  # behind an end: an empty list is an error in `generate`

    def allowed(case: int, tokens: Tensor) -> list[int]:
        return tries[case].children(tokens[start:].tolist()).tolist() or anything

    return allowed


def _returned(table: Int64Array, sequences: Int64Array, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores [C] of the identifiers that begin a sequence [num_beams, T]; what follows one there is filling."""
    longer = np.pad(sequences, ((0, 0), (0, table.shape[1])), constant_values=-1)[None, :, : table.shape[1]]
    same = ((table[:, None] == longer) | (table[:, None] < 0)).all(axis=2)
    found: npt.NDArray[np.float32] = np.where(same & (scores > _REAL), scores, np.float32(-np.inf)).max(axis=1)
    return found

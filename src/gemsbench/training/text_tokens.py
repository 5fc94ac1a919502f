"""Text as token ids, piece by piece: no end token is added, and text of users never becomes a special token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gemsbench.training.token_lists import Int32Array, TokenLists

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TEXTS_AT_A_TIME = 65_536  # bounds the Python lists of ids


def template_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TokenLists:
    """Ids of texts of our own, in which special tokens (chat template) count as such."""
    backend = tokenizer.backend_tokenizer  # three times as fast as calling the tokenizer
    backend.no_truncation()
    backend.no_padding()
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        chunk = list(texts[start : start + _TEXTS_AT_A_TIME])
        encoded = backend.encode_batch_fast(chunk, add_special_tokens=False)
        parts.append(TokenLists.of([text.ids for text in encoded]))
    return TokenLists.join(parts)


def added_ids(tokenizer: PreTrainedTokenizerFast) -> Int32Array:
    """Ids of all added tokens but <unk>, for plain_tokens; seconds where each of 10^5 items has a token."""
    return np.array([token for token in tokenizer.added_tokens_decoder if token != tokenizer.unk_token_id], np.int32)


def plain_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], added: Int32Array) -> TokenLists:
    """Ids of texts of users: an added token that is spelled out in one (</s>, <|im_end|>, an item's) stays text.

    added: added_ids of the tokenizer as it is now. Such texts are read with a space after every "<", with which all
    added tokens begin.
    """
    tokens = template_tokens(tokenizer, texts)
    found = np.flatnonzero(np.isin(tokens.ids, added))
    if not found.size:
        return tokens
    rows = np.unique(np.searchsorted(tokens.offsets, found, side="right") - 1)
    broken = template_tokens(tokenizer, [texts[row].replace("<", "< ") for row in rows])
    order = np.arange(len(tokens))
    order[rows] = len(tokens) + np.arange(len(rows))
    return TokenLists.join([tokens, broken]).take(order)


def unknown_rate(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Share of <unk> among the tokens of texts; 0.0 where the tokenizer knows every byte, or there is no token.

    T5's vocabulary has no Chinese: a run of it becomes one <unk>, so the rate counts runs, not characters.
    """
    ids = plain_tokens(tokenizer, texts, added_ids(tokenizer)).ids
    if tokenizer.unk_token_id is None or not ids.size:
        return 0.0
    return float((ids == tokenizer.unk_token_id).mean())

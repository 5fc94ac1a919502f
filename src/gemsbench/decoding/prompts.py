"""Prompts and candidates of several cases: checked, and prompts padded into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gemsbench.decoding.trie import Int64Array, IntArray, identifier_rows, with_end


def checked_cases(
    prompts: Sequence[Sequence[int]], candidates: Sequence[IntArray], end_token: int | None, vocabulary: int
) -> list[Int64Array]:
    """The identifiers [C, L] of every case, followed by the end token when there is one.

    Raises ValueError for unequal numbers of prompts and candidate tables, an empty prompt, a table that is none (see
    identifier_rows), and a token id outside 0..vocabulary - 1.
    """
    if len(prompts) != len(candidates):
        raise ValueError(f"{len(prompts)} prompts, but {len(candidates)} candidate tables: give one of each per case")
    tables = []
    for case, (prompt, table) in enumerate(zip(prompts, candidates, strict=True)):
        if len(prompt) == 0:
            raise ValueError(f"case {case}: the prompt is empty; a model needs at least one token to start from")
        rows = with_end(identifier_rows(table, f"case {case}, candidates"), end_token)
        for what, tokens in (("prompt", np.asarray(prompt)), ("candidates", rows[rows >= 0])):
            wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
            if len(wrong):
                raise ValueError(
                    f"case {case}, {what}: token {wrong[0]} is not in the model's vocabulary (0..{vocabulary - 1}); "
                    "were the identifier tokens added to this model?"
                )
        tables.append(rows)
    return tables


def padded(prompts: Sequence[Sequence[int]], device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids [Q, T], padded with 0 on one side, and their attention mask, both int64."""
    width = max(len(prompt) for prompt in prompts)
    ids, mask = (np.zeros((len(prompts), width), dtype=np.int64) for _ in range(2))
    for row, prompt in enumerate(prompts):
        part = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[row, part] = prompt
        mask[row, part] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

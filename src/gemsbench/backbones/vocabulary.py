"""New tokens on a backbone: new rows behind the old matrix, old logits untouched, token id = row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from gemsbench import seeds
from gemsbench.backbones.loading import Backbone
from gemsbench.errors import InputError

_UNUSED = "<|unused_{}|>"
_BLOCK_ROWS = 16_384


def add_tokens(backbone: Backbone, tokens: Sequence[str], seed: int) -> range:
    """Add tokens to tokenizer and model; return their ids, which start at the model's old number of rows.

    Rows that no token used before get placeholder tokens, so that token ids and matrix rows agree. Each new row is
    drawn from N(mean, s^2), dimension by dimension, of the old rows in use (not the library's resizing default, whose
    rows differ from their mean in the sixth digit only); an untied T5 gets rows in both matrices from the statistics
    of each. Raises InputError for no tokens, blanks, duplicates, or tokens that are there already.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    used, rows = len(tokenizer), len(_weight(model.get_input_embeddings()))
    _check_tokens(tokens, tokenizer)
    fillers = [_UNUSED.format(row) for row in range(used, rows)]
    # Plain tokens, not special ones: decoding keeps them.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*fillers, *tokens)])
    new_rows = range(rows, rows + len(tokens))
    if tokenizer.convert_tokens_to_ids([tokens[0], tokens[-1]]) != [new_rows[0], new_rows[-1]]:
        raise InputError(f"the tokenizer numbers its tokens with gaps, so '{tokens[0]}' did not get id {rows}.")
    with torch.random.fork_rng(devices=[]):  # resizing draws values that are then overwritten
        model.resize_token_embeddings(new_rows.stop, mean_resizing=False)
    embedding = _weight(model.get_input_embeddings())
    head = _weight(model.get_output_embeddings())  # type: ignore[no-untyped-call]
    _fill_rows(embedding, used, new_rows, seed, "input")
    if head is not embedding:
        _fill_rows(head, used, new_rows, seed, "head")
    return new_rows


def _check_tokens(tokens: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
    if not tokens:
        raise InputError("no tokens to add. Give at least one identifier.")
    if len(set(tokens)) != len(tokens):
        repeated = Counter(tokens).most_common(1)[0][0]
        raise InputError(f"token '{repeated}' is there twice. Every token needs a name of its own.")
    blank = next((token for token in tokens if not token or any(map(str.isspace, token))), None)
    if blank is not None:
        raise InputError(f"token '{blank}' is empty or holds white space, which tokenizers cut off. Rename it.")
    vocabulary = tokenizer.get_vocab()
    known = next((token for token in tokens if token in vocabulary), None)
    if known is not None:
        raise InputError(
            f"token '{known}' is in the vocabulary already. Add the tokens to the original backbone, or rename them."
        )


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def _fill_rows(weight: Tensor, used: int, new_rows: range, seed: int, name: str) -> None:
    old = weight[:used].float()
    mean, deviation = old.mean(dim=0), old.std(dim=0)
    rng = seeds.stream(seed, "new rows", name)
    for start in range(new_rows.start, new_rows.stop, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, new_rows.stop)
        noise = torch.from_numpy(rng.standard_normal((stop - start, weight.shape[1]), dtype="float32"))
        weight[start:stop] = (mean + deviation * noise.to(weight.device)).to(weight.dtype)

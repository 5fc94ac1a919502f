"""Log-probabilities over the whole vocabulary in fp32, read at single tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gemsbench.decoding.trie import Int64Array

Float32Array = npt.NDArray[np.float32]
Head = Callable[[Tensor], Tensor]
LOGITS_AT_A_TIME = 2**26  # 256 MiB in fp32: bounds the memory of [nodes, vocabulary]
_SCALED_BY = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # done outside the output layer


def output_layer(model: Any) -> nn.Module:
    """The layer that turns states into logits, if nothing else is needed to compute them in fp32.

    Raises ValueError for a model without an output layer, one that changes logits after it, and a wrapped output
    layer of another dtype than fp32: the caller has to give the head then.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        raise ValueError(f"{type(model).__name__} has no output layer: give `head`")
    if any(getattr(model.config, name, None) is not None for name in _SCALED_BY):
        raise ValueError(f"{type(model).__name__} changes logits behind its output layer: give a `head` that does")
    if type(layer) is not nn.Linear and not _in_fp32(layer):
        raise ValueError(f"the output layer is a {type(layer).__name__} that is not in fp32: give `head`")
    return layer  # type: ignore[no-any-return]


def output_head(model: Any) -> Head:
    """The model's own output layer in fp32; a copy of its weights is made when they are of another dtype."""
    layer: Any = output_layer(model)
    if _in_fp32(layer):
        return layer  # type: ignore[no-any-return]
    weight, bias = layer.weight.float(), layer.bias.float() if layer.bias is not None else None
    return lambda hidden: nn.functional.linear(hidden, weight, bias)


def _in_fp32(layer: nn.Module) -> bool:
    return all(parameter.dtype == torch.float32 for parameter in layer.parameters())


def step_log_probs(hidden: Tensor, head: Head, nodes: Int64Array, tokens: Int64Array) -> Float32Array:
    """Log p(tokens[e] | node nodes[e]), float32 [E], from states [N, D] in fp32; nodes ascending.

    Raises ValueError when a token is outside what the head gives.
    """
    rows, columns = (torch.from_numpy(array).to(hidden.device) for array in (nodes, tokens))
    found, start, size = [], 0, 1  # the first node alone tells how wide the head is
    while start < len(hidden):
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden[start : start + size]).float()
        if start == 0 and int(tokens.max()) >= logits.shape[-1]:
            raise ValueError(f"token {int(tokens.max())} of a candidate: the head gives {logits.shape[-1]} tokens only")
        low, high = np.searchsorted(nodes, [start, start + size])
        here = rows[low:high] - start
        found.append(logits[here, columns[low:high]] - torch.logsumexp(logits, dim=-1)[here])
        start, size = start + size, max(1, LOGITS_AT_A_TIME // logits.shape[-1])
    return torch.cat(found).cpu().numpy()

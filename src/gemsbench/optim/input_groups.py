"""Which linear layers read the same tensor, and which mask says what positions of it are text.

Both are found in one dry run with hooks: no name of a model's parts is known here. An encoder-decoder is run with
unequal lengths on its two sides, so that the length of a tensor tells the side it belongs to, once and for all batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Side = Literal["input", "output"]
TokenSequence = Literal["", "encoder", "decoder"]  # "": every position counts; of a plain language model: "encoder"
_IGNORED_LABEL = -100
_LENGTHS: Mapping[TokenSequence, tuple[str, ...]] = {
    "encoder": ("attention_mask", "input_ids", "inputs_embeds"),
    "decoder": ("decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds", "labels"),
}


@dataclass(frozen=True)
class InputGroup:
    """Linear layers (names of modules, in the model's order) that read one tensor; side output: one layer alone."""

    members: tuple[str, ...]
    width: int  # of the tensor's rows
    sequence: TokenSequence  # whose mask tells padding


def linear_layers(model: nn.Module, targets: Iterable[str] | None = None) -> dict[str, nn.Linear]:
    """The linear layers of a model by name: those named by targets, else all but the output layer.

    Raises ValueError for a name that is no linear layer of the model, and where there is none at all.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if targets is None:
        output, rows = _output_layer(model), {id(part.weight) for part in _embeddings(model)}
        chosen = {n: m for n, m in found.items() if m is not output and id(m.weight) not in rows}
    else:
        wanted = [name.removesuffix(".weight") for name in targets]
        wrong = next((name for name in wanted if name not in found), None)
        if wrong is not None:
            raise ValueError(
                f"'{wrong}' is no linear layer of this model. Known: {', '.join(sorted(found)) or '(none)'}."
            )
        chosen = {name: module for name, module in found.items() if name in set(wanted)}
    if not chosen:
        raise ValueError("no linear layer to look at. Name at least one.")
    return chosen


def find_groups(
    model: nn.Module, batch: Mapping[str, Any], layers: Mapping[str, nn.Linear], side: Side = "input"
) -> tuple[InputGroup, ...]:
    """Group layers by the identity of their input tensor, in one pass over the first row of a batch.

    A layer that is called several times counts with all its inputs. side "output": every layer is a group of its own.
    Layers that the pass does not reach are in no group. Raises ValueError for a tensor whose length is that of no mask.
    """
    row = _dry_row(model, batch)
    seen: dict[str, list[Tensor]] = {}  # holds the tensors, so that no identity is used twice
    note = {name: _noting(seen.setdefault(name, [])) for name in layers}
    with watching(layers, note, side), output_shortened(model, row, layers):
        model(**row)
    members: dict[tuple[int, ...] | str, list[str]] = {}
    for name, tensors in seen.items():
        if tensors:
            key = tuple(id(tensor) for tensor in tensors) if side == "input" else name
            members.setdefault(key, []).append(name)
    return tuple(
        InputGroup(tuple(names), seen[names[0]][0].shape[-1], _sequence(model, row, seen[names[0]], names[0]))
        for names in members.values()
    )


def counted(tensor: Tensor, masks: Mapping[TokenSequence, Tensor | None], group: InputGroup) -> Tensor:
    """The rows [T, n] of a tensor [.., n] that are text; raises ValueError when the mask does not fit the tensor."""
    mask = masks.get(group.sequence)
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    if mask is None:
        return rows
    if mask.numel() != len(rows):
        raise ValueError(
            f"'{group.members[0]}': a tensor {tuple(tensor.shape)} and a mask {tuple(mask.shape)} of the "
            f"{group.sequence} do not go together. Leave this layer out of the targets."
        )
    return rows[mask.reshape(-1)]


def text_masks(model: nn.Module, batch: Mapping[str, Any]) -> dict[TokenSequence, Tensor | None]:
    """Which positions of each sequence are text, bool [B, T]; None: all of them.

    A decoder's are those of decoder_attention_mask, else those that have a label. A plain language model's labels say
    nothing of that: its prompt has none, and is text. Raises ValueError for a mask that is not [B, T].
    """
    masks: dict[TokenSequence, Tensor | None] = {"": None, "encoder": _mask(batch, "attention_mask")}
    if _two_sided(model, batch):
        decoder = _mask(batch, "decoder_attention_mask")
        if decoder is None and "labels" in batch:
            decoder = batch["labels"] != _IGNORED_LABEL
        masks["decoder"] = decoder
    return masks


@contextmanager
def watching(
    layers: Mapping[str, nn.Linear], look: Mapping[str, Callable[[Tensor], None]], side: Side
) -> Iterator[None]:
    """Within the block look[name] is called with every input (or output) tensor of layers[name]."""
    handles: list[RemovableHandle] = []
    try:
        for name, function in look.items():
            if side == "input":
                handles.append(layers[name].register_forward_pre_hook(_on_input(function), with_kwargs=True))
            else:
                handles.append(layers[name].register_forward_hook(_on_output(function)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def output_shortened(model: nn.Module, batch: Mapping[str, Any], layers: Mapping[str, nn.Linear]) -> Iterator[None]:
    """Within the block the output layer sees the last position alone: logits of a whole text are large, and unused.

    Not where it is looked at itself, nor where labels ask for all logits.
    """
    output = _output_layer(model)
    if output is None or output in layers.values() or "labels" in batch:
        yield
        return
    handle = output.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., -1:, :], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _on_input(look: Callable[[Tensor], None]) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        look(inputs[0] if inputs else named["input"])

    return hook


def _on_output(look: Callable[[Tensor], None]) -> Any:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        look(output)

    return hook


def _noting(tensors: list[Tensor]) -> Callable[[Tensor], None]:
    return tensors.append


def _output_layer(model: nn.Module) -> nn.Module | None:
    ask = getattr(model, "get_output_embeddings", None)
    layer = ask() if callable(ask) else getattr(model, "lm_head", None)
    return layer if isinstance(layer, nn.Module) else None


def _embeddings(model: nn.Module) -> list[nn.Embedding]:
    return [module for module in model.modules() if isinstance(module, nn.Embedding)]


def _two_sided(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    told = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    return told or any(name.startswith("decoder_") for name in batch)


def _mask(batch: Mapping[str, Any], name: str) -> Tensor | None:
    mask = batch.get(name)
    if mask is None:
        return None
    if mask.dim() != 2:
        raise ValueError(f"{name} has the shape {tuple(mask.shape)}; which positions are text is told by [B, T].")
    return torch.as_tensor(mask != 0)


def _length(batch: Mapping[str, Any], sequence: TokenSequence) -> int | None:
    return next((batch[name].shape[1] for name in _LENGTHS[sequence] if batch.get(name) is not None), None)


def _dry_row(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The first row of a batch; of an encoder-decoder with unequal lengths on its two sides."""
    row = {name: value[:1] if isinstance(value, Tensor) else value for name, value in batch.items()}
    length = _length(row, "encoder")
    if not _two_sided(model, batch) or length != _length(row, "decoder"):
        return row
    for name, value in row.items():
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == length and not _of_decoder(name):
            row[name] = torch.cat([value, value[:, -1:]], dim=1)
    return row


def _of_decoder(name: str) -> bool:
    return name.startswith("decoder_") or name == "labels"


def _sequence(model: nn.Module, row: Mapping[str, Any], tensors: list[Tensor], name: str) -> TokenSequence:
    lengths = {"encoder": _length(row, "encoder")}
    if _two_sided(model, row):
        lengths["decoder"] = _length(row, "decoder")
    if not any(lengths.values()):
        return ""
    rows = {tensor.numel() // tensor.shape[-1] for tensor in tensors}
    found: list[TokenSequence] = [side for side, length in lengths.items() if rows == {length}]  # type: ignore[misc]
    if found:
        return found[0]
    raise ValueError(
        f"'{name}' reads {sorted(rows)} positions of a text of {lengths}: which of them are padding is not known. "
        "Leave this layer out of the targets."
    )

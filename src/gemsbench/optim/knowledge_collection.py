"""One forward pass of a frozen model over text that yields the spectrum of every input group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gemsbench.optim.feature_moments import WIDEST_EXACT, SecondMoment, Spectrum
from gemsbench.optim.input_groups import (
    InputGroup,
    Side,
    TokenSequence,
    counted,
    find_groups,
    output_shortened,
    text_masks,
    watching,
)
from gemsbench.optim.kept_directions import KeptDirections
from gemsbench.optim.nystroem import StreamingMoment, sketching_matrix

Moment = SecondMoment | StreamingMoment

_log = logging.getLogger(__name__)


@torch.no_grad()
def spectra(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    layers: Mapping[str, nn.Linear],
    rule: KeptDirections,
    *,
    side: Side = "input",
    seed: int = 0,
    widest_exact: int = WIDEST_EXACT,
) -> Iterator[tuple[InputGroup, Spectrum]]:
    """Run the model once over all batches (keyword arguments of its forward) and yield (group, spectrum).

    Moments live on the model's device, all at once: 8 n^2 bytes per group up to widest_exact, above it 8 n l with l
    columns of a sketch. The model is in evaluation mode meanwhile and as before afterwards; weights are not touched.
    Raises ValueError without a batch.
    """
    groups, moments = _accumulated(model, batches, layers, rule, side, seed, widest_exact)
    unreached = set(layers).difference(*(group.members for group in groups))
    if unreached:
        _log.info("not reached by the forward pass, so without knowledge: %s", ", ".join(sorted(unreached)))
    for group in groups:
        moment = moments.pop(0)  # freed as soon as its spectrum is known
        try:
            yield group, moment.spectrum()
        except ValueError as error:
            raise ValueError(f"'{group.members[0]}': {error}") from error


def _accumulated(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    layers: Mapping[str, nn.Linear],
    rule: KeptDirections,
    side: Side,
    seed: int,
    widest_exact: int,
) -> tuple[tuple[InputGroup, ...], list[Moment]]:
    device = next(model.parameters()).device
    incoming = iter(batches)
    first = next(incoming, None)
    if first is None:
        raise ValueError("no batch: give at least one, e.g. {'input_ids': ..., 'attention_mask': ...}.")
    with _evaluating(model):
        groups = find_groups(model, _moved(first, device), layers, side)
        moments = _moments(groups, rule, seed, device, widest_exact)
        masks: dict[TokenSequence, Tensor | None] = {}
        look = {group.members[0]: _adding(group, moment, masks) for group, moment in zip(groups, moments, strict=True)}
        for batch in chain([first], incoming):
            tensors = _moved(batch, device)
            masks.update(text_masks(model, tensors))
            with watching(layers, look, side), output_shortened(model, tensors, layers):
                model(**tensors)
    return groups, moments


def _moments(
    groups: Iterable[InputGroup], rule: KeptDirections, seed: int, device: torch.device, widest_exact: int
) -> list[Moment]:
    sketching: dict[int, Tensor] = {}  # groups of equal width share one
    moments: list[Moment] = []
    for group in groups:
        if group.width <= widest_exact:
            moments.append(SecondMoment(group.width, device))
            continue
        if group.width not in sketching:
            columns = rule.sketch_columns(group.width)
            sketching[group.width] = sketching_matrix(group.width, columns, seed, device)
        moments.append(StreamingMoment(sketching[group.width]))
    return moments


def _adding(
    group: InputGroup, moment: Moment, masks: Mapping[TokenSequence, Tensor | None]
) -> Callable[[Tensor], None]:
    def add(tensor: Tensor) -> None:
        moment.add(counted(tensor, masks, group))

    return add


def _moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

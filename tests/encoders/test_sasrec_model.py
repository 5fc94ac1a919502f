"""The Transformer of SASRec: against torch's own layers, and what a state may know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gemsbench.encoders.sasrec_model import START, SASRecModel

WIDTH, LENGTH = 8, 5


def _model(heads: int = 1, dropout: float = 0.0) -> SASRecModel:
    """A model in which everything matters: weights are large, norms and biases are not neutral."""
    model = SASRecModel(n_items=12, width=WIDTH, blocks=2, heads=heads, max_length=LENGTH, dropout=dropout)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if name.endswith("norm.weight") else 0.4 * noise)
    return model.double().eval()


def _oracle(model: SASRecModel, heads: int, sequences: Tensor) -> Tensor:
    """The same with nn.TransformerEncoderLayer."""
    hidden = model.items[sequences] * math.sqrt(WIDTH) + model.positions[: sequences.shape[1]]
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(WIDTH, heads, WIDTH, 0.0, "relu", batch_first=True, norm_first=True).double()
        ours = block.state_dict()
        inputs = [ours[f"{name}.{kind}"] for kind in ("weight", "bias") for name in ("query", "key", "value")]
        names = {"norm1": "attention_norm", "norm2": "forward_norm", "linear1": "inner", "linear2": "outer"}
        names["self_attn.out_proj"] = "joined"
        weights = {f"{theirs}.{k}": ours[f"{own}.{k}"] for theirs, own in names.items() for k in ("weight", "bias")}
        weights |= {"self_attn.in_proj_weight": torch.cat(inputs[:3]), "self_attn.in_proj_bias": torch.cat(inputs[3:])}
        layer.load_state_dict(weights)
        hidden = layer(hidden, nn.Transformer.generate_square_subsequent_mask(sequences.shape[1]).double())
    return model.norm(hidden)


SEQUENCES = torch.tensor([[START, 3, 1, 7, 12, 2], [START, 5, 5, 9, START, START]])


@pytest.mark.parametrize("heads", [1, 2])
def test_states_are_those_of_torchs_encoder_layers(heads: int) -> None:
    model = _model(heads)
    torch.testing.assert_close(model(SEQUENCES), _oracle(model, heads, SEQUENCES))


@pytest.mark.parametrize("place", range(1, LENGTH + 1))
def test_a_state_knows_itself_and_the_past_only(place: int) -> None:
    model = _model()
    changed = SEQUENCES[:1].clone()
    changed[0, place] = 11
    before, after = model(SEQUENCES[:1])[0], model(changed)[0]
    torch.testing.assert_close(after[:place], before[:place], rtol=0, atol=0)
    assert (after[place:] - before[place:]).abs().amax(dim=1).min() > 1e-3


def test_order_matters() -> None:
    model = _model()
    swapped = SEQUENCES[:1, [0, 2, 1, 3, 4, 5]]
    assert (model(SEQUENCES[:1]) - model(swapped))[0, -1].abs().max() > 1e-3


def test_padding_does_not_matter() -> None:
    model = _model()
    torch.testing.assert_close(model(SEQUENCES[1:, :4]), model(SEQUENCES[1:])[:, :4])


def test_dropout_acts_in_training_alone() -> None:
    model = _model(dropout=0.5)
    torch.testing.assert_close(model(SEQUENCES), _model()(SEQUENCES), rtol=0, atol=0)
    assert not torch.equal(model.train()(SEQUENCES), model(SEQUENCES))


def test_initial_weights_follow_from_the_generator() -> None:
    first, again, other = (
        SASRecModel(12, WIDTH, 2, 1, LENGTH, 0.0).initialize(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        assert parameter.any() or name.endswith("bias")
        if parameter.ndim == 2:
            assert not torch.equal(parameter, other.get_parameter(name)), name

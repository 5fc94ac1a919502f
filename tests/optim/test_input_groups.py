"""Groups of layers that read one tensor, and which positions of it count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from gemsbench.optim.input_groups import InputGroup, counted, find_groups, linear_layers, text_masks


@pytest.fixture(scope="module")
def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def grouped(model: nn.Module, batch: dict[str, Any], side: Any = "input") -> dict[str, InputGroup]:
    """Last two parts of each member's name -> its group."""
    layers = linear_layers(model)
    return {name: group for group in find_groups(model, batch, layers, side) for name in group.members}


def test_a_language_model_has_four_groups_per_layer(qwen: Qwen2ForCausalLM) -> None:
    groups = find_groups(qwen, {"input_ids": ids(2, 5)}, linear_layers(qwen))
    assert len(groups) == 4 * 2
    attention, out, gate, down = groups[:4]
    layer = "model.layers.0"
    assert attention.members == tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv")
    assert out.members == (f"{layer}.self_attn.o_proj",)
    assert gate.members == (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj")
    assert down.members == (f"{layer}.mlp.down_proj",) and down.width == 24 and gate.width == 16


@pytest.mark.parametrize("lengths", [(5, 3), (4, 4), (1, 1), (3, 6)])
def test_cross_attention_of_all_decoder_layers_reads_one_tensor(
    t5: T5ForConditionalGeneration, lengths: tuple[int, int]
) -> None:
    batch = {"input_ids": ids(2, lengths[0]), "decoder_input_ids": ids(2, lengths[1])}
    found = grouped(t5, batch)
    shared = {f"decoder.block.{n}.layer.1.EncDecAttention.{part}" for n in (0, 1) for part in "kv"}
    assert set(found["decoder.block.0.layer.1.EncDecAttention.k"].members) == shared
    assert len(set(found.values())) == 4 * 2 + 6 * 2 + 1
    for name, group in found.items():
        encoder = name.startswith("encoder.") or name in shared
        assert group.sequence == ("encoder" if encoder else "decoder"), name


def test_every_linear_layer_but_the_head_is_in_one_group(t5: T5ForConditionalGeneration) -> None:
    found = grouped(t5, {"input_ids": ids(1, 4), "labels": ids(1, 3)})
    linear = {name for name, module in t5.named_modules() if isinstance(module, nn.Linear)}
    assert set(found) == linear - {"lm_head"}
    assert all(found[name].width == dict(t5.named_modules())[name].in_features for name in found)  # type: ignore[union-attr]


def test_outputs_are_grouped_by_layer_alone(qwen: Qwen2ForCausalLM) -> None:
    found = grouped(qwen, {"input_ids": ids(2, 5)}, "output")
    assert all(group.members == (name,) for name, group in found.items()) and len(found) == 7 * 2
    assert found["model.layers.0.self_attn.k_proj"].width == 8  # two of four heads


class Twice(nn.Module):
    """One layer that is called with two tensors, one that sees the first of them, one that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.never = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.twice(self.twice(x)) + self.once(x))


def test_a_layer_that_is_called_twice_is_no_companion_of_one_that_is_called_once() -> None:
    model = Twice()
    groups = find_groups(model, {"x": torch.randn(3, 6)}, linear_layers(model))
    assert [group.members for group in groups] == [("twice",), ("once",)]
    assert {group.sequence for group in groups} == {""}  # a batch without text has no padding


class Equal(nn.Module):
    """Two layers that read equal tensors, which are not one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.one(x.clone()) + self.other(input=x.clone()))


def test_tensors_are_told_apart_by_identity_not_by_value() -> None:
    model = Equal()
    groups = find_groups(model, {"x": torch.randn(3, 4)}, linear_layers(model))
    assert [group.members for group in groups] == [("one",), ("other",)]


def test_a_layer_that_reads_another_number_of_positions_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.pooler = nn.Embedding(40, 4), nn.Linear(4, 4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.as_tensor(self.pooler(self.embed(input_ids)[:, :2]))

    model = Pooled()
    batch = {"input_ids": ids(1, 5), "attention_mask": torch.ones(1, 5)}
    with pytest.raises(ValueError, match="'pooler' reads \\[2\\] positions"):
        find_groups(model, batch, linear_layers(model))


def test_targets_are_named_with_or_without_weight_and_a_wrong_one_is_refused(qwen: Qwen2ForCausalLM) -> None:
    names = ["model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.up_proj"]
    assert list(linear_layers(qwen, names)) == ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    with pytest.raises(ValueError, match=r"'model\.norm' is no linear layer"):
        linear_layers(qwen, ["model.norm"])
    with pytest.raises(ValueError, match="no linear layer to look at"):
        linear_layers(nn.Embedding(3, 3))


def test_an_output_layer_tied_to_the_embedding_is_left_out_whatever_it_is_called() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner, self.to_words = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.to_words.weight = self.words.weight

    assert list(linear_layers(Tied())) == ["inner"]


GROUP = InputGroup(("layer",), 2, "encoder")
DECODED = InputGroup(("layer",), 2, "decoder")


def test_padding_is_left_out() -> None:
    tensor = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    masks = text_masks(nn.Identity(), {"attention_mask": mask})
    assert counted(tensor, masks, GROUP).tolist() == [[0, 1], [2, 3], [6, 7]]
    assert counted(tensor.view(6, 2), masks, GROUP).tolist() == [[0, 1], [2, 3], [6, 7]]
    assert len(counted(tensor, text_masks(nn.Identity(), {}), GROUP)) == 6  # no mask: all of it


def test_a_decoder_takes_its_own_mask_else_its_labels(t5: T5ForConditionalGeneration) -> None:
    labels = torch.tensor([[5, 6, -100], [7, -100, -100]])
    own = torch.tensor([[1, 0, 0], [1, 0, 0]])
    tensor = torch.arange(12.0).view(2, 3, 2)
    by_labels = text_masks(t5, {"input_ids": ids(2, 3), "attention_mask": torch.ones(2, 3), "labels": labels})
    assert counted(tensor, by_labels, DECODED).tolist() == [[0, 1], [2, 3], [6, 7]]
    by_own = text_masks(t5, {"input_ids": ids(2, 3), "labels": labels, "decoder_attention_mask": own})
    assert counted(tensor, by_own, DECODED).tolist() == [[0, 1], [6, 7]]
    assert len(counted(tensor, by_own, GROUP)) == 6


def test_labels_of_a_plain_language_model_say_nothing_of_padding(qwen: Qwen2ForCausalLM) -> None:
    masks = text_masks(qwen, {"input_ids": ids(1, 3), "labels": torch.tensor([[-100, -100, 4]])})
    assert len(counted(torch.zeros(1, 3, 2), masks, GROUP)) == 3


def test_a_mask_that_does_not_fit_is_refused() -> None:
    masks = text_masks(nn.Identity(), {"attention_mask": torch.ones(2, 4)})
    with pytest.raises(ValueError, match="do not go together"):
        counted(torch.zeros(2, 3, 2), masks, GROUP)
    with pytest.raises(ValueError, match=r"attention_mask has the shape \(1, 1, 4, 4\)"):
        text_masks(nn.Identity(), {"attention_mask": torch.ones(1, 1, 4, 4)})

"""The stand-ins before training: the real classes, laid out like the hub models."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2ForCausalLM, T5ForConditionalGeneration

from gemsbench.backbones.catalogue import Kind
from gemsbench.backbones.loading import Backbone
from gemsbench.backbones.stand_ins import build_stand_in, rows_for

from .conftest import KINDS, sentences, settings_of


def test_t5_mini_is_untied_and_gated() -> None:
    model = build_stand_in(settings_of("t5"), sentences(50), seed=3).model
    assert type(model) is T5ForConditionalGeneration
    assert model.lm_head.weight is not model.shared.weight
    assert torch.equal(model.lm_head.weight, model.shared.weight)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    assert not model.config.tie_word_embeddings and not model.config.scale_decoder_outputs
    assert model.config.feed_forward_proj == "gated-gelu"
    assert model.config.decoder_start_token_id == 0
    assert 0.04 < model.shared.weight.std().item() < 0.06


def test_qwen_mini_is_tied_and_groups_its_queries() -> None:
    model = build_stand_in(settings_of("qwen2"), sentences(50), seed=3).model
    assert type(model) is Qwen2ForCausalLM
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (8, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_have_no_token(made: dict[Kind, Backbone], kind: Kind) -> None:
    backbone = made[kind]
    rows = backbone.model.get_input_embeddings().num_embeddings
    assert rows == backbone.model.config.vocab_size == rows_for(len(backbone.tokenizer))
    assert 0 < rows - len(backbone.tokenizer) <= 128


def test_rows_come_in_blocks() -> None:
    assert rows_for(32_100) == 32_128  # T5
    assert rows_for(256) == 384  # never just full


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_a_function_of_the_seed(kind: Kind) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (build_stand_in(settings_of(kind), sentences(50), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers are left alone
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    assert not torch.equal(first.model.get_input_embeddings().weight, other.model.get_input_embeddings().weight)

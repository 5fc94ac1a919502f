"""New tokens: ids, rows, old logits, round trips, and what is refused."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from gemsbench.backbones.catalogue import Kind
from gemsbench.backbones.loading import Backbone, load_backbone, save_backbone
from gemsbench.backbones.vocabulary import add_tokens
from gemsbench.errors import InputError

from .conftest import KINDS, logits_of

BackboneOf = Callable[[Kind], Backbone]
TOKENS = [f"<|i{level}_{code}|>" for level in range(3) for code in range(40)]


def _rows(backbone: Backbone) -> int:
    return len(backbone.model.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_start_behind_the_old_rows_and_name_rows(kind: Kind, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    old_rows, old_tokens = _rows(backbone), len(backbone.tokenizer)
    assert old_tokens < old_rows
    new_rows = add_tokens(backbone, TOKENS, seed=1)
    assert new_rows == range(old_rows, old_rows + len(TOKENS))
    assert backbone.tokenizer.convert_tokens_to_ids(TOKENS) == list(new_rows)
    assert len(backbone.tokenizer) == _rows(backbone) == backbone.model.config.vocab_size == new_rows.stop
    assert len(backbone.model.get_output_embeddings().weight) == new_rows.stop


@pytest.mark.parametrize("kind", KINDS)
def test_old_logits_do_not_move(kind: Kind, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    before = logits_of(backbone.model, kind)
    add_tokens(backbone, TOKENS, seed=1)
    after = logits_of(backbone.model, kind)[..., : before.shape[-1]]
    assert float((after - before).abs().max()) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["{}", "[rec] {} | [src] {}", "[rec]{}|{}[src]", "Query:{}lamp{}.", "茶{}茶"])
def test_a_token_is_one_id_wherever_it_stands(kind: Kind, text: str, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    new_rows = add_tokens(backbone, TOKENS, seed=1)
    places = text.count("{}")
    for token, row in zip(TOKENS, new_rows, strict=True):
        ids = backbone.tokenizer(text.format(*[token] * places)).input_ids
        assert [i for i in ids if i in new_rows] == [row] * places
        assert token in backbone.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_rows_survive_saving(kind: Kind, backbone_of: BackboneOf, tmp_path: Path) -> None:
    backbone = backbone_of(kind)
    new_rows = add_tokens(backbone, TOKENS, seed=1)
    save_backbone(backbone, tmp_path / "tuned")
    loaded = load_backbone(tmp_path / "tuned")
    assert torch.equal(logits_of(loaded.model, kind), logits_of(backbone.model, kind))
    assert loaded.tokenizer.convert_tokens_to_ids(TOKENS) == list(new_rows)
    text = f"[rec]{TOKENS[0]}|{TOKENS[-1]}"
    assert loaded.tokenizer(text).input_ids == backbone.tokenizer(text).input_ids
    with pytest.raises(InputError, match="in the vocabulary already"):
        add_tokens(loaded, TOKENS[5:6], seed=1)
    assert add_tokens(loaded, ["<|more|>"], seed=1) == range(new_rows.stop, new_rows.stop + 1)


def _matrices(backbone: Backbone) -> dict[str, torch.Tensor]:
    model: Any = backbone.model
    matrices = {"input": model.get_input_embeddings().weight.detach()}
    return matrices | ({"head": model.lm_head.weight.detach()} if backbone.kind == "t5" else {})


@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_look_like_the_old_ones_in_use(kind: Kind, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    used = len(backbone.tokenizer)
    with torch.no_grad():
        for name, matrix in _matrices(backbone).items():
            matrix[:used] += torch.arange(16) / (4 if name == "input" else -4)  # a mean of its own in every dimension
            matrix[:used, 3] *= 5
            matrix[used:] = 100.0  # rows without a token count for nothing
    old = {name: matrix[:used].clone() for name, matrix in _matrices(backbone).items()}
    new_rows = add_tokens(backbone, [f"<{n}>" for n in range(20_000)], seed=1)
    for name, matrix in _matrices(backbone).items():
        new = matrix[new_rows.start :]
        deviation = old[name].std(dim=0)
        assert torch.allclose(new.mean(dim=0), old[name].mean(dim=0), atol=0.05 * float(deviation.max()))
        assert torch.allclose(new.std(dim=0), deviation, rtol=0.05)
    if kind == "t5":
        both = torch.stack([matrix[new_rows.start :, 0] for matrix in _matrices(backbone).values()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05  # drawn apart


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_are_a_function_of_the_seed(kind: Kind, backbone_of: BackboneOf) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    rows = []
    for seed in (1, 1, 2):
        backbone = backbone_of(kind)
        new = add_tokens(backbone, TOKENS, seed)
        rows.append(torch.cat([matrix[new.start :] for matrix in _matrices(backbone).values()], dim=1))
    assert torch.equal(torch.rand(2), expected)  # the caller's random numbers are left alone
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "no tokens"),
        (["<a>", "<b>", "<a>"], "'<a>' is there twice"),
        (["<a>", ""], "empty"),
        (["<a b>"], "white space"),
        (["<a>", "</s>", "<|im_end|>"], "in the vocabulary already"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_refused(kind: Kind, tokens: Sequence[str], message: str, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    tokens_before, rows_before = len(backbone.tokenizer), _rows(backbone)
    with pytest.raises(InputError, match=message):
        add_tokens(backbone, tokens, seed=1)
    assert (len(backbone.tokenizer), _rows(backbone)) == (tokens_before, rows_before)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rows(kind: Kind, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    backbone.model.to(torch.bfloat16)
    new = add_tokens(backbone, TOKENS, seed=1)
    matrix = _matrices(backbone)["input"]
    assert matrix.dtype == torch.bfloat16
    assert len(torch.unique(matrix[new.start :], dim=0)) == len(TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_catalogue_takes_seconds(kind: Kind, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(kind)
    began = time.process_time()
    new = add_tokens(backbone, [f"<|i0_{n}|>" for n in range(200_000)], seed=1)
    assert time.process_time() - began < 20
    assert backbone.tokenizer(f"[rec]<|i0_{123_456}|>|").input_ids.count(new[123_456]) == 1


def test_ids_on_the_vocabularies_of_the_hub_models(mirror: Path, tmp_path: Path) -> None:
    """T5: 32,128 + k. Qwen2.5: behind its special tokens the matrix goes on to 151,936."""
    folder = mirror / "tokenizers"
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((folder / "t5" / "tokenizer.json.gz").read_bytes()))
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "t5" / "tokenizer_config.json").read_bytes())
    t5 = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes(gzip.decompress((folder / "qwen" / f"{name}.gz").read_bytes()))
    qwen = ByteLevelBPETokenizer.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=qwen._tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    for tokenizer, rows in ((t5, 32_128), (wrapped, 151_936)):
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, num_key_value_heads=1, tie_word_embeddings=True, **sizes))
        new = add_tokens(Backbone("qwen2", model, tokenizer), TOKENS, seed=1)
        assert new.start == rows
        ids = tokenizer(f"History: [rec]{TOKENS[3]}| [src] {TOKENS[7]}").input_ids
        assert [i for i in ids if i >= rows] == [new[3], new[7]]
        assert np.array_equal(tokenizer.convert_tokens_to_ids(TOKENS), np.array(new))

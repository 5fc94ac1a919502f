"""Collecting the knowledge basis of a stand-in: which documents, how they are read, and what the file says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gemsbench.backbones.catalogue import QwenMiniSettings, T5MiniSettings
from gemsbench.backbones.loading import Backbone, load_backbone, save_backbone
from gemsbench.backbones.stand_ins import build_stand_in
from gemsbench.errors import InputError
from gemsbench.files import write_json
from gemsbench.optim.knowledge_basis import KnowledgeBasis
from gemsbench.training.basis_settings import BasisSettings
from gemsbench.training.knowledge import documents_as_tokens, make_basis, reading_batches, sampled
from gemsbench.training.token_lists import TokenLists

KINDS = ("t5", "qwen2")
WORDS = ("amber", "basin", "cedar", "dune", "ember", "fjord", "grove", "harbour", "islet", "jetty", "knoll", "lagoon")


def documents(number: int = 40, seed: int = 0) -> list[str]:
    """Documents of 5 to 30 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(5, 30)))) + f" {n}." for n in range(number)]


@pytest.fixture(scope="module")
def made() -> dict[str, Backbone]:
    sizes: dict[str, Any] = {"vocabulary": 330, "width": 16, "feed_forward": 24, "layers": 1, "heads": 2}
    return {
        "t5": build_stand_in(T5MiniSettings(**sizes), documents(), seed=1),
        "qwen2": build_stand_in(QwenMiniSettings(**sizes), documents(), seed=1),
    }


@pytest.fixture(scope="module")
def folders(made: dict[str, Backbone], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind, backbone in made.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        save_backbone(backbone, found[kind])
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Collect = Callable[..., KnowledgeBasis]


@pytest.fixture
def collect(folders: dict[str, Path], tmp_path: Path) -> Collect:
    def run(kind: str, texts: list[str] | None = None, **changes: Any) -> KnowledgeBasis:
        settings = {"min_characters": 10, **{n: v for n, v in changes.items() if n not in ("seed", "side", "about")}}
        given = {name: changes[name] for name in ("side", "about") if name in changes}
        out = tmp_path / f"{kind}.safetensors"
        chosen = documents() if texts is None else texts
        return make_basis(folders[kind], chosen, BasisSettings(**settings), out, changes.get("seed", 3), **given)

    return run


def test_the_sample_is_seeded_and_does_not_depend_on_the_order() -> None:
    texts = documents(200)
    chosen = sampled(texts, 30, 10, seed=1)
    assert chosen == sampled(texts[::-1], 30, 10, seed=1) and len(set(chosen)) == 30
    assert set(chosen) != set(sampled(texts, 30, 10, seed=2)) and set(chosen) != set(texts[:30])
    assert set(chosen) < set(sampled(texts, 60, 10, seed=1))
    assert len(sampled([*texts, *texts], 1000, 10, seed=1)) == 200  # equal documents count once


def test_short_documents_are_left_out_and_nothing_but_them_is_refused() -> None:
    texts = ["too short", "just long enough, this one", "x"]
    assert sampled(texts, 5, 20, seed=1) == [texts[1]]
    with pytest.raises(InputError, match="none of 3 documents has 50 characters or more"):
        sampled(texts, 5, 50, seed=1)


def test_documents_are_cut_and_special_tokens_in_them_stay_text(made: dict[str, Backbone], kind: str) -> None:
    backbone = made[kind]
    end = str(backbone.tokenizer.eos_token)
    tokens = documents_as_tokens(backbone, [f"amber basin {end} cedar dune", "amber " * 50], longest=12)
    assert tokens.lengths.max() == 12
    assert backbone.tokenizer.eos_token_id not in tokens.ids


def ids(row: Tensor, mask: Tensor) -> list[int]:
    return [int(token) for token in row[mask.bool()]]


def test_a_language_model_reads_a_document_as_it_stands(made: dict[str, Backbone]) -> None:
    tokens = TokenLists.of([[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]])
    first, second = reading_batches(made["qwen2"], tokens, rows=2)
    assert first["input_ids"].shape == (2, 5) and first["use_cache"] is False
    rows = [ids(b["input_ids"][n], b["attention_mask"][n]) for b, n in ((first, 0), (first, 1), (second, 0))]
    assert rows == [[8, 9, 10, 11, 12], [5, 6, 7], [13, 14]]  # the longest first
    assert set(first) == {"input_ids", "attention_mask", "use_cache"}


def test_a_t5_reads_the_first_half_and_goes_on_with_the_second(made: dict[str, Backbone]) -> None:
    tokens = TokenLists.of([[5, 6, 7, 8, 9], [10, 11]])
    (batch,) = reading_batches(made["t5"], tokens, rows=2)
    end, start = made["t5"].tokenizer.eos_token_id, made["t5"].model.config.decoder_start_token_id
    encoder = [ids(batch["input_ids"][n], batch["attention_mask"][n]) for n in (0, 1)]
    decoder = [ids(batch["decoder_input_ids"][n], batch["decoder_attention_mask"][n]) for n in (0, 1)]
    assert encoder == [[5, 6, end], [10, end]]
    assert decoder == [[start, 7, 8], [start]]  # the targets 7, 8, 9 and 11, shifted by one


def test_every_token_counts_once(collect: Collect, kind: str) -> None:
    basis = collect(kind)
    counts = {name: group.count for group in basis.groups for name in group.members}
    texts, tokens = basis.about["documents"], basis.about["tokens"]
    assert texts == 40
    if kind == "qwen2":
        assert set(counts.values()) == {tokens}
    else:
        encoder = counts["encoder.block.0.layer.0.SelfAttention.q"]
        assert encoder + counts["decoder.block.0.layer.0.SelfAttention.q"] == tokens + texts  # </s> of the encoder
        assert counts["decoder.block.0.layer.1.EncDecAttention.k"] == encoder


def test_the_batch_size_and_the_order_of_texts_hardly_matter(collect: Collect, kind: str) -> None:
    one, other = collect(kind, batch_size=1), collect(kind, documents()[::-1], batch_size=16)
    for group, same in zip(one.groups, other.groups, strict=True):
        assert group.count == same.count
        assert torch.allclose(group.spectrum, same.spectrum, rtol=1e-3, atol=1e-5 * group.trace)


def test_the_file_fits_the_backbone_and_says_what_it_was_made_of(
    collect: Collect, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    basis = collect(kind, about={"corpus": "made up"}, k="n/4")
    path = tmp_path / f"{kind}.safetensors"
    loaded = KnowledgeBasis.load(path)
    loaded.verify(load_backbone(folders[kind]).model)
    assert loaded.hash == basis.hash and loaded.rule == "n/4" and loaded.side == "input"
    assert loaded.about["corpus"] == "made up" and loaded.about["longest"] == 512
    assert path.stat().st_mode & 0o777 == 0o644
    assert collect(kind, about={"corpus": "made up"}, k="n/4").hash == basis.hash
    assert collect(kind, about={"corpus": "made up"}, k="n/4", documents=20).hash != basis.hash


def test_the_output_side_has_a_rule_of_its_own(collect: Collect) -> None:
    basis = collect("qwen2", side="output", output_k=2)
    assert (basis.side, basis.rule) == ("output", "2")
    assert {group.k for group in basis.groups} == {2}


def test_a_stand_in_reads_as_much_as_its_window(folders: dict[str, Path], collect: Collect) -> None:
    record = folders["qwen2"] / "backbone.json"
    write_json(
        record, {"settings": {"window": 17}, "weights_sha256": {"model.safetensors": "ab"}, "backbone": "qwen-mini"}
    )
    try:
        basis = collect("qwen2")
        assert basis.about["longest"] == 17 and basis.digest
        assert collect("qwen2", max_tokens=9).about["longest"] == 9
    finally:
        record.unlink()


def test_what_cannot_be_collected_is_named_and_leaves_no_file(
    collect: Collect, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"knowledge basis of .*: 'model.layers.0.*k = 200 of 16 directions"):
        collect("qwen2", k=200)
    with pytest.raises(InputError, match="no document has two tokens"):
        collect("qwen2", ["x"], min_characters=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"documents": 0}, "at least 1"),
        ({"max_tokens": 3}, "at least 4"),
        ({"k": "n"}, "k is 'n'"),
        ({"output_k": 0}, "output_k"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BasisSettings(**wrong)

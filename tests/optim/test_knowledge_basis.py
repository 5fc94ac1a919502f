"""The knowledge basis of tiny language models: what is collected, kept in a file, and checked against a model."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from gemsbench.optim.feature_moments import SecondMoment
from gemsbench.optim.input_groups import linear_layers
from gemsbench.optim.kept_directions import KeptDirections
from gemsbench.optim.knowledge_basis import KnowledgeBasis, orthonormal
from gemsbench.optim.knowledge_collection import spectra

KINDS = ("t5", "qwen2")
LAYER = {"t5": "decoder.block.1.layer.0.SelfAttention.q", "qwen2": "model.layers.1.self_attn.q_proj"}


def build(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        return T5ForConditionalGeneration(
            T5Config(vocab_size=40, feed_forward_proj="gated-gelu", decoder_start_token_id=0, dropout_rate=0.5, **sizes)
        ).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=40, tie_word_embeddings=True, **sizes, **heads)).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: build(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batches(kind: str, count: int = 3, rows: int = 4, padding: int = 0) -> list[dict[str, Any]]:
    """Random tokens; the last `padding` positions of every row are masked out and hold other tokens each time."""
    generator = torch.Generator().manual_seed(7)
    length, target = 9, 6
    made = []
    for _ in range(count):
        ids = torch.randint(2, 40, (rows, length), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        if kind == "t5":
            decoder = torch.randint(2, 40, (rows, target), generator=generator)
            batch |= {"decoder_input_ids": decoder, "decoder_attention_mask": torch.ones_like(decoder)}
        # Of a length of its own in each batch.
        made.append({name: padded(value, padding and padding + len(made)) for name, value in batch.items()})
    return made


def padded(value: Any, padding: int) -> Any:
    if not isinstance(value, Tensor) or not padding:
        return value
    filler = 0 if int(value.max()) <= 1 else 39  # masks hold ones
    return torch.cat([value, torch.full((len(value), padding), filler)], dim=1)


def features_of(model: Any, kind: str, given: list[dict[str, Any]], layer: str) -> Tensor:
    """What a layer reads, [T, n], by a hook of the test's own."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].flatten(0, 1))
    )
    with torch.no_grad():
        for batch in given:
            model(**batch)
    handle.remove()
    return torch.cat(seen)


def projector(columns: Tensor) -> Tensor:
    return columns.double() @ columns.double().T


def test_it_is_the_leading_eigenvectors_of_what_the_layer_reads(models: dict[str, Any], kind: str) -> None:
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k=6)
    rows = features_of(models[kind], kind, batches(kind), LAYER[kind]).double()
    best = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -6:]
    found = basis.of(f"{LAYER[kind]}.weight")
    assert found.shape == (32, 6) and found.dtype == torch.float32
    assert (projector(found) - projector(best)).norm() < 0.02  # bfloat16
    group = next(group for group in basis.groups if LAYER[kind] in group.members)
    assert group.count == len(rows) and len(group.spectrum) == 32
    share = (rows @ best).square().sum() / rows.square().sum()
    assert group.energy == pytest.approx(float(share), rel=1e-5)


def test_padding_changes_nothing(models: dict[str, Any], kind: str) -> None:
    plain = KnowledgeBasis.collect(models[kind], batches(kind), k=6)
    masked = KnowledgeBasis.collect(models[kind], batches(kind, padding=3), k=6)
    for one, other in zip(plain.groups, masked.groups, strict=True):
        assert one.members == other.members and one.count == other.count
        assert torch.allclose(one.spectrum, other.spectrum, rtol=1e-3, atol=1e-4 * one.trace)


def test_labels_alone_tell_the_decoders_padding(models: dict[str, Any]) -> None:
    given = batches("t5")
    for batch in given:
        batch["labels"] = torch.cat([batch.pop("decoder_input_ids")[:, 1:], torch.full((4, 4), -100)], dim=1)
        del batch["decoder_attention_mask"]
    basis = KnowledgeBasis.collect(models["t5"], given, k=2)
    counts = {name: group.count for group in basis.groups for name in group.members}
    assert counts[LAYER["t5"]] == 3 * 4 * 5 and counts["encoder.block.0.layer.0.SelfAttention.q"] == 3 * 4 * 9


def test_layers_of_a_group_share_one_tensor_and_others_have_their_own(models: dict[str, Any]) -> None:
    basis = KnowledgeBasis.collect(models["t5"], batches("t5"), k=4)
    cross = [basis.of(f"decoder.block.{n}.layer.1.EncDecAttention.{part}.weight") for n in (0, 1) for part in "kv"]
    assert all(one is cross[0] for one in cross)
    own = basis.of("decoder.block.0.layer.1.EncDecAttention.q.weight")
    assert not torch.equal(own, cross[0])
    assert basis.of("decoder.block.1.layer.2.DenseReluDense.wo.weight").shape == (48, 4)


def test_columns_are_orthonormal_although_they_are_kept_in_bfloat16(models: dict[str, Any], kind: str) -> None:
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k="n/2")
    for group in basis.groups:
        stored = group.directions.float()
        assert group.directions.dtype == torch.bfloat16
        assert (stored.T @ stored - torch.eye(group.k)).abs().max() > 1e-4  # why it is done
        columns = basis.of(group.members[0]).double()
        assert (columns.T @ columns - torch.eye(group.k)).abs().max() < 1e-6
        assert (projector(columns) @ stored.double() - stored).norm() < 1e-5 * stored.norm()  # the same span


def test_the_model_comes_back_as_it_was_and_its_dropout_has_no_part(models: dict[str, Any]) -> None:
    model = copy.deepcopy(models["t5"]).train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    basis = KnowledgeBasis.collect(model, batches("t5"), k=4)
    assert [module.training for module in model.modules()] == modes
    assert basis.hash == KnowledgeBasis.collect(models["t5"], batches("t5"), k=4).hash
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pass_that_fails_leaves_no_hook_behind(models: dict[str, Any]) -> None:
    model = copy.deepcopy(models["qwen2"]).train()
    with pytest.raises(IndexError):
        KnowledgeBasis.collect(model, [*batches("qwen2"), {"input_ids": torch.full((1, 3), 999)}])
    assert model.training and not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_the_output_side_is_what_the_layer_gives(models: dict[str, Any], kind: str) -> None:
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k=5, side="output")
    layer = models[kind].get_submodule(LAYER[kind])
    rows = layer(features_of(models[kind], kind, batches(kind), LAYER[kind])).detach().double()
    best = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -5:]
    assert (projector(basis.of(LAYER[kind])) - projector(best)).norm() < 0.02
    assert all(len(group.members) == 1 for group in basis.groups)
    assert len(basis.groups) == len(linear_layers(models[kind]))


def test_wide_layers_are_sketched_and_agree_with_the_exact_moment(models: dict[str, Any]) -> None:
    rule, layers = KeptDirections.parse(4), linear_layers(models["qwen2"])
    exact = list(spectra(models["qwen2"], batches("qwen2", 8), layers, rule))
    mixed = list(spectra(models["qwen2"], batches("qwen2", 8), layers, rule, widest_exact=40))
    for (group, one), (same, other) in zip(exact, mixed, strict=True):
        assert group == same and other.trace == pytest.approx(one.trace, rel=1e-5)
        if group.width == 32:
            assert torch.equal(one.vectors, other.vectors)
            continue
        assert len(other.values) == 8
        held = [
            float((found.vectors[:, :4].T @ one.vectors @ one.values.sqrt().diag()).square().sum())
            for found in (one, other)
        ]
        assert held[1] > 0.8 * held[0]  # a nearly flat spectrum: tests of the sketch itself stand elsewhere


def test_there_is_one_pass_and_one_moment_per_group(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    before = SecondMoment.__init__

    def counting(self: SecondMoment, width: int, device: torch.device) -> None:
        made.append(width)
        before(self, width, device)

    monkeypatch.setattr(SecondMoment, "__init__", counting)
    passes: list[int] = []
    handle = models["t5"].get_encoder().register_forward_hook(lambda *_: passes.append(1))
    KnowledgeBasis.collect(models["t5"], iter(batches("t5", 5)), k=2)
    handle.remove()
    assert len(made) == 4 * 2 + 6 * 2 + 1
    assert len(passes) == 5 + 1  # one more of a single row, to find the groups


def test_logits_are_made_for_one_position_only(models: dict[str, Any]) -> None:
    sizes: list[int] = []
    head = models["qwen2"].get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, output: sizes.append(output.shape[1]))
    KnowledgeBasis.collect(models["qwen2"], batches("qwen2"), k=2)
    handle.remove()
    assert set(sizes) == {1}


def test_a_file_holds_everything(models: dict[str, Any], kind: str, tmp_path: Path) -> None:
    about = {"corpus": "made up", "documents": 3, "share": 0.5}
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k="n/8", seed=5, digest="abc", about=about)
    path = tmp_path / "basis.safetensors"
    basis.save(path)
    again = KnowledgeBasis.load(path)
    assert again.hash == basis.hash
    assert (again.side, again.rule, again.seed, again.digest, again.about) == ("input", "n/8", 5, "abc", about)
    assert again.weights == basis.weights and again.summary() == basis.summary()
    for one, other in zip(basis.groups, again.groups, strict=True):
        assert (one.members, one.count, one.trace, one.energy) == (
            other.members,
            other.count,
            other.trace,
            other.energy,
        )
        assert torch.equal(basis.of(one.members[0]), again.of(one.members[0]))
    again.save(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    again.verify(models[kind])


def test_what_is_stored_is_the_spectrum_in_float32_the_directions_in_bfloat16_and_one_header(
    models: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "basis.safetensors"
    KnowledgeBasis.collect(models["qwen2"], batches("qwen2"), k="n/8").save(path)
    with safe_open(str(path), framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    assert {str(t.dtype) for n, t in found.items() if n.endswith("directions")} == {"torch.bfloat16"}
    assert {(t.dtype, t.ndim) for n, t in found.items() if n.endswith("spectrum")} == {(torch.float32, 1)}
    assert len(found) == 2 * 8
    text = header["knowledge_basis"]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def collected(models: Mapping[str, Any], **other: Any) -> KnowledgeBasis:
    """A basis of fixed settings, but for those given."""
    settings: dict[str, Any] = {"k": 3, "seed": 1, "digest": "a", "about": {"x": 1}, **other}
    return KnowledgeBasis.collect(models["qwen2"], batches("qwen2"), **settings)


@pytest.mark.parametrize("other", [{"k": 4}, {"seed": 2}, {"digest": "b"}, {"about": {"x": 2}}])
def test_the_hash_is_that_of_all_that_went_in(models: dict[str, Any], other: dict[str, Any]) -> None:
    basis = collected(models)
    assert basis.hash == collected(models).hash
    assert basis.hash != collected(models, **other).hash
    text = KnowledgeBasis.collect(models["qwen2"], batches("qwen2", 4), k=3, seed=1, digest="a", about={"x": 1})
    assert basis.hash != text.hash


def test_the_hash_sees_every_number(models: dict[str, Any]) -> None:
    basis = collected(models)
    first = basis.groups[0]
    for part in ("directions", "spectrum"):
        values = getattr(first, part).clone()
        values.view(-1)[1] *= 2
        other = dataclasses.replace(basis, groups=(dataclasses.replace(first, **{part: values}), *basis.groups[1:]))
        assert other.hash != basis.hash, part


def test_another_model_is_named_by_its_first_difference(models: dict[str, Any], kind: str) -> None:
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k=3)
    basis.verify(models[kind])
    tuned = copy.deepcopy(models[kind])
    with torch.no_grad():
        tuned.get_submodule(LAYER[kind]).weight[0, 0] += 0.5
    with pytest.raises(ValueError, match=rf"'{LAYER[kind]}.weight' has other values"):
        basis.verify(tuned)
    with pytest.raises(ValueError, match="this basis is of another model"):
        basis.verify(build(kind, seed=1))
    with pytest.raises(ValueError, match="is no linear layer here"):
        basis.verify(models[KINDS[1 - KINDS.index(kind)]])
    narrow = copy.deepcopy(models[kind])
    narrow.set_submodule(LAYER[kind], nn.Linear(32, 7, bias=False))
    with pytest.raises(ValueError, match=r"has \[7, 32\] here, \[32, 32\] there"):
        basis.verify(narrow)


def test_a_model_in_another_precision_or_with_more_tokens_is_the_same_model(models: dict[str, Any], kind: str) -> None:
    basis = KnowledgeBasis.collect(models[kind], batches(kind), k=3)
    lower = copy.deepcopy(models[kind]).to(torch.bfloat16)
    basis.verify(lower)
    basis.verify(lower.to(torch.float32))
    longer = copy.deepcopy(models[kind])
    longer.resize_token_embeddings(50, mean_resizing=False)
    basis.verify(longer)


def test_a_name_without_a_basis_gets_the_nearest_one(models: dict[str, Any]) -> None:
    basis = KnowledgeBasis.collect(models["qwen2"], batches("qwen2"), k=3, targets=["model.layers.0.mlp.up_proj"])
    assert basis.of("model.layers.0.mlp.up_proj").shape == (32, 3)
    with pytest.raises(ValueError, match=r"nothing on 'model\.layers\.0\.mlp\.gate_proj\.weight'.*Nearest: '.*up_proj"):
        basis.of("model.layers.0.mlp.gate_proj.weight")


def test_a_threshold_that_nothing_reaches_keeps_nothing(models: dict[str, Any], tmp_path: Path) -> None:
    basis = KnowledgeBasis.collect(models["qwen2"], batches("qwen2"), k="threshold=1e9")
    assert basis.of(LAYER["qwen2"]).shape == (32, 0)
    basis.save(tmp_path / "empty.safetensors")
    assert KnowledgeBasis.load(tmp_path / "empty.safetensors").hash == basis.hash


def test_the_summary_prints_what_is_kept_and_what_is_left(models: dict[str, Any]) -> None:
    basis = KnowledgeBasis.collect(models["t5"], batches("t5"), k="n/8")
    lines = basis.summary().splitlines()
    assert len(lines) == 1 + len(basis.groups)
    cross = next(line for line in lines if "EncDecAttention.k" in line)
    group = next(g for g in basis.groups if "decoder.block.0.layer.1.EncDecAttention.k" in g.members)
    assert cross.split()[:4] == ["32", "4", f"{group.energy:.4f}", "28"] and cross.endswith("and 3 more")


def test_wrong_input_is_refused(models: dict[str, Any]) -> None:
    model = models["qwen2"]
    with pytest.raises(ValueError, match="no batch"):
        KnowledgeBasis.collect(model, [])
    with pytest.raises(ValueError, match="side is 'both'"):
        KnowledgeBasis.collect(model, batches("qwen2"), side="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"q_proj': k = 32 of 32 directions: nothing would be left"):
        KnowledgeBasis.collect(model, batches("qwen2"), k=32)
    masked = [{**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])} for batch in batches("qwen2")]
    with pytest.raises(ValueError, match=r"'model\.layers\.0\.self_attn\.q_proj': .*every position is masked out"):
        KnowledgeBasis.collect(model, masked)


def test_a_file_that_is_no_basis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        KnowledgeBasis.load(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match="no knowledge basis"):
        KnowledgeBasis.load(tmp_path / "cut.safetensors")
    save_file({"x": torch.ones(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="version None, expected 1"):
        KnowledgeBasis.load(tmp_path / "other.safetensors")


def test_orthonormal_columns_stay_what_they_are() -> None:
    columns = torch.linalg.qr(torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    assert torch.allclose(orthonormal(columns), columns.float(), atol=1e-6)

"""Loading and saving: what a folder must hold, and the head of an untied T5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration

from gemsbench.backbones.catalogue import FLAN_T5_SMALL, Kind
from gemsbench.backbones.folder import check_folder
from gemsbench.backbones.loading import Backbone, load_backbone, save_backbone
from gemsbench.errors import InputError

from .conftest import KINDS, logits_of

BackboneOf = Callable[[Kind], Backbone]


@pytest.fixture(scope="session")
def saved(made: dict[Kind, Backbone], tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """A saved folder of each kind; tests read it or copy it."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        save_backbone(made[kind], folder)
    return folders


@pytest.fixture
def folder_of(saved: dict[Kind, Path], tmp_path: Path) -> Callable[[Kind], Path]:
    """A copy of a saved folder, which a test may damage."""
    return lambda kind: shutil.copytree(saved[kind], tmp_path / "copy")


def _edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: Kind, made: dict[Kind, Backbone], saved: dict[Kind, Path]) -> None:
    loaded = load_backbone(saved[kind])
    assert loaded.kind == kind
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert torch.equal(logits_of(loaded.model, kind), logits_of(made[kind].model, kind))
    text = "[rec] lamp | 茶 12"
    assert loaded.tokenizer(text).input_ids == made[kind].tokenizer(text).input_ids
    assert load_backbone(saved[kind], torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_load_the_same_model(
    kind: Kind, made: dict[Kind, Backbone], saved: dict[Kind, Path]
) -> None:
    stranger = (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM).from_pretrained(saved[kind])
    assert torch.equal(logits_of(stranger.eval(), kind), logits_of(made[kind].model, kind))
    tokenizer = AutoTokenizer.from_pretrained(saved[kind])
    assert tokenizer("[rec] lamp").input_ids == made[kind].tokenizer("[rec] lamp").input_ids
    assert (tokenizer.pad_token, tokenizer.eos_token) == (
        made[kind].tokenizer.pad_token,
        made[kind].tokenizer.eos_token,
    )
    assert tokenizer.chat_template == made[kind].tokenizer.chat_template


@pytest.mark.parametrize("kind", KINDS)
def test_loading_and_saving_print_nothing(
    kind: Kind, saved: dict[Kind, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_backbone(load_backbone(saved[kind]), tmp_path / "again")
    assert capfd.readouterr() == ("", "")
    assert {file.name for file in (tmp_path / "again").iterdir()} == {file.name for file in saved[kind].iterdir()}


# The head of an untied T5 (transformers 5 believes that every T5 is tied).


def test_the_head_survives_loading_resizing_and_saving(
    made: dict[Kind, Backbone], saved: dict[Kind, Path], tmp_path: Path
) -> None:
    loaded = load_backbone(saved["t5"])
    assert loaded.model.config.tie_word_embeddings is False
    rows = loaded.model.config.vocab_size
    loaded.model.resize_token_embeddings(rows + 7, mean_resizing=False)
    save_backbone(loaded, tmp_path / "resized")
    weights = load_file(tmp_path / "resized" / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"][:rows], made["t5"].model.lm_head.weight)
    assert torch.equal(weights["shared.weight"][:rows], made["t5"].model.shared.weight)
    again = load_backbone(tmp_path / "resized").model
    assert again.lm_head.weight is not again.shared.weight
    assert torch.equal(again.lm_head.weight[:rows], made["t5"].model.lm_head.weight)


def test_the_trap_is_still_there(saved: dict[Kind, Path], made: dict[Kind, Backbone]) -> None:
    """Were this to fail, transformers had mended it and the guard could go."""
    plain = T5ForConditionalGeneration.from_pretrained(saved["t5"])
    rows = plain.config.vocab_size
    plain.resize_token_embeddings(rows + 7, mean_resizing=False)
    assert not torch.equal(plain.lm_head.weight[:rows], made["t5"].model.lm_head.weight)


def test_the_files_of_flan_t5_hold_the_input_matrix_thrice(
    folder_of: Callable[[Kind], Path], made: dict[Kind, Backbone]
) -> None:
    folder = folder_of("t5")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    _edit_weights(folder, lambda tensors: tensors.update({n: tensors["shared.weight"].clone() for n in names}))
    _edit_json(folder / "config.json", scale_decoder_outputs=None)  # written by transformers 5 only
    loaded = load_backbone(folder)
    assert torch.equal(logits_of(loaded.model, "t5"), logits_of(made["t5"].model, "t5"))
    assert loaded.model.config.tie_word_embeddings is False


def test_equal_matrices_of_an_untied_t5_are_kept_apart(folder_of: Callable[[Kind], Path]) -> None:
    folder = folder_of("t5")
    _edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"].clone()}))
    model = load_backbone(folder).model
    assert model.lm_head.weight is not model.shared.weight
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize("flag", [False, True])
def test_a_head_lost_by_others_is_noticed(folder_of: Callable[[Kind], Path], flag: bool) -> None:
    folder = folder_of("t5")
    _edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    _edit_json(folder / "config.json", tie_word_embeddings=flag)  # after the trap, transformers 5 writes True
    with pytest.raises(InputError, match=r"lack lm_head\.weight.*tie_word_embeddings set to False"):
        load_backbone(folder)


def test_a_t5_that_is_tied_by_design_stays_tied(folder_of: Callable[[Kind], Path]) -> None:
    folder = folder_of("t5")
    _edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    _edit_json(folder / "config.json", tie_word_embeddings=True, scale_decoder_outputs=None)
    model = load_backbone(folder).model
    assert model.lm_head.weight is model.shared.weight
    assert model.config.tie_word_embeddings is True


# What is refused.


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lost_shard(folder: Path) -> None:
    _index(folder, json.dumps({"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}))


def _index(folder: Path, text: str) -> None:
    _remove("model.safetensors")(folder)
    (folder / "model.safetensors.index.json").write_text(text)


def _without_a_layer(folder: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.pop(next(name for name in tensors if "layer" in name)))


def _other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    name = "d_model" if "d_model" in config else "hidden_size"
    _edit_json(folder / "config.json", **{name: 2 * config[name]})


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no such model folder"),
    (_remove("config.json"), "no config.json"),
    (_remove("model.safetensors"), "no weights"),
    (_remove("tokenizer.json"), "no tokenizer.json"),
    (_pickled, r"pickled \(pytorch_model\.bin\)"),
    (_truncated, "cut off or damaged"),
    (_lost_shard, "names model-00001-of-00002.safetensors: not there"),
    (_without_a_layer, "the weights lack"),
    (_other_width, "not of one model"),
    (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer\.json cannot be read"),
    (lambda folder: _edit_json(folder / "tokenizer_config.json", eos_token=None), "names no eos token"),
    (lambda folder: _edit_json(folder / "config.json", architectures=["BertModel"]), "architecture is BertModel"),
    (lambda folder: _edit_json(folder / "config.json", architectures=None), "not named in config.json"),
    (lambda folder: _edit_json(folder / "config.json", architectures=["LlamaForCausalLM"]), "is LlamaForCausalLM"),
    (lambda folder: (folder / "backbone.json").write_text('{"backbone": "flan-t5-smal"}'), "'flan-t5-small'"),
    (lambda folder: (folder / "backbone.json").write_text('{"backbone": ["t5-mini"]}'), "not the name of one"),
    (lambda folder: (folder / "backbone.json").write_text("{}"), "backbone is None"),
    (lambda folder: (folder / "backbone.json").write_text("7"), r"backbone\.json: not a JSON object"),
    (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json: not a JSON object"),
    (lambda folder: _edit_json(folder / "config.json", architectures=[None]), "is not named in config.json"),
    (lambda folder: _edit_json(folder / "config.json", architectures="Mine"), r"architecture is Mine \("),
    (lambda folder: _edit_json(folder / "config.json", architectures={"a": 1}), "architecture is {'a': 1}"),
    (lambda folder: _index(folder, "[]"), r"index\.json: not a JSON object"),
    (lambda folder: _index(folder, '{"weight_map": ["a"]}'), "does not give a file for each tensor"),
    (lambda folder: _index(folder, '{"weight_map": {"a": null}}'), "does not give a file for each tensor"),
    (lambda folder: _index(folder, '{"weight_map": {}}'), "names no files"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_a_folder_that_is_refused(
    kind: Kind, damage: Callable[[Path], object], message: str, folder_of: Callable[[Kind], Path]
) -> None:
    folder = folder_of(kind)
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


def test_weights_beside_a_pickle_are_read(folder_of: Callable[[Kind], Path]) -> None:
    folder = folder_of("t5")
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_backbone(folder)


def test_a_tokenizer_of_another_model_is_refused(folder_of: Callable[[Kind], Path], backbone_of: BackboneOf) -> None:
    tokenizer = backbone_of("t5").tokenizer
    tokenizer.add_tokens([f"<{n}>" for n in range(500)])
    folder = folder_of("t5")
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="the model only"):
        load_backbone(folder)


def test_a_folder_that_is_not_what_its_record_says_is_refused(saved: dict[Kind, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["t5"], tmp_path / "copy")
    (folder / "backbone.json").write_text(json.dumps({"backbone": "flan-t5-small"}))
    with pytest.raises(InputError, match="flan-t5-small has"):
        load_backbone(folder)
    with pytest.raises(InputError, match="flan-t5-small has"):
        check_folder(saved["t5"], FLAN_T5_SMALL)

"""Making backbones: stand-ins learn, the held-out loss means what it says, a killed job ends with the same bytes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import gemsbench
from gemsbench import seeds
from gemsbench.backbones.catalogue import (
    ALL,
    FLAN_T5_SMALL,
    QWEN_MINI,
    T5_MINI,
    BackboneSpec,
    PretrainingSettings,
    QwenMiniSettings,
    T5MiniSettings,
)
from gemsbench.backbones.corpus import Corpus
from gemsbench.backbones.loading import load_backbone
from gemsbench.backbones.stand_in_tokenizers import SENTINELS
from gemsbench.backbones.stand_ins import build_stand_in
from gemsbench.errors import InputError
from gemsbench.training import pretraining
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.pretraining import TextTask, make_backbone, text_loss

STAND_INS = (T5_MINI, QWEN_MINI)
SHORT = PretrainingSettings(tokens_per_step=8 * 32, steps=6, evaluations=2, heldout_share=0.1)
_PLACES = ("kitchen", "garden", "cellar", "attic", "harbour")
_THINGS = ("kettle", "lamp", "ladder", "chair", "violin", "basket")


def small_settings(spec: BackboneSpec, plan: PretrainingSettings = SHORT) -> T5MiniSettings | QwenMiniSettings:
    sizes = {"vocabulary": 330, "width": 16, "feed_forward": 32, "layers": 1, "heads": 2, "window": 32}
    if spec is T5_MINI:
        return T5MiniSettings(**sizes, pretraining=plan)
    return QwenMiniSettings(**sizes, kv_heads=1, pretraining=plan)


def documents(number: int) -> list[str]:
    rng = seeds.stream(1, "documents")
    pairs = zip(rng.choice(_THINGS, number), rng.choice(_PLACES, number), rng.integers(1000, size=number), strict=True)
    return [f"The {thing} of number {n} stands in the {place}, and a {thing} it is." for thing, place, n in pairs]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(documents(400)) + "\n", encoding="utf-8")
    return path


def _task(spec: BackboneSpec, seed: int = 1) -> TextTask:
    texts, settings = documents(400), small_settings(spec)
    return TextTask(build_stand_in(settings, texts, seed), Corpus(texts[:360], texts[360:]), settings, seed)


@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_the_folder_and_its_records(spec: BackboneSpec, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / spec.name
    make_backbone(spec, small_settings(spec), corpus, out, seed=1)
    assert set(spec.files) <= {file.name for file in out.iterdir()}
    assert not out.with_name(f"{spec.name}.checkpoint").exists()
    record = json.loads((out / "backbone.json").read_text())
    assert record["backbone"] == spec.name and record["seed"] == 1
    assert record["settings"]["pretraining"]["steps"] == 6
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log] == ["pretrain"] * 3 + ["end"]
    expected = {"stage", "step", "epoch", "loss", "learning_rate", "heldout_loss", "unigram_loss", "seconds"}
    assert all(set(line) == expected for line in log[:-1])
    assert record["heldout_loss"] == min(line["heldout_loss"] for line in log[:-1])
    loaded = load_backbone(out)
    assert loaded.kind == spec.kind
    assert record["rows"] == loaded.model.config.vocab_size > record["tokens"] == len(loaded.tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_a_stand_in_learns_more_than_frequencies(spec: BackboneSpec, corpus: Path, tmp_path: Path) -> None:
    plan = replace(SHORT, steps=300, evaluations=3, tokens_per_step=16 * 32)
    make_backbone(spec, small_settings(spec, plan), corpus, tmp_path / "out", seed=1)
    record = json.loads((tmp_path / "out" / "backbone.json").read_text())
    assert record["heldout_loss"] < 0.7 * record["unigram_loss"]


@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_the_held_out_loss_is_that_of_the_saved_model(spec: BackboneSpec, corpus: Path, tmp_path: Path) -> None:
    """An independent count: mean of -log p over text tokens, among text tokens."""
    make_backbone(spec, small_settings(spec), corpus, tmp_path / "out", seed=1)
    loaded = load_backbone(tmp_path / "out")
    text = pretraining.read_corpus(corpus, SHORT.heldout_share)
    task = TextTask(loaded, text, small_settings(spec), 1)
    special = set(loaded.tokenizer.all_special_ids)
    allowed = [token for token in range(loaded.model.config.vocab_size) if token not in special]
    losses = []
    for tensors in task._heldout:
        inputs = {name: tensor for name, tensor in tensors.items() if name != "labels"}
        with torch.no_grad():
            shares = loaded.model(**inputs).logits[..., allowed].log_softmax(-1)
        for row, labels in zip(shares, tensors["labels"].tolist(), strict=True):
            losses += [-float(row[n, allowed.index(token)]) for n, token in enumerate(labels) if token != NO_LOSS]
            assert not special & set(labels)
    record = json.loads((tmp_path / "out" / "backbone.json").read_text())
    assert math.isclose(record["heldout_loss"], float(np.mean(losses)), rel_tol=1e-4)


@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_a_model_of_frequencies_has_the_unigram_loss(spec: BackboneSpec) -> None:
    task = _task(spec)
    windows, special = task._windows, set(task._special.tolist())
    counts = np.bincount(windows.reshape(-1), minlength=len(task._backbone.tokenizer)) + 1.0
    counts[list(special)] = 0
    logits = torch.tensor(np.log(np.maximum(counts, 1e-30)), dtype=torch.float32)

    class Frequencies(torch.nn.Module):
        """Says the same at every place."""

        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            shape = inputs.get("decoder_input_ids", input_ids).shape
            return type("Output", (), {"logits": logits.expand(*shape, -1)})

    task._backbone = replace(task._backbone, model=Frequencies())  # type: ignore[arg-type]
    assert math.isclose(task.evaluate()["heldout_loss"], task.unigram_loss, rel_tol=1e-5)


@pytest.mark.parametrize("step", [0, 1])
def test_t5_decodes_its_targets_from_the_start_token(step: int) -> None:
    tensors = _task(T5_MINI).step(0, step)[0].tensors
    assert tensors["decoder_input_ids"].shape == tensors["labels"].shape
    assert (tensors["decoder_input_ids"][:, 0] == 0).all()
    assert torch.equal(tensors["decoder_input_ids"][:, 1:], tensors["labels"][:, :-1])
    assert (tensors["input_ids"][:, -1] == 1).all()


def test_t5_learns_spans_and_continuations_in_turn() -> None:
    task = _task(T5_MINI)
    first = task._backbone.tokenizer.convert_tokens_to_ids(SENTINELS[0])
    windows = set(map(tuple, task._windows.tolist()))
    for step in range(4):
        tensors = task.step(0, step)[0].tensors
        assert bool((tensors["labels"][:, 0] == first).all()) == (step % 2 == 0)
        whole = torch.cat([tensors["input_ids"][:, :-1], tensors["labels"]], dim=1)
        assert (set(map(tuple, whole.tolist())) <= windows) == (step % 2 == 1)


def test_qwen_rows_name_the_next_token() -> None:
    tensors = _task(QWEN_MINI).step(0, 0)[0].tensors
    assert torch.equal(tensors["input_ids"][:, 1:], tensors["labels"][:, :-1])


@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_text_loss_is_the_library_s_loss_as_a_sum(spec: BackboneSpec) -> None:
    task = _task(spec)
    tensors, model = task.step(0, 0)[0].tensors, task._backbone.model
    with torch.no_grad():
        ours = float(text_loss(model, tensors)) / tensors["labels"].numel()
        if spec is T5_MINI:
            theirs = float(model(input_ids=tensors["input_ids"], labels=tensors["labels"]).loss)
        else:
            whole = torch.cat([tensors["input_ids"], tensors["labels"][:, -1:]], dim=1)
            theirs = float(model(input_ids=whole, labels=whole).loss)
    assert math.isclose(ours, theirs, rel_tol=1e-5)


def test_every_window_comes_once_before_any_comes_again() -> None:
    task = _task(QWEN_MINI)
    number = len(task._windows)
    assert number % 8  # a step may lie across two passes
    rows = np.concatenate([task.step(0, step)[0].tensors["input_ids"].numpy() for step in range(-(-2 * number // 8))])
    first, second = rows[:number], rows[number : 2 * number]
    key = [tuple(window) for window in task._windows[:, :-1].tolist()]
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist())) == sorted(key)
    assert not np.array_equal(first, second)


def test_steps_are_functions_of_seed_and_step() -> None:
    first, again, other = _task(T5_MINI), _task(T5_MINI), _task(T5_MINI, seed=2)
    first.step(0, 0)
    for step in (5, 2):
        expected = first.step(0, step)[0].tensors
        assert all(torch.equal(expected[name], tensor) for name, tensor in again.step(0, step)[0].tensors.items())
    assert not torch.equal(first.step(0, 2)[0].tensors["labels"], other.step(0, 2)[0].tensors["labels"])


def test_spans_are_taken_from_other_places_in_every_step() -> None:
    task = _task(T5_MINI)
    sentinels = torch.tensor(task._backbone.tokenizer.convert_tokens_to_ids(list(SENTINELS)))
    places = [torch.isin(task.step(0, step)[0].tensors["labels"], sentinels) for step in (2, 4)]
    assert not torch.equal(*places)
    assert len(torch.unique(places[0], dim=0)) > 1  # nor from the same ones in every row


@pytest.mark.parametrize("spec", STAND_INS, ids=lambda spec: spec.name)
def test_the_same_inputs_give_the_same_bytes(spec: BackboneSpec, corpus: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_backbone(spec, small_settings(spec), corpus, tmp_path / name, seed=1)
    make_backbone(spec, small_settings(spec), corpus, tmp_path / "c", seed=2)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "backbone.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.test_pretraining import LONG, small_settings
from gemsbench.backbones.catalogue import T5_MINI
from gemsbench.training.pretraining import make_backbone
make_backbone(T5_MINI, small_settings(T5_MINI, LONG), Path(sys.argv[2]), Path(sys.argv[3]), 1)
"""
LONG = replace(SHORT, steps=120, evaluations=4, checkpoint_seconds=0.0)


def _steps_in(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    with safe_open(checkpoint, framework="pt") as handle:
        return int(json.loads(handle.metadata()["state"])["step"])


@pytest.mark.slow
def test_a_killed_pretraining_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(Path(gemsbench.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(corpus), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=environment)
    checkpoint = tmp_path / "killed.checkpoint" / "state.safetensors"
    deadline = time.monotonic() + 240
    while _steps_in(checkpoint) < 40:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    asked: list[int] = []
    step: Callable[..., Any] = TextTask.step
    monkeypatch.setattr(TextTask, "step", lambda self, epoch, n: asked.append(n) or step(self, epoch, n))
    quick = small_settings(T5_MINI, LONG)
    make_backbone(T5_MINI, quick, corpus, tmp_path / "killed", 1)
    assert min(n for n in asked if n) >= 40  # it went on (step 0 is looked at for the names of its tasks)
    make_backbone(T5_MINI, quick, corpus, tmp_path / "whole", 1)
    assert not checkpoint.parent.exists()
    for name in ("model.safetensors", "backbone.json", "tokenizer.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("text", ["", "one document", "\n\n\n"])
def test_an_empty_corpus_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="at least two different"):
        make_backbone(T5_MINI, small_settings(T5_MINI), tmp_path / "corpus.txt", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_a_corpus_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a lamp\n\na kettle\n\na chair", encoding="utf-8")
    with pytest.raises(InputError, match="shorter than one window of 32 tokens"):
        make_backbone(QWEN_MINI, small_settings(QWEN_MINI), tmp_path / "corpus.txt", tmp_path / "out", 1)
    with pytest.raises(InputError, match="Name the text file"):
        make_backbone(QWEN_MINI, small_settings(QWEN_MINI), None, tmp_path / "out", 1)


def test_a_hub_model_is_fetched_and_needs_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr(pretraining, "fetch_hub_model", lambda spec, out: fetched.append((spec, out)))
    make_backbone(FLAN_T5_SMALL, ALL["flan-t5-small"].settings(), None, tmp_path / "out", 1)
    assert fetched == [(FLAN_T5_SMALL, tmp_path / "out")]

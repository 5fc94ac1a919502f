"""Training of SASRec: the loss by hand, what it learns, and that it repeats itself bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gemsbench.config import load_settings
from gemsbench.encoders import sasrec_training
from gemsbench.encoders.sasrec_scoring import SASRecScorer
from gemsbench.encoders.sasrec_sequences import TASK, TrainingWindows, histories, training_windows
from gemsbench.encoders.sasrec_training import (
    SASRecSettings,
    TrainedSASRec,
    WindowBatches,
    build_model,
    next_item_loss,
    train_sasrec,
)
from gemsbench.errors import InputError
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.loop_settings import LoopSettings
from gemsbench.training.token_lists import TokenLists

LOOP = LoopSettings(epochs=3, batch_size=8, micro_batch_size=5, patience=9, warmup=0.0)
SHORT = SASRecSettings(width=16, max_length=6, learning_rate=3e-2, loop=LOOP)  # fast enough to leave step 0 behind


def _batches(windows: list[list[int]], n_items: int, opens: list[bool] | None = None, **loop: int) -> WindowBatches:
    known = torch.zeros(n_items + 1, dtype=torch.bool)
    known[[item for window in windows for item in window]] = True
    first = np.ones(len(windows), np.bool_) if opens is None else np.array(opens)
    return WindowBatches(TrainingWindows(TokenLists.of(windows), first), known, replace(LOOP, **loop), 1)


def test_the_start_row_predicts_only_what_users_begin_with() -> None:
    batches = _batches([[9, 2, 5], [5, 9]], 10, [True, False], batch_size=2, micro_batch_size=2)
    (batch,) = batches.step(0, 0)
    by_length = sorted(zip(batch.tensors["sequences"].tolist(), batch.tensors["labels"].tolist(), strict=True))
    assert by_length == [([0, 5, 9], [NO_LOSS, 2, NO_LOSS]), ([0, 9, 2], [2, 0, 1])]


def test_labels_are_the_next_items_and_the_start_row_predicts_the_first() -> None:
    (batch,) = _batches([[9, 2, 5], [2]], 10, batch_size=2, micro_batch_size=2).step(0, 0)
    by_length = sorted(zip(batch.tensors["sequences"].tolist(), batch.tensors["labels"].tolist(), strict=True))
    # Labels are places among the known items 2, 5, 9.
    assert by_length == [([0, 2, 0], [0, NO_LOSS, NO_LOSS]), ([0, 9, 2], [2, 0, 1])]
    assert batch.task == TASK


def test_an_epoch_sees_every_window_once_in_an_order_of_its_own() -> None:
    windows = [[n + 1] * (n % 4 + 1) for n in range(20)]
    batches = _batches(windows, 20)
    assert batches.steps_per_epoch == 3
    orders = []
    for epoch in range(2):
        parts = [part for step in range(3) for part in batches.step(epoch, step)]
        assert max(part.rows for part in parts) <= 5
        orders.append([int(label) for part in parts for label in part.tensors["labels"][:, 0]])
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] != orders[1]


def test_loss_is_minus_the_log_probability_among_known_items_alone() -> None:
    settings = replace(SHORT, dropout=0.0)
    model = build_model(settings, 6).initialize(torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.items.mul_(30)
        model.known[[1, 2, 4]] = True
    tensors = {"sequences": torch.tensor([[0, 4, 1]]), "labels": torch.tensor([[2, 0, NO_LOSS]])}
    loss = next_item_loss(model, tensors)
    expected = 0.0
    for state, item in zip(model(tensors["sequences"])[0], (4, 1), strict=False):
        logits = {other: float((state @ model.items[other]).detach()) for other in (1, 2, 4)}
        expected -= logits[item] - float(torch.logsumexp(torch.tensor(list(logits.values())), 0))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.items.grad is not None
    assert not model.items.grad[[3, 5, 6]].any()  # nobody learns of items that training never met
    assert model.items.grad[[0, 1, 2, 4]].any(dim=1).all()


def test_overfits_twenty_users(world_of: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    paths = [rng.permutation(np.arange(1, 41))[:6].tolist() for _ in range(20)]
    events = [(user, item, "rec", 0) for user, path in enumerate(paths) for item in path]
    past = {user: [(item, 1) for item in path[:5]] for user, path in enumerate(paths)}
    lists = [[path[5], *np.setdiff1d(np.arange(1, 41), path).tolist()] for path in paths]
    asked = [(user, "rec", 0, split, items) for user, items in enumerate(lists) for split in ("valid", "test")]
    world = world_of(events, asked, 20, 40, past)
    loop = replace(LOOP, epochs=60, batch_size=20, micro_batch_size=20, patience=60)
    settings = SASRecSettings(width=16, max_length=6, dropout=0.0, learning_rate=2e-2, loop=loop)
    trained = train_sasrec(settings, world.data, 1, tmp_path)
    assert trained.record["valid_ndcg@10"] == 1.0  # Hit@1 of 1 for every user
    known = trained.model.known.numpy()
    items = np.concatenate(world.questions["items"].to_list())
    rows = np.repeat(np.arange(20), world.questions["items"].list.len().to_numpy())
    scores = SASRecScorer(trained.model).scores(histories(world.questions, known, 6), rows, items.astype(np.int64))
    assert world.hit_rate(np.split(scores, np.flatnonzero(np.diff(rows)) + 1), k=1) == 1.0


def test_learns_what_follows_what_and_finds_it_for_new_histories(world: Any, tmp_path: Path) -> None:
    loop = replace(LOOP, epochs=25, batch_size=16, micro_batch_size=16)
    trained = train_sasrec(replace(SHORT, learning_rate=1e-2, loop=loop), world.data, 1, tmp_path)
    assert trained.log[0]["valid_ndcg@10"] < 0.65  # before the first step: nine in ten negatives are of other tastes
    assert trained.record["valid_ndcg@10"] > 0.85
    assert trained.log[-2]["loss"] < 0.8 * trained.log[1]["loss"]
    assert trained.record["validation"]["all"]["n_cases"] == 30


def test_record_counts_what_was_learned_from(world: Any, tmp_path: Path) -> None:
    record = train_sasrec(replace(SHORT, max_length=4), world.data, 1, tmp_path).record
    events = world.data.events
    wanted = events.filter(events["task"] == "rec")
    assert record["training_events"] == wanted.height == 29 * 8
    assert record["training_windows"] == 29 * 2  # of five events at most, the fifth in both
    assert record["items_without_training_events"] == 60 - wanted["item_id"].n_unique() > 0
    warmth = record["validation"]
    assert warmth["warm positive"]["n_cases"] + warmth["cold positive"]["n_cases"] == 30


def _weights(trained: TrainedSASRec) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in trained.model.state_dict().items()}


def _same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_equal_inputs_and_seed_give_equal_bits_whatever_the_row_order(
    world: Any, reordered: Any, tmp_path: Path
) -> None:
    trained = train_sasrec(SHORT, world.data, 1, tmp_path / "a")
    assert trained.record["best_step"] > 0
    first = _weights(trained)
    torch.manual_seed(99)
    assert _same(first, _weights(train_sasrec(SHORT, reordered, 1, tmp_path / "b")))
    assert not _same(first, _weights(train_sasrec(SHORT, world.data, 2, tmp_path / "c")))


def test_goes_on_after_a_kill_with_the_same_bits(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 7  # of the loss before the kill: between the two micro-batches of the fourth step
    settings = replace(SHORT, loop=replace(LOOP, checkpoint_seconds=0.0))
    whole = train_sasrec(settings, world.data, 1, tmp_path / "whole")
    left = calls

    def loss_until_killed(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return next_item_loss(model, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(sasrec_training, "next_item_loss", loss_until_killed)
        with pytest.raises(KeyboardInterrupt):
            train_sasrec(settings, world.data, 1, tmp_path / "killed")
    steps = 0

    def counted(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
        nonlocal steps
        steps += 1
        return next_item_loss(model, tensors)

    monkeypatch.setattr(sasrec_training, "next_item_loss", counted)
    resumed = train_sasrec(settings, world.data, 1, tmp_path / "killed")
    assert whole.record["best_step"] > 3  # of the part after the kill
    assert _same(_weights(whole), _weights(resumed))
    assert whole.record == resumed.record
    per_epoch = 16  # micro-batches: 58 windows in 8 steps of 7 or 8, at most 5 rows each
    assert steps == 3 * per_epoch - (calls - 1)


def test_a_checkpoint_of_other_settings_or_data_is_not_used(world: Any, tmp_path: Path) -> None:
    settings = replace(SHORT, loop=replace(LOOP, checkpoint_seconds=0.0))
    train_sasrec(settings, world.data, 1, tmp_path / "shared")
    other = replace(settings, learning_rate=3e-3)
    expected = _weights(train_sasrec(other, world.data, 1, tmp_path / "own"))
    assert _same(expected, _weights(train_sasrec(other, world.data, 1, tmp_path / "shared")))
    fewer = replace(world.data, events=world.data.events.head(150))
    expected = _weights(train_sasrec(other, fewer, 1, tmp_path / "fewer"))
    assert _same(expected, _weights(train_sasrec(other, fewer, 1, tmp_path / "shared")))


def test_rows_of_items_that_training_never_met_do_not_move(world: Any, tmp_path: Path) -> None:
    trained = train_sasrec(SHORT, world.data, 1, tmp_path)
    windows = training_windows(world.data.events, 9)
    known = trained.model.known.numpy()
    assert np.flatnonzero(known).tolist() == sorted(set(windows.items.ids.tolist()))
    initial = build_model(SHORT, world.data.n_items)
    seed = sasrec_training.stream_seed(1, "sasrec", "initial")
    initial.initialize(torch.Generator().manual_seed(seed))
    moved = (trained.model.items != initial.items).any(dim=1).numpy()
    assert moved[1:].tolist() == known[1:].tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 6, "heads": 4}, "multiple of heads, 4"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"loop": {"patience": 0}}, "patience is 0"),
        ({"lenght": 3}, "unknown key 'lenght'"),
    ],
)
def test_wrong_settings_say_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_settings(SASRecSettings, values, "test")


def test_validation_without_recommendation_cases_is_an_error(world: Any, tmp_path: Path) -> None:
    data = world.data
    without = replace(data, cases=data.cases.filter((data.cases["task"] == "src") | (data.cases["split"] == "train")))
    with pytest.raises(InputError, match="no validation cases for task 'rec'"):
        train_sasrec(SHORT, without, 1, tmp_path)


def test_a_checkpoint_of_another_device_is_of_another_fit(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def stops(problem: Any, *_: Any) -> Any:
        seen.append(problem.fingerprint)
        raise KeyboardInterrupt

    monkeypatch.setattr(sasrec_training, "train", stops)
    for has_gpu in (False, False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        with pytest.raises(KeyboardInterrupt):
            train_sasrec(SHORT, world.data, 1, tmp_path)
    assert seen[0] == seen[1] != seen[2]

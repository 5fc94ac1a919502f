"""TIGER, LETTER and Sem-BSR: which cases and events they see, what they learn, and what their parts change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from gemsbench.backbones.loading import load_backbone
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.vocabulary import token_table
from gemsbench.methods import generative
from gemsbench.methods.letter import LETTER
from gemsbench.methods.sem_bsr import SemBSR
from gemsbench.methods.tiger import TIGER
from gemsbench.training.prompt_tokens import PromptTokens
from gemsbench.training.token_lists import TokenLists

N_TOY = 12
LONG: dict[str, Any] = {
    "loop": {"epochs": 100, "max_steps": 300, "batch_size": 24, "patience": 100},
    "validation_cases": 20,
    "tuners": {"t5": {"config": {"learning_rate": 1e-2, "rows_learning_rate": 1e-2}}},
}


def settings(method: Any, **values: Any) -> Any:
    return load_settings(method.Config, {"loop": {"epochs": 2, "batch_size": 64}, **values}, "test")


def assembled(config: Any, data: Any, backbone: Path, identifiers: Path) -> generative.Assembly:
    return generative.assemble(config, load_codes(identifiers), data, backbone, 1)


def rows_of(lists: TokenLists) -> list[tuple[int, ...]]:
    return [tuple(lists[row].tolist()) for row in range(len(lists))]


@pytest.mark.parametrize("method", [TIGER, LETTER])
def test_single_task_methods_learn_from_every_training_purchase_and_nothing_else(
    method: Any, world: Any, backbones: Any, identifiers: Mapping[str, Path]
) -> None:
    parts = assembled(settings(method), world.data, backbones["t5"], identifiers["semantic"])
    wanted = world.data.cases.filter((pl.col("split") == "train") & (pl.col("task") == "rec"))
    assert len(parts.examples) == wanted.height > 0
    assert set(parts.examples.targets.lengths.tolist()) == {4 + 1}  # codes and the end token
    codes = load_codes(identifiers["semantic"]).codes
    offsets = parts.first_row + np.cumsum([0, *load_codes(identifiers["semantic"]).sizes[:-1]])
    expected = codes[wanted.sort("case_id")["target_item"].to_numpy()] + offsets
    np.testing.assert_array_equal(np.array(rows_of(parts.examples.targets))[:, :4], expected)


def test_the_joint_method_learns_from_both_tasks(world: Any, backbones: Any, identifiers: Any) -> None:
    parts = assembled(settings(SemBSR), world.data, backbones["t5"], identifiers["semantic"])
    assert len(parts.examples) == world.data.cases.filter(pl.col("split") == "train").height


def test_searches_are_not_in_the_history_of_a_recommender(world: Any, backbones: Any, identifiers: Any) -> None:
    """Its prompts are those of cases from which the search events were taken out before."""
    data = world.data
    masks = [[1 + place % 3 for place in range(len(row))] for row in data.cases["hist_items"]]
    both = data.cases.with_columns(hist_tasks=pl.Series(masks, dtype=pl.List(pl.Int8)))
    rows = both.select("case_id", "hist_items", "hist_tasks").explode("hist_items", "hist_tasks")
    kept = rows.filter(pl.col("hist_tasks").is_in([1, 3])).with_columns(hist_tasks=pl.lit(1, pl.Int8))
    left = kept.group_by("case_id", maintain_order=True).agg("hist_items", "hist_tasks")
    without = both.drop("hist_items", "hist_tasks").join(left, on="case_id", how="left", maintain_order="left")
    empty = {name: pl.col(name).fill_null(pl.lit([], dtype=both.schema[name])) for name in ("hist_items", "hist_tasks")}
    without = without.with_columns(**empty)
    assert without["hist_items"].list.len().sum() < both["hist_items"].list.len().sum()
    made = {}
    for name, cases, tasks in (
        ("filtered", both, ["rec"]),
        ("before", without, ["rec"]),
        ("all", both, ["rec", "src"]),
    ):
        config = settings(TIGER, history_tasks=tasks)
        parts = assembled(config, replace(data, cases=cases), backbones["t5"], identifiers["semantic"])
        made[name] = rows_of(parts.examples.prompts)
    assert made["filtered"] == made["before"] != made["all"]


def test_a_temperature_of_one_is_tiger_and_another_one_is_not(
    world: Any, backbones: Any, identifiers: Any, tmp_path: Path
) -> None:
    def weights(method: Any, name: str, **values: Any) -> dict[str, Any]:
        arguments = (settings(method, **values), world.data, backbones["t5"], 1, tmp_path / name)
        method().fit(*arguments, identifiers=identifiers["semantic"])
        return load_file(tmp_path / name / "model.safetensors")

    tiger, plain = weights(TIGER, "tiger"), weights(LETTER, "letter")
    sharp = weights(LETTER, "sharp", temperature=0.5)
    assert all(np.array_equal(tiger[name], plain[name]) for name in tiger)
    assert any(not np.array_equal(tiger[name], sharp[name]) for name in tiger)
    with pytest.raises(InputError, match=r"temperature is 0\.0; it must be positive and finite"):
        settings(LETTER, temperature=0.0)


def test_the_temperature_is_not_used_for_scores(world: Any, backbones: Any, identifiers: Any, tmp_path: Path) -> None:
    """Scores are log-probabilities of the saved model itself, whatever temperature it was tuned with."""
    arguments = (settings(LETTER, temperature=0.5), world.data, backbones["t5"], 1, tmp_path / "model")
    LETTER().fit(*arguments, identifiers=identifiers["semantic"])
    asked = world.questions("rec").head(1)
    (scores,) = LETTER().score(tmp_path / "model", asked)
    backbone = load_backbone(tmp_path / "model")
    table = token_table(load_codes(tmp_path / "model"), read_json(tmp_path / "model/generative.json")["first_row"])
    prompt = PromptTokens(backbone.tokenizer, "t5", table, 512, ("rec",)).encode(asked)[0]
    labels = torch.from_numpy(table[asked["items"][0].to_numpy()]).long()
    inputs = torch.from_numpy(prompt).long()[None].expand(len(labels), -1)
    with torch.no_grad():
        logits = backbone.model(input_ids=inputs, labels=labels).logits
    expected = torch.log_softmax(logits, dim=-1).gather(2, labels[:, :, None]).sum(dim=(1, 2))
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [TIGER, LETTER])
def test_searches_in_the_history_change_no_score_of_a_recommender(
    method: Any, world: Any, backbones: Any, identifiers: Any, tmp_path: Path
) -> None:
    arguments = (settings(method), world.data, backbones["t5"], 1, tmp_path / "model")
    method().fit(*arguments, identifiers=identifiers["semantic"])
    asked = world.questions("rec").filter(pl.col("hist_items").list.len() >= 2).head(4)
    searched = asked.with_columns(
        hist_items=pl.concat_list("hist_items", pl.lit(7, pl.Int32)),
        hist_tasks=pl.concat_list("hist_tasks", pl.lit(2, pl.Int8)),
    )
    bought = searched.with_columns(hist_tasks=pl.concat_list(asked["hist_tasks"], pl.lit(1, pl.Int8)))
    found = [np.concatenate(list(method().score(tmp_path / "model", q))) for q in (asked, searched, bought)]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def toy(world_of: Any, successors: np.ndarray, copies: int = 6) -> Any:
    """Who holds item a has item successors[a - 1] next; candidates are all items."""
    pairs: list[tuple[int, int, str, int]] = []
    lists: list[tuple[int, str, int, str, list[int]]] = []
    histories: dict[int, list[int]] = {}
    for user in range(N_TOY * copies):
        held = user % N_TOY + 1
        target = int(successors[user % len(successors)])
        others = [item for item in range(1, N_TOY + 1) if item not in (target, held)]
        histories[user] = [held]
        pairs.append((user, target, "rec", 0))
        lists += [(user, "rec", 0, split, [target, *others]) for split in ("train", "valid", "test")]
    return world_of(pairs, lists, N_TOY * copies, N_TOY, histories)


def toy_codes(folder: Path) -> Path:
    number = np.arange(N_TOY)
    levels = np.stack([number % 3, number // 3, np.zeros(N_TOY, int)], axis=1).astype(np.int32)
    ItemCodes("toy", np.concatenate([np.full((1, 3), -1, np.int32), levels]), (3, 4, 1)).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_what_always_comes_next_is_learned_and_chance_is_not(
    shuffled: bool, make_world: Any, backbones: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    following = np.roll(np.arange(1, N_TOY + 1), -1)
    chosen = rng.integers(1, N_TOY + 1, N_TOY * 6) if shuffled else following
    small = toy(make_world, chosen)
    if shuffled:  # what came next in training says nothing of what comes next in the test
        small = replace(small, cases=_reassigned(small, rng))
    config = settings(TIGER, **LONG)
    TIGER().fit(config, small.data, backbones["t5"], 1, tmp_path / "model", identifiers=toy_codes(tmp_path / "codes"))
    rate = small.hit_rate(list(TIGER().score(tmp_path / "model", small.questions("rec"))), small.questions("rec"), k=1)
    assert rate < 0.35 if shuffled else rate > 0.9


def _reassigned(world: Any, rng: np.random.Generator) -> pl.DataFrame:
    """Training cases with targets drawn anew."""
    drawn = pl.Series(rng.integers(1, N_TOY + 1, world.cases.height), dtype=pl.Int32)
    return world.cases.with_columns(
        target_item=pl.when(pl.col("split") == "train").then(drawn).otherwise(pl.col("target_item"))
    )


@pytest.mark.slow
def test_cold_items_are_found_by_their_codes_alone(make_world: Any, backbones: Any, tmp_path: Path) -> None:
    """Items never seen in training rank high by codes that they share with seen ones; shuffled codes take that away."""
    groups, size, users = 4, 6, 240
    rng = np.random.default_rng(8)
    pairs: list[tuple[int, int, str, int]] = []
    lists: list[tuple[int, str, int, str, list[int]]] = []
    histories: dict[int, list[int]] = {}
    for user in range(users):
        group = user % groups
        mine = np.arange(size) + 1 + size * group
        others = np.setdiff1d(np.arange(1, groups * size + 1), mine).tolist()
        seen = np.delete(mine, group)  # the cold item of a group is the one of its own number
        held, target = rng.permutation(seen)[:2].tolist()
        histories[user] = [held]
        pairs.append((user, target, "rec", 0))
        lists += [(user, "rec", 0, split, [target, *others]) for split in ("train", "valid")]
        lists.append((user, "rec", 0, "test", [int(mine[group]), *others]))
    small = make_world(pairs, lists, users, groups * size, histories)
    number = np.arange(groups * size)
    levels = np.stack([number // size, number % size], axis=1).astype(np.int32)
    rates = {}
    for name, order in (("planted", number), ("shuffled", np.random.default_rng(3).permutation(number))):
        padded = np.concatenate([np.full((1, 2), -1, np.int32), levels[order]])
        ItemCodes(name, padded, (groups, size)).save(tmp_path / name)
        config = settings(SemBSR, train_tasks=["rec"], **LONG)
        model = tmp_path / f"{name}-model"
        SemBSR().fit(config, small.data, backbones["t5"], 1, model, identifiers=tmp_path / name)
        rates[name] = small.hit_rate(list(SemBSR().score(model, small.questions("rec"))), small.questions("rec"), k=3)
    assert rates["planted"] > 0.4 > 0.15 > rates["shuffled"]  # chance: 3 of 19

"""BSR: one token per item, both tasks in one model; what its scores are and what it learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gemsbench.backbones.loading import load_backbone
from gemsbench.config import load_settings
from gemsbench.decoding import CandidateScorer, constrained_beam
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.vocabulary import token_table
from gemsbench.methods import generative
from gemsbench.methods.bsr import BSR
from gemsbench.methods.generative import GenerativeSettings
from gemsbench.training import loop
from gemsbench.training.prompt_tokens import PromptTokens

FAST = {
    "t5": {"config": {"learning_rate": 1e-2}},
    "qwen2": {"config": {"learning_rate": 5e-3, "rows_learning_rate": 1e-2}},
}
KINDS = ("t5", "qwen2")


def settings(**changed: Any) -> GenerativeSettings:
    values = {"epochs": 2, "batch_size": 64, **changed.pop("loop", {})}
    return load_settings(GenerativeSettings, {"loop": values, "tuners": FAST, **changed}, "test")


def ranks(scores: list[np.ndarray], cases: pl.DataFrame, candidates: pl.DataFrame) -> np.ndarray:
    """Pessimistic rank of the target of every case."""
    lists = cases.join(candidates.select("case_id", "positives"), on="case_id", maintain_order="left")
    found = []
    for array, items, positives in zip(scores, lists["items"], lists["positives"], strict=True):
        is_positive = np.isin(items.to_numpy(), positives.to_numpy())
        found.append(1 + int((array[~is_positive] >= array[is_positive].max()).sum()))
    return np.array(found)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def fitted(
    kind: str,
    world: Any,
    backbones: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    identifiers: Mapping[str, Path],
) -> Path:
    """BSR after two epochs on the small world."""
    out = tmp_path_factory.mktemp(f"bsr-{kind}") / "model"
    BSR().fit(settings(), world.data, backbones[kind], 1, out, identifiers=identifiers["atomic"])
    return out


def prompts_and_tokens(folder: Path) -> tuple[Any, PromptTokens, np.ndarray]:
    backbone = load_backbone(folder)
    tokens = token_table(load_codes(folder), read_json(folder / "generative.json")["first_row"])
    return backbone, PromptTokens(backbone.tokenizer, backbone.kind, tokens, 512), tokens


def test_every_item_has_one_token_of_its_own_after_saving(fitted: Path, kind: str, world: Any, backbones: Any) -> None:
    backbone, _, tokens = prompts_and_tokens(fitted)
    before = load_backbone(backbones[kind])
    assert tokens.shape == (world.items.height + 1, 1)
    assert len(np.unique(tokens[1:])) == world.items.height
    assert backbone.model.config.vocab_size - before.model.config.vocab_size == world.items.height
    texts = backbone.tokenizer.convert_ids_to_tokens(tokens[1:, 0].tolist())
    beside = [backbone.tokenizer(f"[rec] {text} | [src] {text}", add_special_tokens=False).input_ids for text in texts]
    assert all(ids.count(token) == 2 for ids, token in zip(beside, tokens[1:, 0].tolist(), strict=True))


def test_a_score_is_one_softmax_read_at_the_item_and_what_a_wide_beam_finds(fitted: Path, world: Any) -> None:
    backbone, prompts, tokens = prompts_and_tokens(fitted)
    asked = world.questions().head(4)
    scores = list(BSR().score(fitted, asked))
    encoded = [prompts.encode(asked)[row].tolist() for row in range(asked.height)]
    for row, (prompt, items) in enumerate(zip(encoded, asked["items"], strict=True)):
        ids = torch.tensor([prompt])
        start = {"decoder_input_ids": torch.tensor([[0]])} if backbone.kind == "t5" else {}
        with torch.no_grad():
            logits = backbone.model(input_ids=ids, **start).logits[0, -1]
        wanted = torch.log_softmax(logits, dim=-1)[tokens[items.to_numpy(), 0]]
        np.testing.assert_allclose(scores[row], wanted.numpy(), atol=1e-4)
    beams = constrained_beam(backbone.model, encoded, [tokens[items.to_numpy()] for items in asked["items"]], 20)
    for score, beam in zip(scores, beams, strict=True):
        np.testing.assert_allclose(beam, score, atol=1e-4)


def test_no_two_candidates_tie(fitted: Path, world: Any) -> None:
    for scores in BSR().score(fitted, world.questions()):
        assert len(np.unique(scores)) == len(scores)


def test_the_task_and_the_history_change_the_scores(fitted: Path, world: Any) -> None:
    asked = world.questions("src").head(5)
    as_recommendation = asked.with_columns(task=pl.lit("rec").cast(asked["task"].dtype))
    empty = [pl.lit([], dtype=asked.schema[name]).alias(name) for name in ("hist_items", "hist_tasks", "hist_queries")]
    for other in (as_recommendation, asked.with_columns(empty)):
        for one, two in zip(BSR().score(fitted, asked), BSR().score(fitted, other), strict=True):
            assert np.abs(one - two).max() > 1e-4


def test_the_model_folder_loads_with_plain_transformers(fitted: Path, kind: str) -> None:
    backbone, _prompts, _ = prompts_and_tokens(fitted)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(fitted)
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :1]} if kind == "t5" else {})}
    with torch.no_grad():
        np.testing.assert_array_equal(model(**inputs).logits.numpy(), backbone.model(**inputs).logits.numpy())
    text = "[rec] <|i1_3|>"
    assert AutoTokenizer.from_pretrained(fitted)(text).input_ids == backbone.tokenizer(text).input_ids


def test_log_and_diagnostics_tell_how_the_fit_went(fitted: Path, kind: str, world: Any) -> None:
    lines = [json.loads(line) for line in (fitted / "log.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["stage"] == "train"]
    assert [line["epoch"] for line in evaluated] == [0, 1, 2]
    assert lines[-1]["stage"] == "end" and lines[-1]["stopped"] == "epochs"
    for line in evaluated:
        tasks = [line["valid_ndcg@10_rec"], line["valid_ndcg@10_src"]]
        assert line["valid_ndcg@10"] == pytest.approx(np.mean(tasks))
    assert evaluated[-1]["loss_rec"] < evaluated[1]["loss_rec"] and evaluated[-1]["loss_src"] < evaluated[1]["loss_src"]
    diagnostics = read_json(fitted / "diagnostics.json")
    train = world.cases.filter(pl.col("split") == "train")
    seen = set(train["target_item"]) | set(train["hist_items"].explode().drop_nulls())
    assert diagnostics["items_in_no_training_case"] == pytest.approx(1 - len(seen) / world.items.height)
    assert diagnostics["tuner"] == {"t5": "full", "qwen2": "lora"}[kind]
    rows, width = world.items.height, 16
    assert diagnostics["parameters"]["new_rows"] == rows * width * (2 if kind == "t5" else 1)
    cold = diagnostics["validation_hit@10"]["rec"]["cold positive"]["n_cases"]
    valid = world.cases.filter((pl.col("split") == "valid") & (pl.col("task") == "rec"))
    assert cold == (~valid["target_item"].is_in(seen)).sum()


@pytest.mark.slow
def test_fifty_cases_are_learned_by_heart(
    world: Any, backbones: Mapping[str, Path], tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    train = world.cases.filter(pl.col("split") == "train")
    # One target per prompt: a user's history and task, or a query besides.
    chosen = train.unique(["user_id", "task", "query_id"], keep="first", maintain_order=True).head(50)
    asked = chosen.with_columns(split=pl.lit("valid").cast(chosen["split"].dtype), case_id=pl.col("case_id") + 10**6)
    lists = asked.select(
        "case_id",
        items=pl.concat_list(pl.lit(list(range(1, 101)), dtype=pl.List(pl.Int32)), "target_item").list.unique(),
        positives=pl.concat_list("target_item"),
        sampler=pl.lit("all"),
        seed=pl.lit(0),
    )
    data = replace(world.data, cases=pl.concat([chosen, asked]), valid_candidates=lists)
    BSR().fit(
        settings(loop={"epochs": 150, "batch_size": 25, "patience": 40}),
        data,
        backbones["t5"],
        1,
        tmp_path / "model",
        identifiers=identifiers["atomic"],
    )
    assert read_json(tmp_path / "model/diagnostics.json")["valid_ndcg@10"] > 0.99


@pytest.mark.parametrize("task", ["rec", "src"])
def test_one_task_alone_runs_from_the_same_code(
    task: str, world: Any, backbones: Mapping[str, Path], tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    BSR().fit(
        settings(train_tasks=[task]),
        world.data,
        backbones["t5"],
        1,
        tmp_path / "model",
        identifiers=identifiers["atomic"],
    )
    lines = [json.loads(line) for line in (tmp_path / "model/log.jsonl").read_text().splitlines()]
    other = {"rec": "src", "src": "rec"}[task]
    assert f"valid_ndcg@10_{task}" in lines[0] and f"valid_ndcg@10_{other}" not in lines[0]
    assert f"loss_{task}" in lines[1] and f"loss_{other}" not in lines[1]
    train = world.cases.filter((pl.col("split") == "train") & (pl.col("task") == task))
    seen = set(train["target_item"]) | set(train["hist_items"].explode().drop_nulls())
    diagnostics = read_json(tmp_path / "model/diagnostics.json")
    assert diagnostics["training_cases"] == train.height
    assert diagnostics["items_in_no_training_case"] == pytest.approx(1 - len(seen) / world.items.height)


def test_a_killed_fit_goes_on_to_the_same_model(
    kind: str,
    fitted: Path,
    world: Any,
    backbones: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    identifiers: Mapping[str, Path],
) -> None:
    evaluate, restore, calls, restored = loop._Run._evaluate, loop._Run._restore, [], []

    def killed(run: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        evaluate(run)

    def noting(run: Any) -> None:
        restore(run)
        restored.append(run.state.step)

    chosen = settings(loop={"checkpoint_seconds": 0.0})
    monkeypatch.setattr(loop._Run, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        BSR().fit(chosen, world.data, backbones[kind], 1, tmp_path / "model", identifiers=identifiers["atomic"])
    assert (tmp_path / "model.checkpoint").is_dir() and not (tmp_path / "model").exists()
    monkeypatch.setattr(loop._Run, "_restore", noting)
    BSR().fit(chosen, world.data, backbones[kind], 1, tmp_path / "model", identifiers=identifiers["atomic"])
    assert restored[0] > 0  # it did not begin again
    assert not (tmp_path / "model.checkpoint").exists()
    assert (tmp_path / "model/model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def test_a_checkpoint_belongs_to_all_that_decides_a_fit(
    world: Any, backbones: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(chosen: GenerativeSettings, data: Any, folder: Path, seed: int = 1) -> str:
        parts = generative.assemble(chosen, atomic_codes(data.items), data, folder, seed)
        return generative.fingerprint("gemsbench.methods.bsr", parts, folder, seed)

    before = found(settings(), world.data, backbones["t5"])
    assert found(settings(), world.data, backbones["t5"]) == before
    others = [
        found(settings(loop={"epochs": 3}), world.data, backbones["t5"]),
        found(settings(), world.data, backbones["t5"], seed=2),
        found(settings(), replace(world.data, cases=world.data.cases.head(200)), backbones["t5"]),
        found(settings(), world.data, backbones["qwen2"]),
    ]
    for file in ("tokenizer_config.json", "config.json"):
        folder = shutil.copytree(backbones["t5"], tmp_path / file)
        (folder / file).write_text((folder / file).read_text() + "\n")
        others.append(found(settings(), world.data, folder))
    monkeypatch.setattr(generative, "VERSIONS", ("torch",))
    others.append(found(settings(), world.data, backbones["t5"]))
    monkeypatch.setattr(generative, "source_sha256", lambda *_: "edited")
    others.append(found(settings(), world.data, backbones["t5"]))
    assert len({before, *others}) == 1 + len(others)


def test_each_kind_of_backbone_may_have_its_own_loop(
    world: Any, backbones: Mapping[str, Path], tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    own = {"loop": {"epochs": 1, "batch_size": 256}, **FAST["t5"]}
    BSR().fit(
        settings(tuners={"t5": own}),
        world.data,
        backbones["t5"],
        1,
        tmp_path / "model",
        identifiers=identifiers["atomic"],
    )
    lines = [json.loads(line) for line in (tmp_path / "model/log.jsonl").read_text().splitlines()]
    assert max(line["epoch"] for line in lines if "epoch" in line) == 1


def test_scoring_takes_smaller_batches_where_memory_runs_out(
    fitted: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, score, sizes = world.questions().head(9), CandidateScorer.score, []
    expected = list(BSR().score(fitted, asked))

    def limited(scorer: Any, prompts: Any, candidates: Any, most: int) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError("no more")
        return score(scorer, prompts, candidates)

    monkeypatch.setattr(CandidateScorer, "score", lambda *arguments: limited(*arguments, most=2))
    for one, two in zip(BSR().score(fitted, asked), expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert sizes == [9, 4, 2, 2, 2, 2, 1]
    monkeypatch.setattr(CandidateScorer, "score", lambda *arguments: limited(*arguments, most=0))
    with pytest.raises(InputError, match="does not hold one case"):
        list(BSR().score(fitted, asked))


def test_a_merged_adapter_is_never_scored_in_half_precision(world: Any, backbones: Any, tmp_path: Path) -> None:
    for kind, half in (("t5", True), ("qwen2", False)):
        parts = generative.assemble(
            settings(loop={"precision": "bf16"}), atomic_codes(world.items), world.data, backbones[kind], 1
        )
        assert parts.half is half


def test_a_damaged_model_folder_is_refused(fitted: Path, world: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(fitted, tmp_path / "model")
    moved = {**read_json(fitted / "generative.json"), "first_row": 1}
    for text, said in (
        ("{}", "not what a fit writes"),
        (json.dumps(moved), "does not fit"),
        ("[", "not valid JSON"),
    ):
        (folder / "generative.json").write_text(text)
        with pytest.raises(InputError, match=said):
            list(BSR().score(folder, world.questions().head(1)))


def test_wrong_inputs_are_named(
    world: Any, backbones: Mapping[str, Path], tmp_path: Path, identifiers: Mapping[str, Path]
) -> None:
    with pytest.raises(InputError, match="bsr: needs a backbone"):
        BSR().fit(settings(), world.data, None, 1, tmp_path / "model", identifiers=identifiers["atomic"])
    with pytest.raises(InputError, match=r"unknown tuner 'lorra'\. Did you mean 'lora'"):
        BSR().fit(
            settings(tuners={"t5": {"name": "lorra"}}),
            world.data,
            backbones["t5"],
            1,
            tmp_path / "model",
            identifiers=identifiers["atomic"],
        )
    with pytest.raises(InputError, match=r"tuners: t5: config \(full\).*learning_rat"):
        wrong = settings(tuners={"t5": {"config": {"learning_rat": 1}}})
        BSR().fit(wrong, world.data, backbones["t5"], 1, tmp_path / "model", identifiers=identifiers["atomic"])
    with pytest.raises(InputError, match="kind of backbone"):
        settings(tuners={"t6": {}})
    with pytest.raises(InputError, match="train_tasks"):
        settings(train_tasks=["ads"])
    without = replace(world.data, cases=world.data.cases.filter(pl.col("split") == "valid"))
    with pytest.raises(InputError, match="no training cases"):
        BSR().fit(settings(), without, backbones["t5"], 1, tmp_path / "model", identifiers=identifiers["atomic"])
    assert not (tmp_path / "model").exists()


def test_colliding_identifiers_are_refused(world: Any, backbones: Mapping[str, Path], tmp_path: Path) -> None:
    codes = np.zeros((world.items.height + 1, 1), dtype=np.int32)
    codes[0] = -1
    ItemCodes("same", codes, (1,)).save(tmp_path / "same")
    with pytest.raises(InputError, match="share the identifier"):
        BSR().fit(settings(), world.data, backbones["t5"], 1, tmp_path / "model", identifiers=tmp_path / "same")


def test_a_run_needs_identifiers_of_its_own_items(world: Any, backbones: Mapping[str, Path], tmp_path: Path) -> None:
    atomic_codes(world.items.head(119)).save(tmp_path / "fewer")
    wanted = (settings(), world.data, backbones["t5"], 1, tmp_path / "model")
    with pytest.raises(InputError, match=r"the catalogue has 120 items; 1 missing, e\.g\. item 120"):
        BSR().fit(*wanted, identifiers=tmp_path / "fewer")
    with pytest.raises(InputError, match=r"bsr: needs the identifiers of the items.*gemsbench ids"):
        BSR().fit(*wanted)


def test_a_model_is_scored_with_the_identifiers_that_it_was_tuned_on(fitted: Path, world: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(fitted, tmp_path / "model")
    table = atomic_codes(world.items)
    turned = np.concatenate([table.codes[:1], table.codes[:0:-1]])
    ItemCodes(table.scheme, turned, table.sizes).save(folder)
    with pytest.raises(InputError, match="not those that the model was tuned on"):
        list(BSR().score(folder, world.questions().head(1)))


def test_a_candidate_without_an_identifier_is_named(fitted: Path, world: Any) -> None:
    asked = world.questions().head(1)
    wrong = asked.with_columns(items=pl.Series([[1, 9_999]], dtype=pl.List(pl.Int32)))
    with pytest.raises(InputError, match=rf"case {asked['case_id'][0]}: candidate 9999 has no identifier"):
        list(BSR().score(fitted, wrong))

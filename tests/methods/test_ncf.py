"""NCF as a row of the tables: what it learns, what it reports, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.methods import ncf
from gemsbench.methods.contract import NoSettings
from gemsbench.methods.ncf import NCF, NCFSettings
from gemsbench.methods.popularity import Popularity

BLOCKS = NCFSettings(epochs=20, batch_size=512)
SHORT = NCFSettings(epochs=2, batch_size=256, factors=4)


def _hit10(method: Any, artefact: Path, world: Any) -> float:
    questions = world.questions("rec")
    return world.hit_rate(list(method.score(artefact, questions)), questions)


@pytest.mark.slow
def test_learns_hidden_edges_of_two_blocks(blocks: Any, tmp_path: Path) -> None:
    NCF().fit(BLOCKS, blocks.data, None, 1, tmp_path / "ncf")
    Popularity().fit(NoSettings(), blocks.data, None, 1, tmp_path / "popularity")
    assert read_json(tmp_path / "ncf" / "diagnostics.json")["validation"]["hit@10"] > 0.9
    assert _hit10(NCF(), tmp_path / "ncf", blocks) > 0.9
    assert _hit10(Popularity(), tmp_path / "popularity", blocks) < 0.2


@pytest.mark.slow
def test_finds_nothing_where_nothing_is(shuffled_blocks: Any, tmp_path: Path) -> None:
    NCF().fit(replace(BLOCKS, epochs=4), shuffled_blocks.data, None, 1, tmp_path / "ncf")
    questions = shuffled_blocks.questions("rec")  # 600 cases: four standard errors are 0.05 and 0.036
    scores = list(NCF().score(tmp_path / "ncf", questions))
    assert shuffled_blocks.hit_rate(scores, questions, 10) == pytest.approx(0.10, abs=0.05)
    assert shuffled_blocks.hit_rate(scores, questions, 5) == pytest.approx(0.05, abs=0.036)


def test_reports_what_it_did(world: Any, tmp_path: Path) -> None:
    asked = (pl.col("task") == "rec") & (pl.col("split") == "valid")
    unseen = world.data.cases.filter(asked)["target_item"][-1]
    data = replace(world.data, events=world.data.events.filter(pl.col("item_id") != unseen))
    NCF().fit(SHORT, data, None, 1, tmp_path / "ncf")
    report = read_json(tmp_path / "ncf" / "diagnostics.json")
    events = data.events.filter(pl.col("task") == "rec")
    cases = data.cases.filter(asked)
    seen = cases["target_item"].is_in(events["item_id"].implode())
    assert report["training_pairs"] == events.select("user_id", "item_id").n_unique()
    assert report["users_without_training_events"] == 1
    assert report["validation"]["n_cases"] == cases.height
    assert report["validation"]["n_cases, user without training events"] == 1
    assert report["validation"]["n_cases, positive never seen"] == cases.height - seen.sum() > 0
    parts = [report["validation"][f"hit@10, positive {kind}"] for kind in ("seen in training", "never seen")]
    mean = np.average(parts, weights=[seen.sum(), cases.height - seen.sum()])
    assert mean == pytest.approx(report["validation"]["hit@10"])
    best = {stage: result["ndcg@10"] for stage, result in report["stages"].items()}
    assert best[report["chosen"]] == max(best["neumf"], best["neumf-scratch"]) == report["validation"]["ndcg@10"]
    lines = [json.loads(line) for line in (tmp_path / "ncf" / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (stage, epoch) for stage in ("gmf", "mlp", "neumf", "neumf-scratch") for epoch in range(3)
    ]
    assert {frozenset(line) for line in lines} == {frozenset({"stage", "epoch", "loss", "valid_ndcg@10", "seconds"})}


def test_scores_of_the_validation_cases_are_those_the_model_was_chosen_on(world: Any, tmp_path: Path) -> None:
    NCF().fit(SHORT, world.data, None, 1, tmp_path / "ncf")
    questions = world.questions("rec", split="valid")
    scores = list(NCF().score(tmp_path / "ncf", questions))
    reported = read_json(tmp_path / "ncf" / "diagnostics.json")["validation"]["hit@10"]
    assert world.hit_rate(scores, questions) == pytest.approx(reported)


def test_searches_are_not_learned_from(world: Any, tmp_path: Path) -> None:
    data = world.data
    for name, kept in (("all", data), ("rec", replace(data, events=data.events.filter(pl.col("task") == "rec")))):
        NCF().fit(SHORT, kept, None, 1, tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("all", "rec")]
    assert files[0] == files[1]


def test_users_without_training_events_share_one_score_per_item(world: Any, tmp_path: Path) -> None:
    data = replace(world.data, n_users=world.n_users + 1)  # user 30 has no event at all, user 0 only searches
    NCF().fit(SHORT, data, None, 1, tmp_path / "ncf")
    asked = world.questions("rec").head(1)
    first, second, known = (
        next(NCF().score(tmp_path / "ncf", asked.with_columns(user_id=pl.lit(user, dtype=pl.Int32))))
        for user in (0, 30, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, known)


def test_no_recommendation_events_or_cases_are_refused(world: Any, tmp_path: Path) -> None:
    data = world.data
    with pytest.raises(InputError, match="no training events"):
        NCF().fit(SHORT, replace(data, events=data.events.filter(pl.col("task") == "src")), None, 1, tmp_path / "a")
    with pytest.raises(InputError, match="no validation cases with candidates for task 'rec'"):
        NCF().fit(SHORT, replace(data, cases=data.cases.filter(pl.col("task") == "src")), None, 1, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("user", [-1, 30])
def test_a_user_of_other_data_is_named(world: Any, tmp_path: Path, user: int) -> None:
    NCF().fit(SHORT, world.data, None, 1, tmp_path / "ncf")
    cases = world.questions("rec").head(2).with_columns(user_id=pl.lit(user, dtype=pl.Int32))
    with pytest.raises(InputError, match=rf"user {user} is not a user .*0\.\.29"):
        list(NCF().score(tmp_path / "ncf", cases))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("hidden_layers", 0), ("batch_size", 0), ("negatives", 0), ("learning_rate", -1.0), ("alpha", 2.0)],
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"ncf: {field} is"):
        NCFSettings(**{field: value})


def test_a_checkpoint_belongs_to_its_settings_seed_data_and_code(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = world.data
    fewer = replace(
        data, events=data.events.filter(pl.col("user_id") != data.events.filter(pl.col("task") == "rec")["user_id"][0])
    )
    problems = [ncf._problem(SHORT, data, 1), ncf._problem(SHORT, data, 2), ncf._problem(SHORT, fewer, 1)]
    problems.append(ncf._problem(replace(SHORT, l2=0.5), data, 1))
    monkeypatch.setattr(ncf, "source_sha256", lambda *_: "edited")
    problems.append(ncf._problem(SHORT, data, 1))
    assert len({problem.fingerprint for problem in problems}) == len(problems)

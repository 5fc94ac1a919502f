"""SASRec as a row of the tables: what it looks at and what it does not."""

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
from gemsbench.methods.sasrec import SASRec, SASRecSettings
from gemsbench.training.loop_settings import LoopSettings

LOOP = LoopSettings(epochs=2, batch_size=16, micro_batch_size=16, patience=2, warmup=0.0)
SHORT = SASRecSettings(width=8, max_length=6, learning_rate=1e-2, loop=LOOP)


@pytest.fixture(scope="module")
def artefact(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SASRec fitted on the small world."""
    out = tmp_path_factory.mktemp("sasrec") / "model"
    SASRec().fit(SHORT, world.data, None, 1, out)
    return out


def _scores(artefact: Path, cases: pl.DataFrame) -> np.ndarray:
    return np.concatenate(list(SASRec().score(artefact, cases)))


def _with_history(cases: pl.DataFrame, items: list[int], tasks: list[int]) -> pl.DataFrame:
    lists = {"hist_items": (items, pl.Int32), "hist_tasks": (tasks, pl.Int8)}
    return cases.with_columns(pl.lit(v, dtype=pl.List(kind)).alias(name) for name, (v, kind) in lists.items())


def test_the_query_the_user_and_the_case_are_ignored(artefact: Path, world: Any) -> None:
    cases = world.questions("rec")
    other = cases.with_columns(query=pl.lit("a red kettle"), query_id=pl.lit(3, dtype=pl.Int32))
    other = other.with_columns(user_id=pl.lit(0, dtype=pl.Int32), case_id=pl.col("case_id") + 1000)
    np.testing.assert_array_equal(_scores(artefact, other), _scores(artefact, cases))


def test_the_history_of_recommendations_is_not_ignored(artefact: Path, world: Any) -> None:
    cases = world.questions("rec")
    found = [_scores(artefact, _with_history(cases, items, [1, 1])) for items in ([4, 7], [7, 4], [5, 7])]
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_searches_before_the_case_are_ignored(artefact: Path, world: Any) -> None:
    cases = world.questions("rec")
    alone = _scores(artefact, _with_history(cases, [4, 7], [1, 1]))
    np.testing.assert_array_equal(_scores(artefact, _with_history(cases, [4, 9, 7, 3], [1, 2, 1, 2])), alone)
    both = _with_history(cases, [4, 7], [3, 3])  # a purchase and the search made from it
    np.testing.assert_array_equal(_scores(artefact, both), alone)


def test_a_case_without_a_history_has_scores_of_its_own(artefact: Path, world: Any) -> None:
    cases = world.questions("rec")
    none = _scores(artefact, _with_history(cases, [], []))
    assert np.isfinite(none).all()
    assert len(np.unique(none)) > 20
    np.testing.assert_array_equal(_scores(artefact, _with_history(cases, [9, 3], [2, 2])), none)


def test_an_item_that_training_never_met_scores_the_mean_of_the_others(artefact: Path, world: Any) -> None:
    events = world.data.events.filter(pl.col("task") == "rec")
    known = sorted(set(events["item_id"].to_list()))
    never = sorted(set(range(1, world.data.n_items + 1)) - set(known))
    assert never
    cases = world.questions("rec").with_columns(items=pl.lit([*known, *never], dtype=pl.List(pl.Int32)))
    for scores in SASRec().score(artefact, cases):
        of_known, of_never = scores[: len(known)], scores[len(known) :]
        np.testing.assert_allclose(of_never, of_known.mean(), rtol=0, atol=1e-5)
        assert of_known.std() > 1e-3
    longer = _with_history(cases, [known[0], never[0]], [1, 1])  # it tells nothing as a part of the past either
    np.testing.assert_array_equal(
        _scores(artefact, longer), _scores(artefact, _with_history(cases, known[:1], [1])), strict=True
    )


def test_only_the_last_events_count(artefact: Path, world: Any) -> None:
    cases = world.questions("rec")
    items = [1, 4, 7, 2, 5, 8]  # max_length
    expected = _scores(artefact, _with_history(cases, items, [1] * 6))
    np.testing.assert_array_equal(_scores(artefact, _with_history(cases, [9, 3, *items], [1] * 8)), expected)
    assert not np.array_equal(_scores(artefact, _with_history(cases, items[1:], [1] * 5)), expected)


def test_what_is_written_says_how_it_went(artefact: Path) -> None:
    lines = [json.loads(line) for line in (artefact / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["stage"] == "train"]
    assert [line["epoch"] for line in evaluations] == [0, 1, 2]
    record = read_json(artefact / "diagnostics.json")
    assert record["valid_ndcg@10"] == max(line["valid_ndcg@10"] for line in evaluations)
    assert record["training_events"] == 29 * 12


def test_goes_on_after_a_kill_and_leaves_no_checkpoint(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SHORT, loop=replace(LOOP, checkpoint_seconds=0.0))
    SASRec().fit(settings, world.data, None, 1, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("gemsbench.methods.sasrec.write_json", _killed)
        with pytest.raises(KeyboardInterrupt):
            SASRec().fit(settings, world.data, None, 1, tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed.checkpoint"}
    SASRec().fit(settings, world.data, None, 1, tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}
    for name in ("model.safetensors", "config.json", "diagnostics.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_candidate_of_other_data_is_an_error(artefact: Path, world: Any) -> None:
    cases = world.questions("rec").with_columns(items=pl.lit([1, 999], dtype=pl.List(pl.Int32)))
    with pytest.raises(InputError, match=r"candidate 999 is not an item of the data .* \(1\.\.120\)"):
        _scores(artefact, cases)

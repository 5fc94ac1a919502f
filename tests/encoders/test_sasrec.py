"""Item vectors of SASRec: every row belongs to the item of its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.sasrec import SASRecEncoder
from gemsbench.encoders.sasrec_training import SASRecSettings
from gemsbench.identifiers.vectors import ItemVectors, catalogue_sha256
from gemsbench.methods.sasrec import SASRec
from gemsbench.training.loop_settings import LoopSettings

LOOP = LoopSettings(epochs=12, batch_size=16, micro_batch_size=16, patience=12, warmup=0.0)
SETTINGS = SASRecSettings(width=16, blocks=1, max_length=6, learning_rate=1e-2, loop=LOOP)


@pytest.fixture(scope="module")
def encoded(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """The vectors of the small world."""
    return SASRecEncoder().encode(SETTINGS, world.data, 1, tmp_path_factory.mktemp("sasrec"))


def test_items_of_training_recommendations_are_known_and_no_others(encoded: Encoded, world: Any) -> None:
    events = world.data.events
    learned = set(events.filter(pl.col("task") == "rec")["item_id"].to_list())
    assert len(learned) < world.data.n_items
    assert set(np.flatnonzero(encoded.known).tolist()) == learned
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.shape == (world.data.n_items + 1, 16)
    assert encoded.vectors[encoded.known].any(axis=1).all()
    assert not encoded.vectors[~encoded.known].any()


def test_row_i_is_what_scores_item_i(encoded: Encoded, world: Any, tmp_path: Path) -> None:
    # The method's scores of a case are products of one state with the rows: rows that stand one place off do not fit.
    SASRec().fit(SETTINGS, world.data, None, 1, tmp_path / "model")
    questions = world.questions.filter(pl.col("task") == "rec")
    items = np.flatnonzero(encoded.known)
    everything = pl.lit(items.tolist(), dtype=pl.List(pl.Int32))
    scores = np.stack(list(SASRec().score(tmp_path / "model", questions.with_columns(items=everything))))
    vectors = encoded.vectors[items].astype(np.float64)
    states, *_ = np.linalg.lstsq(vectors, scores.T.astype(np.float64), rcond=None)
    np.testing.assert_allclose(vectors @ states, scores.T, rtol=0, atol=1e-4)
    shifted = np.roll(vectors, 1, axis=0)
    states, *_ = np.linalg.lstsq(shifted, scores.T.astype(np.float64), rcond=None)
    assert np.abs(shifted @ states - scores.T).max() > 0.1


def test_items_that_the_same_users_want_have_similar_vectors(world_of: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    blocks = np.array([np.arange(1, 21), np.arange(21, 41)])
    paths = [rng.permutation(blocks[user % 2])[:10].tolist() for user in range(40)]
    events = [(user, item, "rec", 0) for user, path in enumerate(paths) for item in path[:9]]
    past = {user: [(item, 1) for item in path[:9]] for user, path in enumerate(paths)}
    asked = [(u, "rec", 0, "valid", [path[9], *blocks[1 - u % 2].tolist()]) for u, path in enumerate(paths)]
    data = world_of(events, asked, 40, 41, past).data
    encoded = SASRecEncoder().encode(SETTINGS, data, 1, tmp_path)
    assert np.flatnonzero(~encoded.known).tolist() == [0, 41]
    cosine = np.corrcoef(encoded.vectors[1:41] - encoded.vectors[1:41].mean(axis=0))
    assert cosine[:20, :20].mean() > cosine[:20, 20:].mean() + 0.5
    assert cosine[20:, 20:].mean() > cosine[:20, 20:].mean() + 0.5


def test_vectors_and_record_can_be_written_down(encoded: Encoded, world: Any) -> None:
    vectors = ItemVectors("sasrec", catalogue_sha256(world.data.items), encoded.vectors, encoded.known)
    assert vectors.width == 16
    assert encoded.record["valid_ndcg@10"] > 0
    lines = [json.loads(json.dumps(line)) for line in encoded.log]
    assert lines[-1]["stage"] == "end"
    assert {"loss", "valid_ndcg@10", "epoch"} <= lines[0].keys()
    json.dumps(encoded.record)

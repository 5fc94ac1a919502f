"""Small worlds for the encoders: training data as a pack gives it, and questions with their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from gemsbench import seeds
from gemsbench.data import schema
from gemsbench.protocol.pack import QUESTION_COLUMNS, TrainingData

Event = tuple[int, int, str, int]  # user, item, task, query; the order of rows is the order in time
Asked = tuple[int, str, int, str, list[int]]  # user, task, query, split, candidates with the positive first
TASTES = ("kettle", "lamp", "carpet")


@dataclass(frozen=True)
class EncoderWorld:
    """Training data, and the test questions (columns pack.QUESTION_COLUMNS) with the positive of each."""

    data: TrainingData
    questions: pl.DataFrame
    answers: np.ndarray

    def hit_rate(self, scores: Sequence[np.ndarray], k: int = 1) -> float:
        """Share of the questions whose positive is among the k best; ties count against it."""
        lists = zip(scores, self.questions["items"], self.answers, strict=True)
        ranks = [int((array >= array[np.asarray(items) == answer]).sum()) for array, items, answer in lists]
        return float(np.mean(np.array(ranks) <= k))


def _typed(table: pl.DataFrame, columns: schema.Schema) -> pl.DataFrame:
    return table.select(pl.col(column).cast(kind) for column, kind in columns.items())


def _items(n_items: int) -> pl.DataFrame:
    number = np.arange(1, n_items + 1)
    text = [f"{TASTES[n % 3]} number {n // 3} of kind {n % 5}" for n in number]
    table = pl.DataFrame({"item_id": number, "raw_id": [f"i{n}" for n in number], "title": text, "text": text})
    table = table.with_columns(
        description=pl.lit(""),
        brand=pl.lit(""),
        category_paths=pl.lit([], dtype=pl.List(pl.List(pl.String))),
        query_ids=pl.lit([], dtype=pl.List(pl.Int32)),
        n_train=pl.lit(0),
    )
    return _typed(table, schema.ITEMS)


def _queries() -> pl.DataFrame:
    texts = [f"a good {taste}" for taste in TASTES]
    return _typed(
        pl.DataFrame({"query_id": [1, 2, 3], "text": texts, "n_items": 1, "source": "logged"}), schema.QUERIES
    )


def _events(events: Sequence[Event]) -> pl.DataFrame:
    row = pl.int_range(pl.len())
    table = pl.DataFrame(events, schema=["user_id", "item_id", "task", "query_id"], orient="row")
    table = table.with_columns(
        event_id=row,
        timestamp=row,
        time_kind=pl.lit("exact"),
        order_key=row,
        pair_id=row,
        group_id=pl.lit(-1),
        rating=None,
        split=pl.lit("train"),
        seq=row,
    )
    return _typed(table, schema.INTERACTIONS)


def _cases(asked: Sequence[Asked], histories: Mapping[int, Sequence[tuple[int, int]]]) -> pl.DataFrame:
    history = [[entry for entry in histories.get(user, []) if entry[0] != items[0]] for user, *_, items in asked]
    table = pl.DataFrame(
        {
            "case_id": np.arange(len(asked)) * 3 + 11,
            "user_id": [row[0] for row in asked],
            "task": [row[1] for row in asked],
            "query_id": [row[2] for row in asked],
            "target_item": [row[4][0] for row in asked],
            "split": [row[3] for row in asked],
            "order_key": 0,
            "hist_items": [[item for item, _ in entries] for entries in history],
            "hist_tasks": [[task for _, task in entries] for entries in history],
            **{name: [[0] * len(entries) for entries in history] for name in ("hist_queries", "hist_event_ids")},
        }
    )
    return _typed(table, schema.CASES)


def make_world(
    events: Sequence[Event],
    asked: Sequence[Asked],
    n_users: int,
    n_items: int,
    histories: Mapping[int, Sequence[tuple[int, int]]],
) -> EncoderWorld:
    """A world from training events, questions, and what each user did: (item, bitmask of tasks), oldest first.

    The target of a question is left out of its history; candidates are shuffled.
    """
    cases = _cases(asked, histories)
    shuffled = [np.random.default_rng(number).permutation(row[4]).tolist() for number, row in enumerate(asked)]
    lists = pl.DataFrame({"case_id": cases["case_id"], "items": shuffled, "positives": [[row[4][0]] for row in asked]})
    candidates = _typed(lists.with_columns(sampler=pl.lit("uniform"), seed=pl.lit(0)), schema.CANDIDATES)
    queries = _queries()
    test = (
        cases.filter(pl.col("split") == "test")
        .join(queries.select("query_id", query="text"), on="query_id", how="left")
        .with_columns(pl.col("query").fill_null(""))
        .join(candidates.select("case_id", "items"), on="case_id")
        .sort("case_id")
    )
    learned = cases.filter(pl.col("split") != "test")
    valid = learned.filter(pl.col("split") == "valid").select("case_id")
    data = TrainingData(
        items=_items(n_items),
        queries=queries,
        n_users=n_users,
        n_items=n_items,
        events=_events(events),
        cases=learned,
        valid_candidates=candidates.join(valid, on="case_id", how="semi"),
    )
    return EncoderWorld(data, test.select(QUESTION_COLUMNS), test["target_item"].to_numpy())


def taste_world(n_users: int = 30, n_items: int = 60, length: int = 8) -> EncoderWorld:
    """Users of three tastes walk along the items of their taste, 1, 4, 7, ..: the next item follows from the last.

    User 0 has only searches in training, the last item occurs nowhere, the one before it has no text; recommendation
    and search cases ask for the next items.
    """
    rng = seeds.stream(3, "taste world")
    events: list[Event] = []
    asked: list[Asked] = []
    histories: dict[int, list[tuple[int, int]]] = {}
    for user in range(n_users):
        walk = np.arange(user % 3 + 1, n_items, 3)
        others = np.setdiff1d(np.arange(1, n_items + 1), walk)
        start = int(rng.integers(len(walk)))
        path = np.roll(walk, -start)[: length + 4].tolist()
        task = "rec" if user else "src"
        events += [(user, item, task, 0 if user else user % 3 + 1) for item in path[:length]]
        events += [(user, item, "src", user % 3 + 1) for item in path[1:length:3]]
        histories[user] = [(item, 1 if user else 2) for item in path[:length]]
        for number, split in enumerate(("valid", "test")):
            negatives = rng.permutation(others)[:9].tolist()
            asked.append((user, "rec", 0, split, [path[length + number], *negatives]))
            asked.append((user, "src", user % 3 + 1, split, [path[length + 2 + number], *negatives]))
    asked += [(user, task, query, "train", [item]) for user, item, task, query in events]
    world = make_world(events, asked, n_users, n_items, histories)
    silent = pl.when(pl.col("item_id") == n_items - 1).then(pl.lit("")).otherwise(pl.col("text"))
    return replace(world, data=replace(world.data, items=world.data.items.with_columns(text=silent, title=silent)))


def shuffle_rows(data: TrainingData, seed: int = 1) -> TrainingData:
    """The same training data with the rows of every table in another order."""
    names = ("items", "queries", "events", "cases", "valid_candidates")
    return replace(data, **{name: getattr(data, name).sample(fraction=1.0, shuffle=True, seed=seed) for name in names})


@pytest.fixture(scope="session")
def world() -> EncoderWorld:
    """taste_world."""
    return taste_world()


@pytest.fixture(scope="session")
def reordered(world: EncoderWorld) -> TrainingData:
    """The training data of `world` with all rows in another order."""
    return shuffle_rows(world.data)


@pytest.fixture(scope="session")
def world_of() -> Callable[..., EncoderWorld]:
    """make_world."""
    return make_world


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

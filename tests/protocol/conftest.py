"""Small random worlds of canonical tables; everything is drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.canonical import RAW_ITEMS
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.released_log import ReleasedLog
from gemsbench.protocol.candidates import build_candidates
from gemsbench.protocol.histories import build_cases
from gemsbench.protocol.splits import split_interactions

SEED = 7
NEGATIVES = 20
LENGTH = 4


@dataclass(frozen=True)
class World:
    """Canonical tables of one small dataset (events: interactions without split)."""

    unit: Literal["pair", "task"]
    items: pl.DataFrame
    queries: pl.DataFrame
    users: pl.DataFrame
    events: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """All six tables, split, asked and given candidates."""
        interactions = split_interactions(self.events, self.unit, both_behaviours=True).interactions
        cases = build_cases(interactions, LENGTH)
        candidates = build_candidates(
            cases, interactions, self.users, self.items.height, seed=SEED, recipe="world", negatives=NEGATIVES
        )
        return {
            "items": self.items,
            "queries": self.queries,
            "users": self.users,
            "interactions": interactions,
            "cases": cases,
            "candidates": candidates,
        }

    def with_events(self, events: pl.DataFrame) -> World:
        """The same world with other events."""
        return replace(self, events=finish_events(events))


def finish_events(events: pl.DataFrame) -> pl.DataFrame:
    """Fill the derived columns of events given user_id, item_id, task, query_id, order_key, pair_id, group_id."""
    ordered = events.sort("user_id", "order_key", "group_id", "item_id", "task").with_columns(
        event_id=pl.int_range(pl.len(), dtype=pl.Int64),
        seq=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"),
        timestamp=pl.col("order_key"),
        time_kind=pl.lit("exact"),
        rating=pl.lit(None, dtype=pl.Float32),
    )
    wanted = {name: kind for name, kind in schema.INTERACTIONS.items() if name != "split"}
    return ordered.select(pl.col(name).cast(kind) for name, kind in wanted.items())


def make_world(
    unit: Literal["pair", "task"] = "pair",
    seed: int = 0,
    n_users: int = 40,
    n_items: int = 60,
    per_user: tuple[int, int] = (2, 14),
    late_searches: bool = False,
) -> World:
    """A world with time ties, twins (pair) or requests of several clicks (task), and users of very different length."""
    rng = np.random.default_rng(seed)
    n_queries = 12
    rows: list[dict[str, int | str]] = []
    for user in range(n_users):
        chosen = rng.permutation(n_items)[: int(rng.integers(*per_user))] + 1
        make = _purchases if unit == "pair" else _requests
        rows += make(rng, user, [int(item) for item in chosen], n_queries, len(rows), late_searches)
    events = finish_events(pl.DataFrame(rows))
    items = pl.DataFrame(
        {
            "item_id": np.arange(1, n_items + 1),
            "raw_id": [f"item{i}" for i in range(1, n_items + 1)],
            "title": [f"title {i}" for i in range(1, n_items + 1)],
            "description": "",
            "brand": "",
            "text": [f"text {i}" for i in range(1, n_items + 1)],
            "category_paths": [[["top", f"branch {i % n_queries}"]] for i in range(1, n_items + 1)],
            "query_ids": [[i % n_queries + 1] for i in range(1, n_items + 1)],
            "n_train": 0,
        },
    )
    queries = pl.DataFrame(
        {
            "query_id": np.arange(1, n_queries + 1),
            "text": [f"query {i}" for i in range(1, n_queries + 1)],
            "n_items": n_items // n_queries,
            "source": "synthetic",
        }
    )
    counted = events.group_by("user_id").agg(
        n_src=(pl.col("task") == "src").sum(), n_rec=(pl.col("task") == "rec").sum()
    )
    users = counted.sort("user_id").with_columns(raw_id=pl.format("user{}", "user_id"))
    tables = {"items": items, "queries": queries, "users": users}
    typed = {
        name: table.select(pl.col(column).cast(kind) for column, kind in schema.TABLES[name].items())
        for name, table in tables.items()
    }
    return World(unit, typed["items"], typed["queries"], typed["users"], events)


def _purchases(
    rng: np.random.Generator, user: int, items: list[int], n_queries: int, base: int, late_searches: bool
) -> list[dict[str, int | str]]:
    rows: list[dict[str, int | str]] = []
    for number, item in enumerate(items):
        key = int(rng.integers(0, 12))
        basket = user * 1000 + key if rng.random() < 0.5 else -1
        event = {"user_id": user, "item_id": item, "order_key": key, "pair_id": base + number, "group_id": basket}
        rows.append({**event, "task": "rec", "query_id": 0})
        if rng.random() < 0.8:
            later = int(rng.integers(0, 6)) if late_searches and rng.random() < 0.3 else 0
            query = int(rng.integers(1, n_queries + 1))
            rows.append({**event, "task": "src", "query_id": query, "order_key": key + later})
    return rows


def _requests(
    rng: np.random.Generator, user: int, items: list[int], n_queries: int, base: int, late_searches: bool
) -> list[dict[str, int | str]]:
    rows: list[dict[str, int | str]] = []
    for number in range(len(items)):
        task = "src" if rng.random() < 0.5 else "rec"
        query = int(rng.integers(1, n_queries + 1)) if task == "src" else 0
        key = int(rng.integers(0, 40))
        group = user * 1000 + number if rng.random() < 0.8 else -1
        clicked = rng.choice(items, size=min(len(items), int(rng.integers(1, 4))), replace=False)
        rows += [
            {
                "user_id": user,
                "item_id": int(item),
                "order_key": key,
                "pair_id": (base + number) * 8 + i,
                "group_id": group,
                "task": task,
                "query_id": query,
            }
            for i, item in enumerate(clicked)
        ]
    return rows


@dataclass(frozen=True)
class WorldSettings:
    """Size of the world that a recipe makes up."""

    n_users: int = 40
    n_items: int = 160


def make_recipe(unit: Literal["pair", "task"] = "pair", both_behaviours: bool = True) -> Recipe:
    """A recipe called `world` whose raw log is a made-up world."""

    def load(folder: Path, settings: Any) -> RawLog:
        made = make_world(unit, n_users=settings.n_users, n_items=settings.n_items, per_user=(4, 14))
        return raw_log(made)

    return Recipe(
        name="world",
        title="A made-up world",
        settings=WorldSettings,
        load=load,
        split_unit=unit,
        time_kind={"rec": "exact", "src": "exact"},
        licence="none",
        citation="none",
        both_behaviours=both_behaviours,
    )


def raw_log(world: World) -> RawLog:
    """The world as a loader would return it: purchases, and searches where they were logged."""
    text = world.queries.select("query_id", query="text")
    events = world.events.join(text, on="query_id", how="left", maintain_order="left")
    events = events.filter((pl.col("task") == "rec") | (world.unit == "task")).select(
        user=pl.format("user{}", "user_id"),
        item=pl.format("item{}", "item_id"),
        task=pl.col("task").cast(pl.String),
        query=pl.col("query").fill_null(""),
        query_source=pl.when(pl.col("task") == "src").then(pl.lit("logged")).otherwise(pl.lit("")),
        timestamp="order_key",
        pair=pl.format("pair{}", "pair_id"),
        group=pl.when(pl.col("group_id") < 0).then(pl.lit("")).otherwise(pl.format("group{}", "group_id")),
        rating="rating",
        position=pl.lit(0, dtype=pl.Int32),
    )
    shown = ["raw_id", "title", "description", "brand", "text", "category_paths"]
    made = pl.concat_list(pl.format("branch {}", pl.col("item_id") % 12))
    queries = made if world.unit == "pair" else pl.lit([], dtype=pl.List(pl.String))
    items = world.items.select(*shown, queries=queries)
    return RawLog(events, items, {"purchases": events.height})


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """make_world as a fixture."""
    return make_world


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """make_recipe as a fixture."""
    return make_recipe


@pytest.fixture(params=["pair", "task"])
def unit(request: pytest.FixtureRequest) -> Literal["pair", "task"]:
    """Both split units."""
    unit: Literal["pair", "task"] = request.param
    return unit


def _raw_of(entry: str) -> str:
    return entry.removeprefix("str ")


def make_released_log(seed: int = 0, users: int = 12, notes: int = 80, typed: bool = True) -> ReleasedLog:
    """Examples of a small made-up service; with `typed`, histories name a note by another entry than targets do."""
    rng = np.random.default_rng(seed)
    examples: list[dict[str, Any]] = []
    for user in range(users):
        for task in ("rec", "src"):
            for split, rows in (("train", 3), ("valid", 2), ("test", 1)):
                for row in range(rows):
                    n_targets = 1 if split != "test" else int(rng.integers(0, 4))
                    # Test reaches the most notes, train the fewest: each split has entries of its own.
                    reach = {"train": notes - 30, "valid": notes - 10, "test": notes}[split]
                    shown = rng.choice(reach, size=int(rng.integers(0, 7)), replace=False)
                    clicked = rng.choice(reach, size=n_targets, replace=False)
                    examples.append(
                        {
                            "task": task,
                            "split": split,
                            "user": f"u{user}",
                            "query": f"find {row % 2}" if task == "src" else "",
                            "timestamp": {"train": 100 + row, "valid": 200, "test": 300}[split],
                            "targets": [f"n{note}" for note in clicked],
                            "history": [f"{'str ' if typed else ''}n{note}" for note in shown],
                            "history_tasks": [3] * len(shown),
                        }
                    )
    return released_log_of(examples)


def released_log_of(examples: list[dict[str, Any]]) -> ReleasedLog:
    """A log whose corpus is what its examples name."""
    first: dict[str, str] = {}
    for split in schema.SPLITS:
        for row in examples:
            if row["split"] == split:
                for entry in [*row["targets"], *row["history"]]:
                    first.setdefault(entry, split)
    corpus = pl.DataFrame(
        {"entry": list(first), "raw_id": [_raw_of(e) for e in first], "split": list(first.values())},
        schema={"entry": pl.String, "raw_id": pl.String, "split": pl.String},
    )
    raw_ids = sorted({_raw_of(entry) for entry in first})
    items = [
        {"raw_id": raw, "title": f"about {raw}", "text": raw, "description": "", "brand": "", "category_paths": []}
        | {"queries": ["find 1"] if raw.endswith("1") else []}
        for raw in raw_ids
    ]
    return ReleasedLog(
        example_frame(examples), corpus, pl.DataFrame(items, schema=RAW_ITEMS), {"clicks": len(examples)}
    )


def example_frame(examples: list[dict[str, Any]]) -> pl.DataFrame:
    kinds = {"targets": pl.List(pl.String), "history": pl.List(pl.String), "history_tasks": pl.List(pl.Int8)}
    return pl.DataFrame(examples, schema_overrides=kinds)


@pytest.fixture(scope="session")
def make_log() -> Callable[..., ReleasedLog]:
    """make_released_log, as a fixture."""
    return make_released_log


@pytest.fixture(scope="session")
def log_of() -> Callable[..., ReleasedLog]:
    """released_log_of, as a fixture."""
    return released_log_of


@pytest.fixture
def released_recipe() -> Recipe:
    """A released recipe whose loader gives make_released_log()."""
    return Recipe(
        name="made-up-reference",
        title="",
        settings=object,
        load=lambda folder, settings: make_released_log(),
        split_unit="task",
        time_kind={"rec": "exact", "src": "exact"},
        licence="",
        citation="",
        released=True,
    )

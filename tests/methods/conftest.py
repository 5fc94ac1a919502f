"""Small worlds for the methods: training data as a pack gives it, questions without answers, and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import gemsbench
from gemsbench import seeds
from gemsbench.backbones.catalogue import QwenMiniSettings, T5MiniSettings
from gemsbench.backbones.loading import load_backbone, save_backbone
from gemsbench.backbones.stand_ins import build_stand_in
from gemsbench.data import schema
from gemsbench.evaluation.metrics import hit, rank_positives
from gemsbench.evaluation.ragged import flatten
from gemsbench.files import read_table, sha256_file, table_sha256, write_json, write_table
from gemsbench.identifiers.atomic import atomic_codes
from gemsbench.identifiers.codes import ItemCodes
from gemsbench.optim import KnowledgeBasis
from gemsbench.protocol.pack import FORMAT_VERSION, QUESTION_COLUMNS, TrainingData
from gemsbench.protocol.prompts import prompt_text

N_QUERIES = 6


@dataclass(frozen=True)
class World:
    """Canonical tables of one made-up dataset."""

    items: pl.DataFrame
    queries: pl.DataFrame
    events: pl.DataFrame
    cases: pl.DataFrame
    candidates: pl.DataFrame
    n_users: int

    @property
    def data(self) -> TrainingData:
        """What a method is fitted on."""
        cases = self.cases.filter(pl.col("split") != "test")
        asked = cases.filter(pl.col("split") == "valid")
        return TrainingData(
            items=self.items,
            queries=self.queries,
            n_users=self.n_users,
            n_items=self.items.height,
            events=self.events,
            cases=cases,
            valid_candidates=self.candidates.join(asked.select("case_id"), on="case_id", how="semi"),
        )

    def questions(self, *tasks: str, split: str = "test") -> pl.DataFrame:
        """The questions of a split, in case_id order."""
        wanted = (pl.col("split") == split) & pl.col("task").is_in(tasks or schema.TASKS)
        return (
            self.cases.filter(wanted)
            .join(self.queries.select("query_id", query="text"), on="query_id", how="left")
            .with_columns(pl.col("query").fill_null(""))
            .join(self.candidates.select("case_id", "items"), on="case_id")
            .sort("case_id")
            .select(QUESTION_COLUMNS)
        )

    def hit_rate(self, scores: Sequence[np.ndarray], questions: pl.DataFrame, k: int = 10) -> float:
        """Hit@k of scores against the answers."""
        lists = questions.join(self.candidates.select("case_id", "positives"), on="case_id")
        items, offsets = flatten(lists["items"])
        targets = np.repeat(lists["positives"].list.first().to_numpy(), np.diff(offsets))
        return float(hit(rank_positives(np.concatenate(scores), offsets, items == targets).best, k).mean())

    def write_pack(self, folder: Path) -> Path:
        """Write the tables as a prepared recipe that load_pack reads."""
        users = pl.DataFrame({"user_id": np.arange(self.n_users), "raw_id": "", "n_src": 0, "n_rec": 0})
        tables = {"items": self.items, "queries": self.queries, "users": users, "interactions": self.events}
        tables |= {"cases": self.cases, "candidates": self.candidates}
        for name, columns in schema.TABLES.items():
            write_table(folder / f"{name}.parquet", tables[name].select(pl.col(c).cast(t) for c, t in columns.items()))
        files = {f"{name}.parquet": sha256_file(folder / f"{name}.parquet") for name in tables}
        stats = {"recipe": "world", "fingerprint": "f" * 64, "n_users": self.n_users, "format_version": FORMAT_VERSION}
        learned = read_table(folder / "interactions.parquet").filter(pl.col("split") == "train")
        write_json(folder / "stats.json", {**stats, "train_events": table_sha256(learned), "files": files})
        return folder


def _items(n_items: int) -> pl.DataFrame:
    number = np.arange(1, n_items + 1)
    words = ["red kettle", "blue lamp", "绿色茶杯", "Large LAMP, blue", "kettle for tea", ""]
    table = pl.DataFrame(
        {
            "item_id": number,
            "raw_id": [f"i{n}" for n in number],
            "title": [f"{words[n % len(words)]} {n % 7}" if words[n % len(words)] else "" for n in number],
            "description": [words[n % 4] for n in number],
            "brand": "",
            "text": "text",
            "category_paths": [[["top", f"branch {n % N_QUERIES}"]] for n in number],
            "query_ids": [[int(n % N_QUERIES) + 1] for n in number],
            "n_train": 0,
        }
    )
    return table.select(pl.col(column).cast(kind) for column, kind in schema.ITEMS.items())


def _queries() -> pl.DataFrame:
    texts = ["blue lamp", "茶杯", "kettle", "tea kettle red", "zebra", "lamp 3"]
    table = pl.DataFrame({"query_id": np.arange(1, N_QUERIES + 1), "text": texts, "n_items": 1, "source": "logged"})
    return table.select(pl.col(column).cast(kind) for column, kind in schema.QUERIES.items())


def events_of(pairs: Sequence[tuple[int, int, str, int]]) -> pl.DataFrame:
    """Training events from (user, item, task, query)."""
    table = pl.DataFrame(pairs, schema=["user_id", "item_id", "task", "query_id"], orient="row")
    row = pl.int_range(pl.len())
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
    return table.select(pl.col(column).cast(kind) for column, kind in schema.INTERACTIONS.items())


def lists_of(
    rows: Sequence[tuple[int, str, int, str, list[int]]], histories: Mapping[int, list[int]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cases and candidates from (user, task, query, split, items with the positive first); lists are shuffled.

    histories: user -> items, oldest first; every second one was found by a search. The target is left out.
    """
    history = [[item for item in histories.get(row[0], []) if item != row[4][0]] for row in rows]
    shuffled = [np.random.default_rng(n).permutation(row[4]).tolist() for n, row in enumerate(rows)]
    case_ids = np.arange(len(rows)) * 3 + 11
    cases = pl.DataFrame(
        {
            "case_id": case_ids,
            "user_id": [row[0] for row in rows],
            "task": [row[1] for row in rows],
            "query_id": [row[2] for row in rows],
            "target_item": [row[4][0] for row in rows],
            "split": [row[3] for row in rows],
            "order_key": 0,
            "hist_items": history,
            "hist_tasks": [[1 + place % 2 for place in range(len(items))] for items in history],
            **{name: [[0] * len(items) for items in history] for name in ("hist_queries", "hist_event_ids")},
        }
    )
    candidates = pl.DataFrame(
        {
            "case_id": case_ids,
            "items": shuffled,
            "positives": [[row[4][0]] for row in rows],
            "sampler": "uniform",
            "seed": 0,
        }
    )
    typed = (
        (cases, schema.CASES),
        (candidates, schema.CANDIDATES),
    )
    first, second = (table.select(pl.col(c).cast(t) for c, t in kind.items()) for table, kind in typed)
    return first, second


def world_of(
    pairs: Sequence[tuple[int, int, str, int]],
    lists: Sequence[tuple[int, str, int, str, list[int]]],
    n_users: int,
    n_items: int,
    histories: Mapping[int, list[int]] | None = None,
) -> World:
    """A world from training events and candidate lists."""
    cases, candidates = lists_of(lists, histories or {})
    return World(_items(n_items), _queries(), events_of(pairs), cases, candidates, n_users)


def small_world(n_users: int = 30, n_items: int = 120, candidates: int = 20) -> World:
    """Both tasks, three tastes, one user without any recommendation event, one item never met, lists of two lengths."""
    rng = seeds.stream(5, "small world")
    pairs: list[tuple[int, int, str, int]] = []
    lists: list[tuple[int, str, int, str, list[int]]] = []
    for user in range(n_users):
        taste = np.arange(user % 3 + 1, n_items, 3)  # leaves out item n_items
        mine = rng.permutation(taste)
        others = rng.permutation(np.setdiff1d(np.arange(1, n_items + 1), mine))
        if user:
            pairs += [(user, int(item), "rec", 0) for item in mine[:12]]
        pairs += [(user, int(item), "src", int(item % N_QUERIES) + 1) for item in mine[6:16]]
        for number, split in enumerate(("valid", "test")):
            for task in schema.TASKS:
                target = int(mine[16 + number])
                size = candidates - 1 if user % 4 else candidates // 2
                query = target % N_QUERIES + 1 if task == "src" else 0
                lists.append((user, task, query, split, [target, *others[:size].tolist()]))
    lists += [(user, task, query, "train", [item]) for user, item, task, query in pairs]
    histories = {user: [item for owner, item, _, _ in pairs if owner == user][-4:] for user in range(n_users)}
    return world_of(pairs, lists, n_users, n_items, histories)


def block_world(n_users: int = 60, group: int = 110, shuffled: bool = False) -> World:
    """Two groups of users, each with an item group of its own; a few edges are hidden and asked for.

    Candidates are one hidden edge and 99 items of the other group. shuffled: the items of all training events are
    permuted, so that nothing can be learned.
    """
    rng = seeds.stream(9, "block world")
    pairs, lists = [], []
    for user in range(n_users):
        mine = rng.permutation(group) + 1 + group * (user % 2)
        others = np.arange(group) + 1 + group * (1 - user % 2)
        pairs += [(user, int(item), "rec", 0) for item in mine[12:]]
        for number, hidden in enumerate(mine[:12]):
            negatives = rng.permutation(others)[:99].tolist()
            lists.append((user, "rec", 0, "valid" if number < 2 else "test", [int(hidden), *negatives]))
    if shuffled:
        items = rng.permutation([item for _, item, _, _ in pairs])
        pairs = [(pair[0], int(item), "rec", 0) for pair, item in zip(pairs, items, strict=True)]
    return world_of(pairs, lists, n_users, 2 * group)


def shuffle_rows(data: TrainingData, seed: int = 1) -> TrainingData:
    """The same training data with the rows of every table in another order."""
    names = ("items", "queries", "events", "cases", "valid_candidates")
    return replace(data, **{name: getattr(data, name).sample(fraction=1.0, shuffle=True, seed=seed) for name in names})


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of tiny untrained models of the real classes, by kind."""
    root = tmp_path_factory.mktemp("backbones")
    lines = [prompt_text(task, [("kettle", 1), ("lamp", 2)], "blue lamp for tea") for task in schema.TASKS] * 4
    sizes: dict[str, T5MiniSettings | QwenMiniSettings] = {
        "t5": T5MiniSettings(vocabulary=300, width=16, feed_forward=16, layers=1, heads=2),
        "qwen2": QwenMiniSettings(vocabulary=300, width=16, feed_forward=16, layers=1, heads=2, kv_heads=1),
    }
    for kind, settings in sizes.items():
        save_backbone(build_stand_in(settings, lines, seed=1), root / kind)
    return {kind: root / kind for kind in sizes}


@pytest.fixture(scope="session")
def bases(backbones: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of knowledge bases of the backbones, by kind ("t5": of inputs, "t5-output"), from random text."""
    root = tmp_path_factory.mktemp("bases")
    for kind, folder in backbones.items():
        backbone = load_backbone(folder)
        rows = backbone.model.config.vocab_size
        texts = torch.randint(5, rows, (4, 8, 12), generator=torch.Generator().manual_seed(0))
        batches = [{"input_ids": ids, **({"decoder_input_ids": ids[:, :6]} if kind == "t5" else {})} for ids in texts]
        KnowledgeBasis.collect(backbone.model, batches).save(root / f"{kind}.safetensors")
        KnowledgeBasis.collect(backbone.model, batches, side="output").save(root / f"{kind}-output.safetensors")
    return {path.stem: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def identifiers(world: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of code tables of the items of `world`: "atomic", and "semantic" of three levels and one that numbers."""
    root = tmp_path_factory.mktemp("identifiers")
    number = np.arange(world.items.height)
    levels = np.stack([number % 3, number // 3 % 4, number // 12 % 5, number // 60], axis=1).astype(np.int32)
    semantic = np.concatenate([np.full((1, 4), -1, np.int32), levels])
    atomic_codes(world.items).save(root / "atomic")
    ItemCodes("semantic", semantic, tuple(int(size) + 1 for size in levels.max(axis=0))).save(root / "semantic")
    return {name: root / name for name in ("atomic", "semantic")}


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """world_of, for tests that plant a world of their own."""
    return world_of


@pytest.fixture(scope="session")
def world() -> World:
    """small_world."""
    return small_world()


@pytest.fixture(scope="session")
def blocks() -> World:
    """block_world."""
    return block_world()


@pytest.fixture(scope="session")
def shuffled_blocks() -> World:
    """block_world without anything to learn."""
    return block_world(shuffled=True)


@pytest.fixture(scope="session")
def reordered(world: World) -> TrainingData:
    """The training data of `world` with all rows in another order."""
    return shuffle_rows(world.data)


@pytest.fixture(scope="session")
def subprocess_environment() -> Callable[[], dict[str, str]]:
    """The environment of a fresh process in which this very package is importable."""

    def environment() -> dict[str, str]:
        source = str(Path(gemsbench.__file__).parents[1])
        return {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}

    return environment

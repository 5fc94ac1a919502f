"""The simulated raw files: true formats, oddities, the same bytes again, and something to learn in them."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.config import load_settings
from gemsbench.data import amazon, qilin
from gemsbench.data.fetch import fetch
from gemsbench.data.kcore import k_core
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.simulation import qilin_files
from gemsbench.data.simulation.raw_ids import asins, reviewer_ids
from gemsbench.data.simulation.request_world import RequestWorldSettings
from gemsbench.data.simulation.world import WorldSettings
from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file
from gemsbench.protocol.prepare import prepare
from gemsbench.seeds import stream

SEED = 2026
RECIPES = (amazon.SIMULATED, qilin.SIMULATED)
SMALL = {
    "simulated-amazon": amazon.SimulatedAmazonSettings(
        world=WorldSettings(users=50, items=60, listed_items=80, topics=8)
    ),
    "simulated-qilin": qilin.SimulatedQilinSettings(world=RequestWorldSettings(users=50, notes=120, topics=8)),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """The raw files of a recipe in its default size, written once."""
    written: dict[str, Path] = {}

    def write(recipe: Recipe) -> Path:
        if recipe.name not in written:
            written[recipe.name] = tmp_path_factory.mktemp(recipe.name)
            assert recipe.simulate is not None
            recipe.simulate(written[recipe.name], recipe.settings(), SEED)
        return written[recipe.name]

    return write


@pytest.fixture(scope="module")
def log_of(folder_of: Callable[[Recipe], Path]) -> Callable[[Recipe], RawLog]:
    return lambda recipe: recipe.load(folder_of(recipe), recipe.settings())


def raw_lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_bytes_depend_on_settings_and_seed_only(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.simulate is not None

    def hashes(name: str, seed: int) -> dict[str, str]:
        (tmp_path / name).mkdir()
        recipe.simulate(tmp_path / name, SMALL[recipe.name], seed)
        return {path.name: sha256_file(path) for path in (tmp_path / name).iterdir()}

    first = hashes("a", SEED)
    assert first == hashes("b", SEED)
    other = hashes("c", SEED + 1)
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_fifty_users_are_enough(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.simulate is not None
    recipe.simulate(tmp_path, SMALL[recipe.name], SEED)
    log = recipe.load(tmp_path, SMALL[recipe.name])
    assert 15 <= log.events["user"].n_unique() <= 50


def test_sizes_of_the_default_profile(log_of: Callable[[Recipe], RawLog]) -> None:
    log = log_of(amazon.SIMULATED)
    assert 650 <= log.counts["users"] <= 750
    assert 450 <= log.counts["items"] <= 550
    assert log.counts["metadata_lines"] == 660
    assert log.skipped == ()


def test_settings_come_from_a_profile_and_must_make_sense(tmp_path: Path) -> None:
    settings = load_settings(amazon.SimulatedAmazonSettings, {"world": {"users": 60, "topics": 9_999}}, "profile.yaml")
    assert settings.world.users == 60
    with pytest.raises(InputError, match="items at least the number of topics"):
        amazon.simulate(tmp_path, settings, SEED)
    with pytest.raises(InputError, match="topics is 961, must be 1 to 960"):
        amazon.simulate(tmp_path, amazon.SimulatedAmazonSettings(world=WorldSettings(items=2_000, topics=961)), SEED)


# Amazon


def test_reviews_have_the_published_fields_and_are_a_5_core(folder_of: Callable[[Recipe], Path]) -> None:
    lines = raw_lines(folder_of(amazon.SIMULATED) / "reviews_Simulated_5.json.gz")
    records = [json.loads(line) for line in lines]
    published = "reviewerID asin reviewerName helpful reviewText overall summary unixReviewTime reviewTime"
    assert list(records[0]) == published.split()
    assert all(record["unixReviewTime"] % 86_400 == 0 for record in records)
    table = pl.DataFrame({"user": [r["reviewerID"] for r in records], "item": [r["asin"] for r in records]})
    assert table.is_unique().all()
    assert k_core(table, 5).height == table.height
    header = (folder_of(amazon.SIMULATED) / "reviews_Simulated_5.json.gz").read_bytes()[3:8]
    assert header == bytes(5)  # no file name and no time, so that the bytes can be the same tomorrow
    assert {record["overall"] for record in records} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_metadata_has_the_oddities_of_the_real_file(folder_of: Callable[[Recipe], Path]) -> None:
    lines = raw_lines(folder_of(amazon.SIMULATED) / "meta_Simulated.json.gz")
    records = [ast.literal_eval(line) for line in lines]
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[0])
    fields = {"asin", "description", "title", "price", "imUrl", "related", "salesRank", "brand", "categories"}
    assert set().union(*records) == fields
    for name in fields - {"asin", "imUrl"}:
        assert 0 < sum(name not in record for record in records) < len(records) / 2
    paths = [record.get("categories", []) for record in records]
    assert all(path[0] == "Electronics" for several in paths for path in several)
    assert sum(len(several) > 1 for several in paths) > len(records) * 0.05
    assert any(several == [["Electronics"]] for several in paths)
    text = "\n".join(lines)
    assert all(mark in text for mark in ("&amp;", "&#39;", "<br />", "\\xae", "\\t", "owner's"))
    assert len({record["asin"] for record in records}) == len(records)
    assert any(record["asin"].isdigit() for record in records)


def test_days_tie_and_the_loader_cleans_the_texts(log_of: Callable[[Recipe], RawLog]) -> None:
    log = log_of(amazon.SIMULATED)
    tied = log.events.select((pl.len().over("user", "timestamp") > 1).mean()).item()
    assert 0.3 < tied < 0.8
    assert log.items.filter(pl.col("text").str.contains(r"&(amp|#)|</?[a-z]|\p{Cc}")).height == 0
    assert log.items["queries"].list.len().value_counts().height >= 3  # none, one and several


def hits_at_5(log: RawLog, candidate_scores: Callable[[np.ndarray, np.ndarray], np.ndarray], task: str) -> float:
    """Leave the last event of each user out; the share of cases in which it is among the best 5 of 100 items."""
    events = log.events.filter(pl.col("task") == task).sort("user", "timestamp", "position", "item")
    user = (events["user"].rank("dense").to_numpy() - 1).astype(int)
    places = {raw: place for place, raw in enumerate(log.items["raw_id"])}
    item = np.array([places[raw] for raw in events["item"]])
    last = np.append(user[1:] != user[:-1], True)
    train = np.zeros((user.max() + 1, len(places)), dtype=np.float32)
    train[user[~last], item[~last]] = 1
    scores = candidate_scores(train, item[last])
    rng, hits = stream(SEED, "negatives"), []
    for place, target in enumerate(item[last]):
        if train[place, target]:
            continue
        free = np.flatnonzero(train[place] == 0)
        others = rng.choice(free[free != target], size=99, replace=False)
        hits.append((scores[place, others] >= scores[place, target]).sum() < 5)
    return float(np.mean(hits))


def by_popularity(train: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.broadcast_to(train.sum(axis=0), train.shape)


def by_neighbours(train: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Rank-24 approximation of the purchases: users with common items recommend to each other."""
    weighted = train / np.sqrt(np.maximum(train.sum(axis=0), 1))
    right = np.linalg.svd(weighted, full_matrices=False)[2][:24]
    return weighted @ right.T @ right


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_taste_beats_popularity_and_popularity_beats_chance(log_of: Callable[[Recipe], RawLog], recipe: Recipe) -> None:
    log = log_of(recipe)
    popularity, neighbours = (hits_at_5(log, by, "rec") for by in (by_popularity, by_neighbours))
    assert 0.08 < popularity < 0.3  # chance is 0.05
    assert popularity + 0.1 < neighbours < 0.8


def share_of_query_words(text: str, query: str) -> float:
    words = query.split()
    return sum(word in text.lower() for word in words) / len(words)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_texts_help_search_but_do_not_settle_it(log_of: Callable[[Recipe], RawLog], recipe: Recipe) -> None:
    log = log_of(recipe)
    texts = dict(log.items.select("raw_id", "text").rows())
    if recipe.split_unit == "pair":
        asked = [(raw, queries[0]) for raw, queries in log.items.select("raw_id", "queries").rows() if queries]
    else:
        asked = log.events.filter(pl.col("task") == "src").select("item", "query").rows()
    own = [share_of_query_words(texts[raw], query) for raw, query in asked]
    strangers = stream(SEED, "strangers").permutation(list(texts.values()))[: len(asked)]
    other = [share_of_query_words(text, query) for text, (_, query) in zip(strangers, asked, strict=False)]
    assert np.mean(own) > np.mean(other) + 0.2
    assert np.mean([share < 0.99 for share in own]) > 0.2


# Qilin


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def test_request_tables_have_the_columns_of_the_hub(folder_of: Callable[[Recipe], Path]) -> None:
    folder = folder_of(qilin.SIMULATED)
    shared = {"session_idx", "user_idx", "query", "recent_clicked_note_idxs"}
    search = shared | {"search_idx", "query_from_type", "dpr_results", "search_result_details_with_idx"}
    recommended = shared | {"request_idx", "rec_result_details_with_idx"}
    assert set(read(folder, "search_train").columns) == search
    assert set(read(folder, "search_test").columns) == search | {"bm25_results", "search_results"}
    assert set(read(folder, "recommendation_train").columns) == recommended
    assert set(read(folder, "recommendation_test").columns) == recommended | {
        "bm25_results",
        "dpr_results",
        "rec_results",
    }
    notes = read(folder, "notes")
    assert notes["note_idx"].to_list() == list(range(notes.height))
    assert 0 < notes["note_title"].null_count() < notes.height / 5


def results(table: pl.DataFrame, column: str) -> pl.DataFrame:
    return table.with_row_index("row").select("row", column).explode(column).unnest(column)


def test_requests_have_none_one_or_several_clicks(folder_of: Callable[[Recipe], Path]) -> None:
    shown = results(read(folder_of(qilin.SIMULATED), "search_train"), "search_result_details_with_idx")
    clicks = shown.group_by("row").agg(pl.col("click").sum(), pl.col("search_timestamp").n_unique().alias("times"))
    assert {0, 1, 2, 3} <= set(clicks["click"])
    assert (clicks["click"] > 0).mean() > 0.9
    assert set(clicks["times"]) == {1}
    assert shown["page_time"].is_nan().any()
    assert (shown["page_time"] < 0).any()
    tested = results(read(folder_of(qilin.SIMULATED), "search_test"), "search_result_details_with_idx")
    assert tested.group_by("row").agg(pl.col("click").sum())["click"].min() == 1


def test_recent_clicks_are_the_clicks_before_the_request(folder_of: Callable[[Recipe], Path]) -> None:
    """Newest first, both tasks, at most 20: rebuilt here from the results, user by user."""
    folder, requests = folder_of(qilin.SIMULATED), []
    for kind, name, time in (("search", "search", "search"), ("recommendation", "rec", "request")):
        column = f"{name}_result_details_with_idx"
        for part in ("train", "test"):
            for row in read(folder, f"{kind}_{part}").iter_rows(named=True):
                clicked = [result["note_idx"] for result in row[column] if result["click"]]
                when = row[column][0][f"{time}_timestamp"]
                requests.append((row["user_idx"], when, clicked, row["recent_clicked_note_idxs"]))
    before: dict[int, list[int]] = {}
    longest = 0
    for user, _, clicked, recent in sorted(requests, key=lambda request: request[:2]):
        assert recent == before.setdefault(user, [])[-20:][::-1]
        longest = max(longest, len(recent))
        before[user] += clicked
    assert longest == 20


def test_a_few_percent_are_chinese(log_of: Callable[[Recipe], RawLog]) -> None:
    log = log_of(qilin.SIMULATED)
    queries = log.events.filter(pl.col("task") == "src")["query"]
    for texts in (queries, log.items["text"]):
        assert 0.01 < texts.str.contains(r"\p{Han}").mean() < 0.1


def test_most_users_have_both_behaviours_with_enough_requests(log_of: Callable[[Recipe], RawLog]) -> None:
    requests = log_of(qilin.SIMULATED).events.group_by("user", "task").agg(pl.col("group").n_unique())
    assert (requests["group"] >= 3).mean() > 0.8  # three requests with a click: the others have some without
    assert (requests.group_by("user").len()["len"] == 2).mean() > 0.95


def test_notes_made_in_parts_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qilin_files, "_SHARD", 50)
    qilin.simulate(tmp_path, SMALL["simulated-qilin"], SEED)
    assert {path.name for path in tmp_path.iterdir()} == set(qilin.SIMULATED.simulated_files)
    assert pl.read_parquet(tmp_path / "notes.parquet")["note_idx"].to_list() == list(range(120))
    log = qilin.load(tmp_path, SMALL["simulated-qilin"])
    assert log.counts["items with a row in notes"] == log.counts["items"]


@pytest.mark.parametrize("make", [asins, reviewer_ids])
def test_ids_are_distinct_and_of_one_width(make: Callable[[Any], pl.Series]) -> None:
    ids = make(np.arange(300_000))
    assert ids.n_unique() == 300_000
    assert ids.str.len_chars().n_unique() == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("users", [50, 120])
def test_the_number_of_users_alone_makes_a_world_of_any_size(recipe: Recipe, users: int, tmp_path: Path) -> None:
    settings = recipe.settings()
    settings = replace(settings, world=replace(settings.world, users=users))
    folder = fetch(recipe, settings, SEED, tmp_path, quiet=True)
    prepare(recipe, settings, folder, tmp_path / "out", seed=SEED, history_length=5)
    stats = read_json(tmp_path / "out" / "stats.json")
    assert 0.3 * users <= stats["users"] <= users  # the filters of Qilin keep about two in five
    assert stats["cases"]["rec"]["test"] > 0 < stats["cases"]["src"]["test"]

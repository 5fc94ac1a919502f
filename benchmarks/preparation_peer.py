"""The plain way to prepare Amazon Electronics: pandas, ast.literal_eval and a loop over users; nothing is checked.

Same rules and outputs as the recipe electronics-2014: first reviews, 5-core, queries from category paths, leave-one-out
by purchase, strictly earlier histories, the case rules, 99 negatives. Hash draws and the wording of queries are the
package's own functions, so that counts must be equal. Run by preparation.py.
"""

from __future__ import annotations

import ast
import bisect
import gzip
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gemsbench.data.item_text import clean_name
from gemsbench.data.queries import path_query
from gemsbench.seeds import hash64, mix64, stream_seed

CORE, HISTORY, LEAST, SHARE, NEGATIVES = 5, 20, 5, 0.3, 99


def read_purchases(path: Path) -> pd.DataFrame:
    names = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "time"}
    parts = pd.read_json(path, lines=True, chunksize=200_000)
    purchases = pd.concat([part[list(names)].rename(columns=names) for part in parts])
    purchases = purchases.sort_values(["user", "item", "time", "rating"]).drop_duplicates(["user", "item"])
    while True:
        users, items = purchases["user"].value_counts(), purchases["item"].value_counts()
        kept = purchases[purchases["user"].map(users).ge(CORE) & purchases["item"].map(items).ge(CORE)]
        if len(kept) == len(purchases):
            return kept
        purchases = kept


def read_products(path: Path, wanted: set[str]) -> pd.DataFrame:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [record for record in map(ast.literal_eval, lines) if record["asin"] in wanted]
    return pd.DataFrame([product(record) for record in records], columns=["item", "text", "queries"])


def product(record: dict[str, Any]) -> tuple[str, str, list[str]]:
    text = " ".join(clean_name(record.get(name, "")) for name in ("title", "description", "brand"))
    paths = [[clean_name(level) for level in path if clean_name(level)] for path in record.get("categories", [])]
    return record["asin"], text, sorted({query for path in paths if (query := path_query(path))})


def with_queries(purchases: pd.DataFrame, products: pd.DataFrame, seed: int, name: str) -> pd.DataFrame:
    """Purchases ordered by user, day and draw, with the query of the search made from each, or ""."""
    table = purchases.merge(products[["item", "queries"]], on="item", how="left")
    user = table["user"].map({user: hash64(user) for user in table["user"].unique()})
    item = table["item"].map({item: hash64(item) for item in table["item"].unique()})
    salt = stream_seed(seed, name, "events")
    table["draw"] = mix64(salt, user.to_numpy(dtype=np.uint64), item.to_numpy(dtype=np.uint64))
    table["query"] = [
        queries[draw % len(queries)] if isinstance(queries, list) and queries else ""
        for queries, draw in zip(table["queries"], table["draw"].tolist(), strict=True)
    ]
    searched = table.groupby("user")["query"].transform(lambda queries: (queries != "").any())
    return table[searched].sort_values(["user", "time", "draw"])[["user", "item", "time", "query"]]


def cases_of(user: str, bought: pd.DataFrame, rng: random.Random) -> list[tuple[Any, ...]]:
    """Rows of user, task, query, target, split, history (items, tasks, queries)."""
    n = len(bought)
    asked = n >= 3 and (bought["query"].iloc[:-2] != "").any()
    splits = ["train"] * (n - 2) + ["valid", "test"] if asked else ["train"] * n
    items, days, queries = bought["item"].tolist(), bought["time"].tolist(), bought["query"].tolist()
    tasks = [3 if query else 1 for query in queries]
    train, cases = [], []
    for item, day, query, split in zip(items, days, queries, splits, strict=True):
        allowed = n if not asked else n - 1 if split == "test" else n - 2
        end = min(bisect.bisect_left(days, day), allowed)
        part = slice(max(end - HISTORY, 0), end)
        if sum(2 if task == 3 else 1 for task in tasks[part]) < LEAST:
            continue
        for task in ("rec", "src") if query else ("rec",):
            asking = query if task == "src" else ""
            row = (user, task, asking, item, split, items[part], tasks[part], queries[part])
            (train if split == "train" else cases).append(row)
    if train:
        last = max(number for number, row in enumerate(train) if row[1] == "rec")
        others = [*train[:last], *train[last + 1 :]]
        cases += [train[last], *rng.sample(others, round(SHARE * len(others)))]
    return cases


def negatives_of(touched: set[str], items: list[str], rng: random.Random) -> list[str]:
    drawn = [item for item in rng.sample(items, NEGATIVES + len(touched)) if item not in touched]
    return drawn[:NEGATIVES]


def prepare(folder: Path, out: Path, seed: int, name: str) -> dict[str, Any]:
    """Write cases, candidates and products to out; return counts and the seconds of each step."""
    rng = random.Random(seed)
    clock = [time.perf_counter()]
    purchases = read_purchases(next(folder.glob("reviews_*.json.gz")))
    clock.append(time.perf_counter())
    items = sorted(purchases["item"].unique())
    products = read_products(next(folder.glob("meta_*.json.gz")), set(items))
    clock.append(time.perf_counter())
    people = with_queries(purchases, products, seed, name)
    rows = [row for user, bought in people.groupby("user") for row in cases_of(user, bought, rng)]
    columns = ["user", "task", "query", "target", "split", "hist_items", "hist_tasks", "hist_queries"]
    cases = pd.DataFrame(rows, columns=columns)
    clock.append(time.perf_counter())
    asked = cases[cases["split"] != "train"]
    touched = people.groupby("user")["item"].agg(set)
    lists = []
    for user, target in zip(asked["user"], asked["target"], strict=True):
        candidates = [*negatives_of(touched[user], items, rng), target]
        rng.shuffle(candidates)
        lists.append(candidates)
    candidates = asked[["user", "task", "split", "target"]].assign(items=lists)
    clock.append(time.perf_counter())
    for name_, table in (("products", products), ("cases", cases), ("candidates", candidates)):
        table.to_parquet(out / f"{name_}.parquet")
    clock.append(time.perf_counter())
    steps = ("reviews", "metadata", "cases", "candidates", "write")
    return {
        "seconds": dict(zip(steps, np.diff(clock).tolist(), strict=True)),
        "purchases": len(purchases),
        "items": len(items),
        "queries": len({query for queries in products["queries"] for query in queries}),
        "users": people["user"].nunique(),
        "cases": {f"{t} {s}": int(n) for (t, s), n in candidates.groupby(["task", "split"]).size().items()},
        "training cases": int((cases["split"] == "train").sum()),
    }

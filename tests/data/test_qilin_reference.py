"""The released rules of Qilin: against a slow reading of the same rules on small random logs, and on planted files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.data import qilin, qilin_population, qilin_recipe, qilin_reference
from gemsbench.data.invariants import pin_violations
from gemsbench.data.qilin_reference import released
from gemsbench.data.simulation.planted_funnel import FunnelPlan, write_planted
from gemsbench.errors import InputError

Row = dict[str, Any]
FILES = (
    ("rec", "recommendation_train"),
    ("rec", "recommendation_test"),
    ("src", "search_train"),
    ("src", "search_test"),
)
SPLITS = ("train", "valid", "test")


# A slow reading of the rules, on lists; entries are ("number" | "text", note).


def random_log(rng: np.random.Generator) -> dict[str, list[Row]]:
    """Small tables in which every filter has something to do: rare notes, lazy users, no results, equal times."""
    tables: dict[str, list[Row]] = {}
    for task, config in FILES:
        tables[config] = []
        for _ in range(int(rng.integers(15, 40))):
            notes = rng.geometric(0.09, int(rng.integers(0, 5))) % 40
            tables[config].append(
                {
                    "user": int(rng.integers(10)) if rng.random() < 0.9 else int(rng.integers(10, 30)),
                    "query": f"q{rng.integers(5)}" if task == "src" else None,
                    "time": int(rng.integers(1_000, 1_060)),
                    "results": [(int(note), bool(rng.random() < 0.35)) for note in notes],
                    "recent": [int(note) for note in rng.geometric(0.09, int(rng.integers(0, 4))) % 40],
                }
            )
    return tables


def write(folder: Path, tables: dict[str, list[Row]]) -> Path:
    for task, config in FILES:
        long, short = ("search", "search") if task == "src" else ("rec", "request")
        element = pl.Struct(
            {"note_idx": pl.Int64, "position": pl.Int64, "click": pl.Int64, f"{short}_timestamp": pl.Float64}
        )
        rows = [
            {
                f"{short}_idx": number,
                "user_idx": row["user"],
                "query": row["query"],
                "recent_clicked_note_idxs": row["recent"],
                f"{long}_result_details_with_idx": [
                    {"note_idx": note, "position": place, "click": int(click), f"{short}_timestamp": float(row["time"])}
                    for place, (note, click) in enumerate(row["results"])
                ],
            }
            for number, row in enumerate(tables[config])
        ]
        schema = {
            f"{short}_idx": pl.Int64,
            "user_idx": pl.Int64,
            "query": pl.String,
            "recent_clicked_note_idxs": pl.List(pl.Int64),
            f"{long}_result_details_with_idx": pl.List(element),
        }
        pl.DataFrame(rows, schema=schema).write_parquet(folder / f"{config}.parquet")
    notes = [{"note_idx": n, "note_title": f"t{n}", "note_content": None} for n in range(40)]
    pl.DataFrame(notes, schema_overrides={"note_content": pl.String}).write_parquet(folder / "notes.parquet")
    return folder


def slow_population(tables: dict[str, list[Row]], typed: bool) -> list[Row]:
    rows: list[Row] = []
    for task, config in FILES:
        for row in tables[config]:
            clicked = [("number", note) for note, click in row["results"] if click]
            shown = [("number", note) for note, click in row["results"] if not click]
            recent = [("text" if typed else "number", note) for note in row["recent"]]
            query = row["query"] or ""
            rows.append({**row, "query": query, "task": task, "clicked": clicked, "shown": shown, "recent": recent})
    often = Counter((row["user"], row["task"]) for row in rows)
    rows = [row for row in rows if min(often[row["user"], "rec"], often[row["user"], "src"]) >= 3]
    before = None
    for _ in range(10):
        per_user = Counter(row["user"] for row in rows)
        rows = [row for row in rows if per_user[row["user"]] >= 3]
        seen = Counter(entry for row in rows for name in ("clicked", "shown", "recent") for entry in row[name])
        common = {entry for entry, count in seen.items() if count >= 3}
        for row in rows:
            row |= {name: [e for e in row[name] if e in common] for name in ("clicked", "shown", "recent")}
        rows = [row for row in rows if row["clicked"] or row["shown"]]
        size = sum(count >= 3 for count in per_user.values()), len(common)
        if size == before:
            break
        before = size
    return rows


def slow_examples(rows: list[Row]) -> tuple[list[tuple[Any, ...]], dict[tuple[str, int], str]]:
    """Examples (split, task, user, time, query, targets, history) and the first split of every entry."""
    examples, first = [], {}
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for task in ("rec", "src"):
        for user in sorted({row["user"] for row in rows}):
            of = sorted(
                (row for row in rows if (row["user"], row["task"]) == (user, task)), key=lambda row: row["time"]
            )
            if len(of) >= 3:
                for split, some in zip(SPLITS, (of[:-2], of[-2:-1], of[-1:]), strict=True):
                    parts[split] += some
    for split in SPLITS:
        for row in parts[split]:
            for entry in [*row["clicked"], *row["shown"], *row["recent"]]:
                first.setdefault(entry, split)
            for targets in [row["clicked"]] if split == "test" else [[entry] for entry in row["clicked"]]:
                who = (split, row["task"], str(row["user"]), row["time"], row["query"])
                examples.append((*who, targets, row["recent"]))
    return examples, first


def entry_name(entry: tuple[str, int]) -> str:
    return f'"{entry[1]}"' if entry[0] == "text" else str(entry[1])


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_same_as_a_slow_reading_of_the_rules(tmp_path: Path, seed: int, typed: bool) -> None:
    tables = random_log(np.random.default_rng(seed))
    log = released(write(tmp_path, tables), typed=typed)
    rows = slow_population(tables, typed)
    examples, first = slow_examples(rows)
    assert examples
    expected = [
        (*e[:5], [entry_name(entry) for entry in e[5]], [entry_name(entry) for entry in e[6]]) for e in examples
    ]
    columns = ("split", "task", "user", "timestamp", "query", "targets", "history")
    assert log.examples.select(columns).rows() == expected
    assert dict(log.corpus.select("entry", "split").iter_rows()) == {entry_name(e): s for e, s in first.items()}
    assert dict(log.corpus.select("entry", "raw_id").iter_rows()) == {entry_name(e): str(e[1]) for e in first}
    assert log.items["raw_id"].to_list() == [str(note) for note in sorted({note for _, note in first})]
    assert log.counts["users in the 3-core"] == len({row["user"] for row in rows})
    assert log.counts["users in examples"] == len({e[2] for e in examples})
    assert set(log.examples["history_tasks"].explode().drop_nulls()) <= {3}
    assert log.examples["history_tasks"].list.len().equals(log.examples["history"].list.len())


@pytest.mark.parametrize("seed", range(6))
def test_our_rules_keep_the_same_clicks_as_a_slow_reading_with_distinct_notes(tmp_path: Path, seed: int) -> None:
    tables = random_log(np.random.default_rng(seed))
    log = qilin.load(write(tmp_path, tables), qilin.QilinSettings())
    rows = slow_population(tables, typed=False)
    clicks = {(str(r["user"]), r["task"], str(note), r["query"]) for r in rows for _, note in r["clicked"]}
    events = log.events.select("user", "task", "item", "query").rows()
    assert len(events) == len(set(events)) == len(clicks)
    assert set(events) == clicks
    catalogue = {str(note) for r in rows for name in ("clicked", "shown", "recent") for _, note in r[name]}
    assert set(log.items["raw_id"]) == catalogue


def test_rounds_end_after_ten(tmp_path: Path) -> None:
    """A chain of 13 users, each of whom goes only after the one before: ten rounds take away nine."""
    tables: dict[str, list[Row]] = {config: [] for _, config in FILES}
    fresh = iter(range(2_000, 9_000))

    def request(config: str, user: int, *notes: int) -> None:
        shown = [(note, True) for note in notes] or [(next(fresh), True)]
        row = {"user": user, "query": "q", "time": 1, "results": shown, "recent": []}
        tables[config].append(row)

    for user in range(1, 14):
        request("recommendation_train", user, 1, 100 + user)
        request("recommendation_train", user, 1, 100 + user)
        request("recommendation_train", user)
        for _ in range(3 if user == 1 else 2):
            request("search_train", user)
        if user > 1:
            request("search_train", user, 100 + user - 1)
    log = released(write(tmp_path, tables), typed=True)
    assert log.counts["rounds of the 3-core"] == qilin_population.MAX_ROUNDS == 10
    assert log.counts["users in the 3-core"] == 13 - 9
    assert log.counts["users in examples"] == 0


def test_unknown_times_come_last_and_equal_times_keep_the_order_of_the_files(tmp_path: Path) -> None:
    tables: dict[str, list[Row]] = {config: [] for _, config in FILES}
    for k, time in enumerate((float("nan"), 50, 50, 40)):
        row = {"user": 7, "query": "q", "time": time, "results": [(k, True), (9, False)], "recent": [9]}
        tables["recommendation_train"].append(row)
        tables["search_train"].append(row)
    for k in range(4):  # every note three times
        shown = [(k, False), (k, False), (9, False)]
        tables["search_test"].append({"user": 7, "query": "q", "time": 1, "results": shown, "recent": [9, 9]})
    log = released(write(tmp_path, tables), typed=True)
    of = log.examples.filter(pl.col("task") == "rec")
    assert of.select("split", "targets", "timestamp").rows() == [
        ("train", ["3"], 40),
        ("train", ["1"], 50),
        ("valid", ["2"], 50),
        ("test", ["0"], 50),
    ]
    assert of["history"].to_list() == [['"9"']] * 4


# Planted files: the loader sees nothing but them.

PAPER = FunnelPlan(
    users=15_482,
    both=2_383,
    only_r=1_407,
    only_s=26,
    lost=26,
    requests={"rec": 57_983, "src": 36_227},
    raw={"recommendation_train": 83_437, "recommendation_test": 11_115, "search_train": 44_024, "search_test": 6_192},
    train_rows={"rec": 46_870, "src": 13_185},
    train_clicks={"rec": 88_887, "src": 12_566},
    valid_clicks={"rec": 8_408, "src": 1_651},
    corpus=(266_988, 274_734, 275_526),
    texts=198_380,
    unclicked_valid=1_000,
    unclicked_test=76,
    shared=50_000,
    straddling=500,
    notes=1_983_938,
)
SMALL = FunnelPlan(
    users=400,
    both=60,
    only_r=35,
    only_s=7,
    lost=9,
    requests={"rec": 1_000, "src": 800},
    raw={"recommendation_train": 1_500, "recommendation_test": 400, "search_train": 1_000, "search_test": 200},
    train_rows={"rec": 600, "src": 300},
    train_clicks={"rec": 1_100, "src": 280},
    valid_clicks={"rec": 220, "src": 50},
    corpus=(3_300, 3_400, 3_430),
    texts=2_400,
    unclicked_valid=20,
    unclicked_test=9,
    shared=500,
    straddling=40,
    notes=20_000,
)


@pytest.fixture(scope="module")
def paper_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder, PAPER, seed=1)
    return folder


@pytest.mark.slow
def test_the_funnel_of_table_4(paper_files: Path) -> None:
    """Golden: every number that the published notebooks print on the way to the Qilin row of Table 4, and its items.

    The items are an expectation, and PAPER (unclicked_*) was chosen to give 275,515; real files pin the corpus alone.
    """
    log = qilin_reference.load(paper_files, qilin_reference.QilinReferenceSettings())
    assert pin_violations(log.counts, qilin_reference.RECIPE) == []
    table4 = {name: log.counts[f"Table 4: {name}"] for name in ("users", "items", "inter_src", "inter_rec")}
    assert table4 == {"users": 3_816, "items": 275_515, "inter_src": 16_626, "inter_rec": 101_085}
    by_split = log.examples.group_by("split", "task").len()
    assert {(s, t): n for s, t, n in by_split.iter_rows()} == {
        ("train", "rec"): 88_887,
        ("train", "src"): 12_566,
        ("valid", "rec"): 8_408,
        ("valid", "src"): 1_651,
        ("test", "rec"): 3_790,
        ("test", "src"): 2_409,
    }
    tested = log.examples.filter(pl.col("split") == "test")
    both = set(tested.filter(pl.col("task") == "rec")["user"]) & set(tested.filter(pl.col("task") == "src")["user"])
    assert len(both) == 2_383
    assert log.corpus["entry"].n_unique() == log.corpus.height == 275_526
    assert log.corpus["entry"].str.starts_with('"').sum() == 198_380
    assert log.counts["rounds of the 3-core"] == 6


@pytest.mark.slow
def test_our_rules_on_the_same_files(paper_files: Path) -> None:
    log = qilin.load(paper_files, qilin.QilinSettings())
    assert pin_violations(log.counts, qilin_recipe.RECIPE) == []
    # A note is one item wherever it stands: fewer items, and those that are only together seen often enough stay.
    assert log.items.height == PAPER.corpus[2] - PAPER.shared + PAPER.straddling


@pytest.mark.slow
def test_without_typed_duplicates_the_funnel_is_another(paper_files: Path) -> None:
    counts = released(paper_files, typed=False).counts
    assert counts["corpus up to test"] == PAPER.corpus[2] - PAPER.shared + PAPER.straddling
    assert pin_violations(counts, qilin_reference.RECIPE) != []


def planned(plan: FunnelPlan) -> dict[str, int]:
    users = {"rec": plan.both + plan.only_r, "src": plan.both + plan.only_s}
    counts = {"users with 3 requests in both tasks": plan.both + plan.only_r + plan.only_s + plan.lost}
    for task, letter in (("rec", "R"), ("src", "S")):
        counts |= {
            f"train: {letter} rows": plan.train_rows[task],
            f"train: {letter} examples": plan.train_clicks[task],
            f"valid: {letter} rows": users[task],
            f"valid: {letter} examples": plan.valid_clicks[task],
            f"test: {letter} rows": users[task],
            f"test: {letter} examples": users[task],
        }
    corpus = {f"corpus up to {split}": size for split, size in zip(SPLITS, plan.corpus, strict=True)}
    return counts | corpus | {"users in examples": plan.both + plan.only_r + plan.only_s}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"straddling": 0, "shared": 0},
        {"corpus": (3_000, 3_150, 3_150), "unclicked_test": 0},
        {"lost": 0, "train_clicks": {"rec": 0, "src": 900}},
        {"only_s": 0, "valid_clicks": {"rec": 3, "src": 0}, "unclicked_valid": 0},
    ],
)
def test_what_is_planted_is_found(tmp_path: Path, changed: dict[str, Any], seed: int) -> None:
    plan = dataclasses.replace(SMALL, **changed)
    write_planted(tmp_path, plan, seed)
    log = released(tmp_path, typed=True)
    expected = planned(plan)
    assert {name: log.counts[name] for name in expected} == expected
    chain = min(plan.lost, 4)
    assert log.counts["rounds of the 3-core"] == (chain + 2 if chain else 3)
    assert log.corpus["entry"].str.starts_with('"').sum() == plan.texts
    distinct = qilin.load(tmp_path, qilin.QilinSettings())
    assert distinct.items.height == plan.corpus[2] - plan.shared + plan.straddling


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_planted(tmp_path / name, SMALL, seed=3 if name == "c" else 2)
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = [(tmp_path / name / "search_train.parquet").read_bytes() for name in "ac"]
    assert other[0] != other[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"requests": {"rec": 800, "src": 800}}, "requests left for"),
        ({"texts": 5_000}, "by split cannot be"),
        ({"notes": 4_000}, "notes are too few"),
        ({"corpus": (9_300, 9_400, 9_430)}, "occurrences do not fit"),
    ],
)
def test_a_plan_that_cannot_be_laid_out(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_planted(tmp_path, dataclasses.replace(SMALL, **changed), seed=1)


@pytest.mark.parametrize("count", ["train: R examples", "corpus up to valid", "raw search_test"])
def test_a_wrong_count_is_a_violation(count: str) -> None:
    right = dict(qilin_reference.RECIPE.pins)
    assert pin_violations(right, qilin_reference.RECIPE) == []
    (wrong,) = pin_violations(right | {count: right[count] + 1}, qilin_reference.RECIPE)
    assert wrong.invariant == ("T1" if count.startswith("raw") else "T2")


def test_the_items_of_table_4_are_those_that_some_example_holds(tmp_path: Path) -> None:
    """Negatives are drawn, so their number is a random one; the count given is its mean, here over many draws."""
    few = {"both": 20, "only_r": 10, "only_s": 4, "valid_clicks": {"rec": 60, "src": 20}}
    plan = dataclasses.replace(SMALL, **few, unclicked_valid=50, unclicked_test=25)
    write_planted(tmp_path, plan, seed=4)
    log = released(tmp_path, typed=True)
    code = {entry: k for k, entry in enumerate(log.corpus["entry"])}
    held = set(log.examples["history"].explode().drop_nulls()) | set(log.examples["targets"].explode().drop_nulls())
    known = np.isin(np.arange(len(code)), [code[entry] for entry in held])
    late = log.examples.filter(pl.col("split") != "train").group_by("split").len()
    drawn = dict(late.iter_rows())
    rng, found = np.random.default_rng(5), []
    for _ in range(40):
        seen = known.copy()
        seen[: plan.corpus[0]] = True  # a thousand training examples draw them all
        for split, size in (("valid", plan.corpus[1]), ("test", plan.corpus[2])):
            for _ in range(drawn[split]):
                seen[rng.choice(size, 99, replace=False, shuffle=False)] = True
        found.append(int(seen.sum()))
    assert np.std(found) > 0.5
    assert abs(np.mean(found) - log.counts["Table 4: items"]) < 1.0

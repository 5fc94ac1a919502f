"""Packs: one call to read, nothing of the test split for training, no answers in the questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.errors import InputError
from gemsbench.files import read_json, sha256_file, write_json
from gemsbench.methods.contract import Method
from gemsbench.protocol import Pack, export_pack, load_pack
from gemsbench.protocol.fingerprint import protocol_fingerprint
from gemsbench.protocol.pack import QUESTION_COLUMNS
from gemsbench.protocol.prepare import prepare

Make = Callable[..., Any]


@pytest.fixture(scope="module", params=["pair", "task"])
def folder(request: pytest.FixtureRequest, recipe: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared recipe."""
    made = recipe(request.param)
    out: Path = tmp_path_factory.mktemp(request.param) / "prepared"
    prepare(made, made.settings(), Path("unread"), out, seed=3, history_length=4, negatives=30)
    return out


@pytest.fixture(params=["prepared", "exported"])
def pack(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Pack:
    """The same recipe, read from the prepared folder or from its export."""
    if request.param == "prepared":
        return load_pack(folder)
    return load_pack(export_pack(load_pack(folder), tmp_path / "pack"))


def test_training_data_holds_nothing_of_the_test_split(pack: Pack, folder: Path) -> None:
    events = pl.read_parquet(folder / "interactions.parquet")
    cases = pl.read_parquet(folder / "cases.parquet")
    data = pack.training_data()
    assert data.events["split"].unique().to_list() == ["train"]
    assert data.events.height == (events["split"] == "train").sum()
    assert set(data.cases["split"].unique()) == {"train", "valid"}
    test_ids = set(cases.filter(pl.col("split") == "test")["case_id"])
    assert test_ids
    assert not test_ids & (set(data.cases["case_id"]) | set(data.valid_candidates["case_id"]))
    test_events = events.filter(pl.col("split") == "test").select("user_id", "item_id")
    assert test_events.height > 20
    shown = cases.select("user_id", item_id="hist_items").explode("item_id", empty_as_null=False)
    for told in (data.events, data.cases.rename({"target_item": "item_id"}), shown):
        assert told.height > 20
        assert told.join(test_events, on=["user_id", "item_id"], how="semi").is_empty()
    counts = data.items.filter(pl.col("n_train") > 0)["n_train"].sum()
    assert counts == data.events.height


def _with_own_words(made: Recipe) -> Recipe:
    """The recipe with the user in three of four queries, so that some are asked in one split only."""

    def load(folder: Path, settings: Any) -> RawLog:
        log = made.load(folder, settings)
        own = (pl.col("task") == "src") & (pl.col("timestamp") % 4 > 0)
        query = pl.when(own).then(pl.concat_str("query", "user", separator=" ")).otherwise("query")
        return replace(log, events=log.events.with_columns(query=query))

    return replace(made, load=load)


@pytest.mark.parametrize("exported", [False, True])
def test_queries_tell_nothing_of_held_out_events(
    recipe: Make, unit: Literal["pair", "task"], tmp_path: Path, exported: bool
) -> None:
    made = _with_own_words(recipe(unit))
    prepare(made, made.settings(), Path("unread"), tmp_path / "out", seed=3, history_length=4, negatives=30)
    pack = load_pack(tmp_path / "out")
    pack = load_pack(export_pack(pack, tmp_path / "pack")) if exported else pack
    events = pl.read_parquet(tmp_path / "out" / "interactions.parquet").filter(pl.col("query_id") > 0)
    leading = {(query, item) for item, paths in pack.items.select("item_id", "query_ids").rows() for query in paths}
    made_of_paths = {query for query, _ in leading}
    leading |= set(events.filter(split="train").select("query_id", "item_id").rows())
    expected = Counter(query for query, _ in leading)
    assert dict(pack.queries.select("query_id", "n_items").rows()) == {
        query: expected[query] for query in pack.queries["query_id"]
    }
    asked = set(events.filter(pl.col("split") != "test")["query_id"])
    known = pack.training_data().queries
    assert set(known["query_id"]) == asked | made_of_paths
    assert known.equals(pack.queries.join(known, on="query_id", how="semi", maintain_order="left"))
    if unit == "task":
        assert known.height < pack.queries.height
        assert pack.queries.filter(n_items=0).height > known.filter(n_items=0).height > 0


def test_cases_and_lists_come_in_case_id_order_however_they_are_stored(folder: Path, tmp_path: Path) -> None:
    out = export_pack(load_pack(folder), tmp_path / "pack")
    names = ("cases", "candidates", "labels")
    for number, name in enumerate(names):
        path = out / f"{name}.parquet"
        pl.read_parquet(path).sample(fraction=1.0, shuffle=True, seed=number).write_parquet(path)
    hashes = {f"{name}.parquet": sha256_file(out / f"{name}.parquet") for name in names}
    write_json(out / "checksums.json", {**read_json(out / "checksums.json"), **hashes})
    pack, whole = load_pack(out), load_pack(folder)
    assert pack.cases().equals(whole.cases())
    assert pack.candidates().equals(whole.candidates())
    assert pack.questions("test").equals(whole.questions("test"))
    assert pack.training_data().valid_candidates.equals(whole.candidates("valid"))


def test_questions_carry_no_answer(pack: Pack, folder: Path) -> None:
    questions = pack.questions("test")
    assert questions.columns == list(QUESTION_COLUMNS)
    cases = pl.read_parquet(folder / "cases.parquet").filter(pl.col("split") == "test")
    assert questions["case_id"].to_list() == cases["case_id"].to_list()
    joined = questions.join(cases.select("case_id", "target_item"), on="case_id")
    assert joined.filter(pl.col("hist_items").list.contains(pl.col("target_item"))).is_empty()
    assert joined.filter(~pl.col("items").list.contains(pl.col("target_item"))).is_empty()
    searched = questions.filter(pl.col("task") == "src")
    assert (searched["query"] != "").all()
    assert (questions.filter(pl.col("task") == "rec")["query"] == "").all()


@pytest.mark.parametrize("task", ["rec", "src"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_questions_and_labels_of_a_split_belong_together(
    pack: Pack, task: Literal["rec", "src"], split: Literal["valid", "test"]
) -> None:
    questions = pack.questions(split, task)
    assert set(questions["task"].unique()) == {task}
    labels = questions.join(pack.labels(split), on="case_id")
    assert labels.height == questions.height > 0
    assert labels.filter(pl.col("positives").list.set_difference("items").list.len() > 0).is_empty()


def test_the_whole_contract_of_a_question_is_what_methods_are_promised(pack: Pack) -> None:
    promised = Method.score.__doc__ or ""
    assert all(column in promised for column in QUESTION_COLUMNS)


def test_an_exported_pack_asks_the_same_questions(folder: Path, tmp_path: Path) -> None:
    prepared = load_pack(folder)
    exported = load_pack(export_pack(prepared, tmp_path / "pack"))
    assert exported.exported and not prepared.exported
    assert exported.fingerprint == prepared.fingerprint
    assert protocol_fingerprint(exported.cases(), exported.candidates("valid", "test")) == prepared.fingerprint
    assert (exported.n_users, exported.n_items) == (prepared.n_users, prepared.n_items)
    for split in ("valid", "test"):
        assert exported.questions(split).equals(prepared.questions(split))
        assert exported.labels(split).equals(prepared.labels(split))
    one, two = exported.training_data(), prepared.training_data()
    assert all(getattr(one, name).equals(getattr(two, name)) for name in ("items", "events", "cases"))


def test_an_exported_pack_keeps_answers_in_one_file(folder: Path, tmp_path: Path) -> None:
    out = export_pack(load_pack(folder), tmp_path / "pack")
    answers = {"target_item", "positives"}
    holding = {path.stem for path in out.glob("*.parquet") if answers & set(pl.read_parquet_schema(path))}
    assert holding == {"labels"}
    assert pl.read_parquet(out / "interactions.parquet")["split"].unique().to_list() == ["train"]
    assert (out / "VERSION").read_text() == "1\n"
    listed = {path.name for path in out.iterdir()} - {"checksums.json"}
    assert set(read_json(out / "checksums.json")) == listed
    assert "world" in (out / "README.md").read_text()


def test_an_export_never_replaces_something_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not a pack"):
        export_pack(load_pack(folder), tmp_path / "letters")
    assert (tmp_path / "letters" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["cases.parquet", "labels.parquet", "README.md", "VERSION"])
def test_a_tampered_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    out = export_pack(load_pack(folder), tmp_path / "pack")
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(bytes(content))
    with pytest.raises(InputError, match=f"{name}.*sha256"):
        load_pack(out)
    (out / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_pack(out)


def test_a_column_of_another_type_is_named(folder: Path, tmp_path: Path) -> None:
    out = export_pack(load_pack(folder), tmp_path / "pack")
    path = out / "cases.parquet"
    pl.read_parquet(path).with_columns(pl.col("user_id").cast(pl.Int64)).write_parquet(path)
    write_json(out / "checksums.json", {**read_json(out / "checksums.json"), path.name: sha256_file(path)})
    with pytest.raises(InputError, match=r"cases\.parquet.*user_id is Int64"):
        load_pack(out)


def test_a_pack_of_another_format_version_is_refused(folder: Path, tmp_path: Path) -> None:
    out = export_pack(load_pack(folder), tmp_path / "pack")
    write_json(out / "pack.json", {**read_json(out / "pack.json"), "format_version": 2})
    with pytest.raises(InputError, match="format version 2"):
        load_pack(out)


def test_a_folder_without_a_pack_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gemsbench data prepare"):
        load_pack(tmp_path)


def test_wrong_words_are_refused(pack: Pack) -> None:
    with pytest.raises(InputError, match="'dev'"):
        pack.questions("dev")
    with pytest.raises(InputError, match="'search'"):
        pack.questions("test", "search")


def test_tables_have_their_schemas(pack: Pack) -> None:
    for name, table in (("items", pack.items), ("queries", pack.queries), ("cases", pack.cases())):
        assert dict(table.schema) == dict(schema.TABLES[name])
    assert dict(pack.candidates("test").schema) == dict(schema.CANDIDATES)

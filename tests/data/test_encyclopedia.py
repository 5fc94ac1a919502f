"""The encyclopedia: the same bytes again, true to the catalogue of both logs, and without anybody's behaviour."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Formatter

import polars as pl
import pytest

from gemsbench.data import amazon, qilin
from gemsbench.data.encyclopedia import CORPUS, TEXT, EncyclopediaSettings, load, simulate
from gemsbench.data.fetch import fetch
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.data.simulation import wording
from gemsbench.data.simulation.encyclopedia_facts import Subject, category_tree, subjects, theme_tree
from gemsbench.data.simulation.encyclopedia_phrases import MEANINGS, PHRASES
from gemsbench.data.simulation.encyclopedia_text import COPIES
from gemsbench.errors import InputError
from gemsbench.files import sha256_file
from gemsbench.source_code import source_files

SEED = 2026
SMALL = EncyclopediaSettings(words=2_000)
DEFAULT = EncyclopediaSettings()
GOLDEN = "0bd442911c9869119aaadddf0e448a7350378f21c317b8ecb18e2ba36e4a1d6f"  # sha256 of TEXT at SMALL and SEED
RECIPES = (amazon.SIMULATED, qilin.SIMULATED)
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("encyclopedia")
    return load(fetch(CORPUS, DEFAULT, SEED, root), DEFAULT)


@pytest.fixture(scope="module")
def log_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], RawLog]:
    logs: dict[str, RawLog] = {}

    def read(recipe: Recipe) -> RawLog:
        if recipe.name not in logs:
            root = tmp_path_factory.mktemp(recipe.name)
            logs[recipe.name] = recipe.load(fetch(recipe, recipe.settings(), SEED, root), recipe.settings())
        return logs[recipe.name]

    return read


@pytest.fixture(scope="module")
def known() -> list[Subject]:
    return subjects(DEFAULT.topics, DEFAULT.note_topics, SEED)


def written(folder: Path, settings: EncyclopediaSettings, seed: int) -> Path:
    folder.mkdir()
    simulate(folder, settings, seed)
    return folder / TEXT


def test_bytes_depend_on_settings_and_seed_only(tmp_path: Path) -> None:
    first = written(tmp_path / "a", SMALL, SEED)
    assert sha256_file(first) == sha256_file(written(tmp_path / "b", SMALL, SEED)) == GOLDEN
    assert sha256_file(written(tmp_path / "c", SMALL, SEED + 1)) != GOLDEN
    assert sha256_file(written(tmp_path / "d", replace(SMALL, topics=47), SEED)) != GOLDEN


def test_a_longer_one_begins_with_the_shorter(tmp_path: Path) -> None:
    longer = written(tmp_path / "a", replace(SMALL, words=5_000), SEED).read_text()
    shorter = written(tmp_path / "b", SMALL, SEED).read_text()
    assert longer.startswith(shorter.rstrip("\n")) and len(longer) > 2 * len(shorter)
    assert 2_000 <= len(shorter.split()) < 2_200


def test_size_and_variety_of_the_default(documents: list[str], known: list[Subject]) -> None:
    assert 500_000 <= sum(len(document.split()) for document in documents) < 500_300
    assert len(set(documents)) == len(documents)
    assert {document.partition("\n")[0] for document in documents} == {subject.title for subject in known}
    sentences = [sentence for document in documents for sentence in re.split(r"(?<=[.!])[ \n]", document)]
    assert len(set(sentences)) > 0.6 * len(sentences)
    assert len(sentences) > 50_000


def test_every_wording_can_be_filled_for_every_subject(known: list[Subject]) -> None:
    assert {subject.kind for subject in known} == set(PHRASES) == set(COPIES)
    for subject in known:
        for wordings in PHRASES[subject.kind]:
            slots = {slot for text in wordings for _, slot, _, _ in Formatter().parse(text) if slot}
            assert slots <= set(subject.slots), (subject.title, slots - set(subject.slots))
        assert all(values and all(values) for values in subject.slots.values()), subject.title


def test_every_modifier_has_a_meaning() -> None:
    assert set(MEANINGS) == {*wording.MODIFIERS, *wording.NOTE_MODIFIERS}


def test_the_topics_are_those_of_both_recipes() -> None:
    assert amazon.SIMULATED.settings().world.topics == DEFAULT.topics
    assert qilin.SIMULATED.settings().world.topics == DEFAULT.note_topics


def test_topics_go_with_the_words_of_the_catalogue(log_of: Callable[[Recipe], RawLog]) -> None:
    """Descriptions of an item name two words of its topic: the tree here is the tree of the log."""
    leaves = dict(category_tree(DEFAULT.topics, SEED).table.select("leaf", "words").rows())
    items = log_of(amazon.SIMULATED).items.filter(pl.col("category_paths").list.len() == 1)
    named = items.select(
        pl.col("category_paths").list.first().list.get(3, null_on_oob=True).alias("leaf"),
        pl.col("description").str.extract_groups(r"(?:about|with|adds|supports|around|in|to|notice) (\w+) and (\w+) "),
    ).drop_nulls()
    seen = 0
    for leaf, pair in named.iter_rows():
        if None not in pair.values():
            seen += 1
            assert set(pair.values()) <= set(leaves[leaf]), leaf
    assert seen > 300


def test_notes_go_with_the_words_of_the_log(log_of: Callable[[Recipe], RawLog]) -> None:
    tree = theme_tree(DEFAULT.note_topics, SEED).table
    of_group = {
        group.lower(): set(words) for group, words in tree.explode("words").group_by("group").agg("words").rows()
    }
    queries = log_of(qilin.SIMULATED).events["query"].unique()
    subjects_asked = [(group, query) for query in queries for group in of_group if query.startswith(f"{group} ")]
    assert len(subjects_asked) > 50
    assert all(query.removeprefix(group).strip() in of_group[group] for group, query in subjects_asked)


def test_a_subject_has_the_same_facts_in_all_its_articles(documents: list[str], known: list[Subject]) -> None:
    words = {subject.title: subject.slots["word"] for subject in known if subject.kind in ("topic", "note")}
    years: dict[str, set[str]] = {}
    pairs: dict[str, set[tuple[str, str]]] = {}
    for document in documents:
        title = document.partition("\n")[0]
        if title in words:
            years.setdefault(title, set()).update(re.findall(r"(?:sold in|fashion since|In) (\d{4})", document))
            pairs.setdefault(title, set()).update(
                re.findall(r"(?:thinks of|speak of|The words) (\w+) and (\w+)\b", document)
            )
    assert set(years) == set(words)
    for title, own in words.items():
        assert len(years[title]) == 1 and len(own) == 5
        assert len(pairs[title]) > 1
        assert all(a != b and {a, b} <= set(own) for a, b in pairs[title])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_it_has_the_words_of_titles_and_queries(
    recipe: Recipe, documents: list[str], log_of: Callable[[Recipe], RawLog]
) -> None:
    vocabulary = set(WORD.findall("\n".join(documents)))
    log = log_of(recipe)
    queries = [query for several in log.items["queries"] for query in several] + log.events["query"].to_list()
    for texts in (log.items["title"].to_list(), log.items["description"].to_list(), queries):
        found = WORD.findall("\n".join(texts))
        assert len(found) > 1_000
        assert sum(word in vocabulary for word in found) > 0.999 * len(found)


def test_it_knows_nobody_and_no_item(documents: list[str], log_of: Callable[[Recipe], RawLog]) -> None:
    """Neither the code that makes tastes, items and events, nor an id or a numbered title of the catalogue."""
    code = {path.name for path in source_files("gemsbench.data.encyclopedia:CORPUS")}
    assert "topic_tree.py" in code
    assert not code & {"world.py", "request_world.py", "amazon_files.py", "qilin_files.py", "amazon.py", "qilin.py"}
    text = "\n".join(documents)
    log = log_of(amazon.SIMULATED)
    numbered = log.items.filter(pl.col("title").str.contains(r"\d{3}"))
    assert numbered.height > 400
    for name in (*log.items["raw_id"], *log.events["user"].unique(), *numbered["title"]):
        assert name not in text
    assert not re.search("[\u4e00-\u9fff]", text)  # English only


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 0}, "words is 0, must be 1 to"),
        ({"topics": 961}, "topics is 961, must be 1 to 960"),
        ({"note_topics": 0}, "topics is 0, must be 1 to 480"),
    ],
)
def test_settings_must_make_sense(settings: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tmp_path, EncyclopediaSettings(**settings), SEED)


@pytest.mark.parametrize(("topics", "note_topics"), [(1, 1), (960, 480)])
def test_trees_of_any_size(topics: int, note_topics: int, tmp_path: Path) -> None:
    settings = EncyclopediaSettings(words=3_000, topics=topics, note_topics=note_topics)
    simulate(tmp_path, settings, SEED)
    assert len(load(tmp_path, settings)) > 20


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / TEXT).write_text("\n")
    with pytest.raises(InputError, match=r"encyclopedia\.txt: no text in it"):
        load(tmp_path, DEFAULT)

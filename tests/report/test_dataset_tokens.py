"""Unknown tokens: the real vocabularies on the scripts that tell them apart, and where tokenizers are looked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gemsbench.errors import InputError
from gemsbench.profile import Profile, TableSettings
from gemsbench.report import dataset_tokens
from gemsbench.report.dataset_tokens import FILE, MIRROR, Vocabulary, find_vocabularies, sample_texts, unknown_tokens

CHINESE = ["连衣裙 夏季", "上海美食推荐", "怎么养猫"]
CONFIG = Path("some.yaml")


def write_vocabulary(folder: Path, unknown: bool = True) -> Path:
    """A tokenizer of words: red and shoe, and whatever it does not know."""
    words = {"red": 0, "shoe": 1} | ({"<unk>": 2} if unknown else {})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>") if unknown else models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    folder.mkdir(parents=True)
    (folder / FILE).write_text(tokenizer.to_str(), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("below", "share"), [("t5", 1.0), ("qwen", 0.0)])
def test_chinese_is_unknown_to_t5_and_known_to_qwen(mirror: Path, below: str, share: float) -> None:
    vocabulary = Vocabulary(below, mirror / "tokenizers" / below)
    found = unknown_tokens(vocabulary, {"chinese": CHINESE, "english": ["!red running shoe"] * 3})
    assert found["chinese"].texts_with_unknown / found["chinese"].texts == share
    assert (found["chinese"].unknown_tokens > 0) == (share > 0)
    assert found["english"].unknown_tokens == found["english"].texts_with_unknown == 0
    assert found["english"].tokens >= 12


def test_tokens_and_texts_are_counted_uncut(tmp_path: Path) -> None:
    vocabulary = Vocabulary("words", write_vocabulary(tmp_path / "words"))
    found = unknown_tokens(vocabulary, {"a": ["red shoe", "blue shoe blue", "red red red", ""], "none": []})
    assert dataclasses.astuple(found["a"]) == (4, 8, 2, 1)
    assert dataclasses.astuple(found["none"]) == (0, 0, 0, 0)


def test_batches_do_not_change_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary("words", write_vocabulary(tmp_path / "words"))
    texts = {"a": ["blue", "red", "blue blue", "shoe", "green red"]}
    whole = unknown_tokens(vocabulary, texts)
    monkeypatch.setattr(dataset_tokens, "_BATCH", 2)
    assert unknown_tokens(vocabulary, texts) == whole
    assert dataclasses.astuple(whole["a"]) == (5, 7, 4, 3)


def test_a_vocabulary_that_drops_text_is_refused(tmp_path: Path) -> None:
    vocabulary = Vocabulary("words", write_vocabulary(tmp_path / "words", unknown=False))
    with pytest.raises(InputError, match=r"words: the tokenizer has no unknown token and lacks 256 of the 256 bytes"):
        unknown_tokens(vocabulary, {"a": ["blue"]})


@pytest.mark.parametrize("content", ["<html>", json.dumps({"model": 1})])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="its tokenizer cannot be read"):
        unknown_tokens(Vocabulary("broken", tmp_path), {"a": ["blue"]})


def test_a_vocabulary_without_its_merges_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"vocab\.json or merges\.txt is missing"):
        unknown_tokens(Vocabulary("half", tmp_path), {"a": ["blue"]})


def with_blocks(profile: Profile, *backbones: str) -> Profile:
    blocks = dict(zip(("T5-base", "Qwen-3B"), backbones, strict=False))
    return dataclasses.replace(profile, tables=TableSettings(columns=profile.tables.columns, blocks=blocks))


def test_the_profiles_own_backbones_come_first(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    made = write_vocabulary(tmp_path / "results" / "backbones" / "t5-mini")
    found, missing = find_vocabularies(with_blocks(profile, "t5-mini", "qwen-mini"), tmp_path / "results", CONFIG)
    assert found == [Vocabulary("t5-mini", made)]
    assert len(missing) == 1
    assert "qwen-mini: no " in missing[0] and "gemsbench backbone qwen-mini --config some.yaml." in missing[0]


def test_a_hub_model_has_the_published_vocabulary_and_a_stand_in_has_not(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t5 = write_vocabulary(tmp_path / "mirror" / "tokenizers" / "t5")
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    hub, missing = find_vocabularies(with_blocks(profile, "flan-t5-base", "qwen2.5-3b-instruct"), tmp_path, CONFIG)
    assert hub == [Vocabulary("flan-t5-base", t5)]
    assert "tokenizers/qwen/" in missing[0]
    mini, missing = find_vocabularies(with_blocks(profile, "t5-mini"), tmp_path, CONFIG)
    assert mini == [Vocabulary("T5 (published)", t5)]
    assert missing and "tokenizers/" not in missing[0]
    own = write_vocabulary(tmp_path / "mirror" / "backbones" / "flan-t5-base")
    again, _ = find_vocabularies(with_blocks(profile, "flan-t5-base"), tmp_path, CONFIG)
    assert again == [Vocabulary("flan-t5-base", own), Vocabulary("T5 (published)", t5)]


def test_the_sample_does_not_depend_on_the_order_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pl.DataFrame({"raw_id": [str(n) for n in range(200)], "text": [f"text {n}" for n in range(200)]})
    assert len(sample_texts(table, "raw_id", "text", 1)) == 200
    monkeypatch.setattr(dataset_tokens, "SAMPLE", 20)
    drawn = sample_texts(table, "raw_id", "text", 1)
    assert len(set(drawn)) == 20
    assert drawn == sample_texts(table.sample(fraction=1.0, shuffle=True, seed=3), "raw_id", "text", 1)
    assert drawn != sample_texts(table, "raw_id", "text", 2)
    assert drawn != [f"text {n}" for n in sorted(range(20), key=str)]

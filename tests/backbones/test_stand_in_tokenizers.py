"""The stand-ins' tokenizers: laid out like T5's and Qwen2.5's, the same bytes every time, short prompts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from gemsbench.backbones.stand_in_tokenizers import SENTINELS, train_qwen_like, train_t5_like
from gemsbench.protocol.prompts import prompt_text

from .conftest import sentences

PIECES = 400
Trainer = Callable[[list[str], int], PreTrainedTokenizerFast]
TRAINERS: list[Trainer] = [train_t5_like, train_qwen_like]


@pytest.fixture(scope="module")
def t5_like() -> PreTrainedTokenizerFast:
    return train_t5_like(sentences(300), PIECES)


@pytest.fixture(scope="module")
def qwen_like() -> PreTrainedTokenizerFast:
    return train_qwen_like(sentences(300), PIECES)


def _digest(tokenizer: PreTrainedTokenizerFast) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


@pytest.mark.parametrize("train", TRAINERS)
def test_the_same_text_gives_the_same_bytes(train: Trainer) -> None:
    assert _digest(train(sentences(300), PIECES)) == _digest(train(sentences(300), PIECES))


IN_ANOTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from backbones.conftest import sentences
from backbones.test_stand_in_tokenizers import PIECES, TRAINERS, _digest
print(*(_digest(train(sentences(300), PIECES)) for train in TRAINERS))
"""


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process_or_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    code = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(Path(__file__).parents[1])]
    shown = subprocess.run(code, capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.split() == [_digest(train(sentences(300), PIECES)) for train in TRAINERS]


def test_t5_like_ids(t5_like: PreTrainedTokenizerFast) -> None:
    assert t5_like.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert (t5_like.pad_token_id, t5_like.eos_token_id, t5_like.unk_token_id) == (0, 1, 2)
    last = len(t5_like) - 1
    assert t5_like.convert_tokens_to_ids(list(SENTINELS)) == list(range(last, last - 100, -1))
    assert t5_like("a lamp").input_ids[-1] == 1
    assert t5_like("a lamp").input_ids.count(1) == 1


def test_t5_like_has_no_chinese(t5_like: PreTrainedTokenizerFast) -> None:
    trained = train_t5_like([*sentences(100), *["绿色茶杯 在 花园"] * 100], PIECES)
    for tokenizer in (t5_like, trained):
        assert tokenizer("绿色茶杯").input_ids[-2:] == [2, 1]  # <unk> </s>
        assert tokenizer("绿色茶杯").input_ids.count(2) == 1  # a run is one unknown


def test_t5_like_weighs_pieces_by_frequency(t5_like: PreTrainedTokenizerFast) -> None:
    vocabulary = json.loads(t5_like.backend_tokenizer.to_str())["model"]["vocab"]
    scores = dict(vocabulary[3:])
    assert scores["▁the"] > scores["▁violin"] > min(scores.values())
    assert t5_like.tokenize("the violin") == ["▁the", "▁violin"]


def test_qwen_like_ids(qwen_like: PreTrainedTokenizerFast) -> None:
    last = len(qwen_like) - 1
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert qwen_like.convert_tokens_to_ids(control) == [last - 2, last - 1, last]
    assert (qwen_like.pad_token, qwen_like.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert qwen_like("a lamp").input_ids == qwen_like("a lamp", add_special_tokens=False).input_ids


@pytest.mark.parametrize("text", ["绿色茶杯 ☕", "tab\tand\n\nlines  ", "naïve 12.5% [x] é\u0301", ""])
def test_qwen_like_round_trip(qwen_like: PreTrainedTokenizerFast, text: str) -> None:
    assert qwen_like.decode(qwen_like(text).input_ids) == unicodedata.normalize("NFC", text)


def test_qwen_like_chat(qwen_like: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "Task: search"}]
    text = qwen_like.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nTask: search<|im_end|>\n<|im_start|>assistant\n"
    ids = qwen_like(text).input_ids
    assert ids.count(qwen_like.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(qwen_like.eos_token_id) == 1


@pytest.mark.parametrize(("train", "sign"), [(train_t5_like, r"\[\w+\]|\w+|\S"), (train_qwen_like, r"\w+|\S")])
def test_the_words_of_the_template_are_whole(train: Trainer, sign: str) -> None:
    tokenizer = train(sentences(300), PIECES)
    for task in ("rec", "src"):
        for history, query in (([], ""), ([("lamp", 1), ("lamp", 2)], "lamp")):
            text = prompt_text(task, history, query)
            pieces = [piece.strip("▁ĠĊ") for piece in tokenizer.tokenize(text)]
            assert [piece for piece in pieces if piece not in "lamp"] == [
                word for word in re.findall(sign, text) if word not in "lamp"
            ]

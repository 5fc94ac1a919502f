"""Tiny tokenizers, models, questions and micro-batches of both architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gemsbench.data import schema
from gemsbench.protocol.prompts import prompt_text
from gemsbench.training.batches import MicroBatch, collate_causal, collate_t5
from gemsbench.training.loop import Problem
from gemsbench.training.objective import identifier_loss
from gemsbench.training.token_lists import TokenLists

Kind = Literal["t5", "qwen2"]
N_ITEMS = 30
WORDS = ("red", "kettle", "blue", "lamp", "large", "tea", "cup", "stone", "garden", "chair")
CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def item_string(item: int) -> str:
    """The identifier of an item as text: one code on level 0, a second one for every third item."""
    return f"<|i0_{item}|>" + (f"<|i1_{item % 5}|>" if item % 3 == 0 else "")


def _corpus() -> list[str]:
    entries = [("", 1), ("", 2)]
    return [prompt_text(task, entries, query) for task in ("rec", "src") for query in ("", *WORDS, " ".join(WORDS))] * 3


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=40
    )


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    wrapped.chat_template = CHAT
    return wrapped


@dataclass(frozen=True)
class Words:
    """A tokenizer that knows the items' tokens, and the table of those."""

    kind: Kind
    tokenizer: PreTrainedTokenizerFast
    item_tokens: np.ndarray

    def text(self, task: str, history: list[tuple[int, int]], query: str) -> str:
        """The whole prompt as text, as the tokenizer would decode it."""
        prompt = prompt_text(task, [(item_string(item), mask) for item, mask in history], query)
        if self.kind == "t5":
            return f"{prompt}</s>"
        turn = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def _words(kind: Kind) -> Words:
    tokenizer = _t5_tokenizer() if kind == "t5" else _qwen_tokenizer()
    tokenizer.add_tokens([f"<|i0_{item}|>" for item in range(1, N_ITEMS + 1)] + [f"<|i1_{code}|>" for code in range(5)])
    table = np.full((N_ITEMS + 1, 2), -1, dtype=np.int32)
    for item in range(1, N_ITEMS + 1):
        table[item, 0] = tokenizer.convert_tokens_to_ids(f"<|i0_{item}|>")
        if item % 3 == 0:
            table[item, 1] = tokenizer.convert_tokens_to_ids(f"<|i1_{item % 5}|>")
    return Words(kind, tokenizer, table)


_WORDS = {kind: _words(kind) for kind in ("t5", "qwen2")}


@pytest.fixture(params=["t5", "qwen2"])
def words(request: pytest.FixtureRequest) -> Words:
    """Tokenizer and identifiers of each architecture."""
    return _WORDS[request.param]


@pytest.fixture
def words_of() -> Callable[[str], Words]:
    """Tokenizer and identifiers of the named architecture."""
    return lambda kind: _WORDS[kind]


def make_questions(number: int, longest: int = 8, seed: int = 0, items: int = N_ITEMS) -> pl.DataFrame:
    """Random questions; every history length from 0 to longest occurs."""
    rng = np.random.default_rng(seed)
    lengths = np.arange(number) % (longest + 1)
    tasks = rng.choice(schema.TASKS, number)
    queries = [" ".join(rng.choice(WORDS, rng.integers(1, 5))) if task == "src" else "" for task in tasks]
    columns: dict[str, Any] = {
        "case_id": np.arange(number) + 1000,
        "task": pl.Series(tasks, dtype=schema.TASK),
        "query": queries,
        "hist_items": [rng.integers(1, items + 1, length).tolist() for length in lengths],
        "hist_tasks": [rng.integers(1, 4, length).tolist() for length in lengths],
    }
    kinds = {"hist_items": pl.List(pl.Int32), "hist_tasks": pl.List(pl.Int8)}
    return pl.DataFrame(columns, schema_overrides=kinds)


@pytest.fixture
def questions() -> Callable[..., pl.DataFrame]:
    """A maker of random questions."""
    return make_questions


VOCABULARY = 40


def tiny_model(kind: Kind, seed: int = 0, dropout: float = 0.1) -> PreTrainedModel:
    """The real class with two layers of width 16."""
    torch.manual_seed(seed)
    if kind == "t5":
        config = T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            dropout_rate=dropout,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        return T5ForConditionalGeneration(config)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            attention_dropout=dropout,
            pad_token_id=0,
        )
    )


def micro_batch(kind: Kind, rows: int, seed: int = 0, task: str = "rec", levels: int = 2) -> MicroBatch:
    """Random prompts of unequal lengths and random targets."""
    rng = np.random.default_rng(seed)
    prompts = TokenLists.of([rng.integers(2, VOCABULARY, rng.integers(3, 9)).tolist() for _ in range(rows)])
    targets = TokenLists.of([[*rng.integers(2, VOCABULARY, levels - row % 2).tolist(), 1] for row in range(rows)])
    return MicroBatch(task, (collate_t5 if kind == "t5" else collate_causal)(prompts, targets, 0))


@dataclass(frozen=True)
class Tiny:
    """Makers of models and micro-batches of one architecture."""

    kind: Kind

    def model(self, seed: int = 0, dropout: float = 0.1) -> PreTrainedModel:
        """A model with weights of its own."""
        return tiny_model(self.kind, seed, dropout)

    def batch(self, rows: int, seed: int = 0, task: str = "rec", levels: int = 2) -> MicroBatch:
        """Random rows."""
        return micro_batch(self.kind, rows, seed, task, levels)

    def problem(self, dropout: float = 0.1, fingerprint: str = "a", **changed: Any) -> Problem:
        """Three steps per epoch of random rows; two groups of parameters with rates of their own."""
        model = self.model(dropout=dropout)
        groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "lr": 5e-3}]
        for name, parameter in model.named_parameters():
            groups["embed" in name or "shared" in name]["params"].append(parameter)

        def step(epoch: int, number: int) -> list[MicroBatch]:
            seed = 10 * (3 * epoch + number)
            return [self.batch(4, seed, "rec"), self.batch(2, seed + 1, "src"), self.batch(3, seed + 2, "rec")]

        def evaluate() -> dict[str, float]:
            held_out = self.batch(8, seed=99)
            loss = float(identifier_loss(model, held_out.tensors)) / held_out.target_tokens
            return {"criterion": -loss, "heldout_loss": loss}

        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.01)
        problem = Problem(model, optimizer, 3, step, identifier_loss, evaluate, fingerprint, seed=7)  # type: ignore[arg-type]
        return replace(problem, **changed)


@pytest.fixture(params=["t5", "qwen2"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each architecture in turn."""
    return Tiny(request.param)


@pytest.fixture
def one() -> Tiny:
    """The faster architecture, for what has nothing to do with it."""
    return Tiny("qwen2")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

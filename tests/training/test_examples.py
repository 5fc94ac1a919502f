"""Training examples and validation questions made from training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.data import schema
from gemsbench.errors import InputError
from gemsbench.protocol.pack import QUESTION_COLUMNS, TrainingData
from gemsbench.training.examples import target_tokens, training_examples, validation_questions
from gemsbench.training.prompt_tokens import PromptTokens

N_CASES = 60


def _data(questions: Callable[..., pl.DataFrame], shuffled: bool = False) -> TrainingData:
    rng = np.random.default_rng(5)
    asked = questions(N_CASES)
    queries = asked.filter(pl.col("query") != "").select(text=pl.col("query").unique(maintain_order=True))
    queries = queries.with_row_index("query_id", offset=1)
    length = pl.col("hist_items").list.len()
    cases = asked.join(queries, left_on="query", right_on="text", how="left", maintain_order="left").with_columns(
        pl.col("query_id").fill_null(0),
        user_id=pl.int_range(pl.len()),
        target_item=pl.Series(rng.integers(1, 31, N_CASES)),
        split=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("train")).otherwise(pl.lit("valid")),
        order_key=pl.int_range(pl.len()),
        hist_queries=pl.lit(0).repeat_by(length),
        hist_event_ids=pl.lit(0).repeat_by(length),
    )
    cases = cases.select(pl.col(name).cast(kind) for name, kind in schema.CASES.items())
    valid = cases.filter(pl.col("split") == "valid")
    candidates = pl.DataFrame(
        {
            "case_id": valid["case_id"],
            "items": [[1, 2, target] for target in valid["target_item"]],
            "positives": [[target] for target in valid["target_item"]],
            "sampler": "uniform",
            "seed": 0,
        }
    )
    return TrainingData(
        items=pl.DataFrame(schema=schema.ITEMS),
        queries=queries.select(
            pl.col("query_id").cast(pl.Int32), "text", n_items=pl.lit(1, dtype=pl.Int32), source=pl.lit("logged")
        ),
        n_users=N_CASES,
        n_items=30,
        events=pl.DataFrame(schema=schema.INTERACTIONS),
        cases=cases.sample(fraction=1, shuffle=True, seed=3) if shuffled else cases,
        valid_candidates=candidates.select(pl.col(name).cast(kind) for name, kind in schema.CANDIDATES.items()),
    )


@pytest.mark.parametrize("tasks", [["rec"], ["src"], ["rec", "src"]])
def test_one_example_per_training_case(words: Any, questions: Callable[..., pl.DataFrame], tasks: list[str]) -> None:
    data, encoder = _data(questions), PromptTokens(words.tokenizer, words.kind, words.item_tokens, 1000)
    examples = training_examples(data, tasks, encoder, words.item_tokens)
    asked = questions(N_CASES).with_columns(target=data.cases["target_item"])
    asked = asked.gather_every(2).filter(pl.col("task").is_in(tasks))
    assert len(examples) == len(examples.prompts) == len(examples.targets) == asked.height
    assert [schema.TASKS[task] for task in examples.tasks] == asked["task"].to_list()
    expected = encoder.encode(asked)
    for row, item in enumerate(asked["target"]):
        np.testing.assert_array_equal(examples.prompts[row], expected[row])
        codes = words.item_tokens[item]
        assert examples.targets[row].tolist() == [*codes[codes >= 0].tolist(), encoder.end_token]


def test_examples_do_not_depend_on_the_order_of_the_tables(words: Any, questions: Callable[..., pl.DataFrame]) -> None:
    encoder = PromptTokens(words.tokenizer, words.kind, words.item_tokens, 1000)
    made = [
        training_examples(_data(questions, shuffled), ["rec", "src"], encoder, words.item_tokens)
        for shuffled in (False, True)
    ]
    np.testing.assert_array_equal(made[0].prompts.ids, made[1].prompts.ids)
    np.testing.assert_array_equal(made[0].targets.ids, made[1].targets.ids)


def test_targets_without_identifier_are_refused(words: Any) -> None:
    table = words.item_tokens.copy()
    table[4] = -1
    assert len(target_tokens(np.array([3, 5], dtype=np.int32), table, 1)) == 2
    with pytest.raises(InputError, match="without an identifier"):
        target_tokens(np.array([3, 4], dtype=np.int32), table, 1)


@pytest.mark.parametrize("task", schema.TASKS)
def test_validation_questions_are_a_fixed_subset_without_answers(
    questions: Callable[..., pl.DataFrame], task: str
) -> None:
    data = _data(questions)
    every = validation_questions(data, task)
    valid = data.cases.filter((pl.col("split") == "valid") & (pl.col("task") == task))
    assert every["case_id"].to_list() == valid["case_id"].to_list()
    assert tuple(every.columns) == QUESTION_COLUMNS
    some = validation_questions(data, task, 6)
    assert some.height == 6
    assert some["case_id"].is_sorted()
    assert set(some["case_id"]) < set(every["case_id"])
    assert some["case_id"].to_list() != every["case_id"].to_list()[:6]
    fewer = validation_questions(data, task, 3)
    assert set(fewer["case_id"]) < set(some["case_id"])
    assert some.equals(validation_questions(_data(questions, shuffled=True), task, 6))


def test_a_task_without_cases_is_named(words: Any, questions: Callable[..., pl.DataFrame]) -> None:
    data = _data(questions)
    encoder = PromptTokens(words.tokenizer, words.kind, words.item_tokens, 1000)
    kept = data.cases.filter(pl.col("task") == "rec")
    less = TrainingData(**{**{name: getattr(data, name) for name in data.__dataclass_fields__}, "cases": kept})
    with pytest.raises(InputError, match="no validation cases for task 'src'"):
        validation_questions(less, "src")
    with pytest.raises(InputError, match="no training cases for task 'src'"):
        training_examples(less, ["rec", "src"], encoder, words.item_tokens)

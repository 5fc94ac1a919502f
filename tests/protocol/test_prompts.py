"""The prompt, word by word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.protocol.prompts import prompt_text, prompt_texts

RECOMMENDATION = """Task: recommendation
History: [rec] <item_4> | [src] <item_9> | [src] <item_2>
Query: none
Give the identifier of the item the user will interact with next."""
SEARCH = """Task: search
History: none
Query: wireless mouse
Give the identifier of the item that answers the query for this user."""


def test_golden_recommendation() -> None:
    assert prompt_text("rec", [("<item_4>", 1), ("<item_9>", 2), ("<item_2>", 3)]) == RECOMMENDATION


def test_golden_search_without_history() -> None:
    assert prompt_text("src", [], "wireless mouse") == SEARCH


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="'search'"):
        prompt_text("search", [])


def test_whole_tables_read_like_single_prompts(world: Callable[..., Any]) -> None:
    tables = world().tables()
    identifiers = tables["items"].select("item_id", identifier=pl.format("<{}>", "item_id"))
    text = tables["queries"].select("query_id", query="text")
    questions = tables["cases"].join(text, on="query_id", how="left", maintain_order="left")
    questions = questions.with_columns(pl.col("query").fill_null(""))
    expected = [
        prompt_text(
            row["task"],
            [(f"<{item}>", mask) for item, mask in zip(row["hist_items"], row["hist_tasks"], strict=True)],
            row["query"],
        )
        for row in questions.iter_rows(named=True)
    ]
    assert prompt_texts(questions, identifiers).to_list() == expected
    assert any("none\nQuery" in prompt for prompt in expected)
    with pytest.raises(InputError, match="identifier"):
        prompt_texts(questions, identifiers.head(5))

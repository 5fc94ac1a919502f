"""The one prompt of all generative methods (arXiv 2601.09496, section 3): task, history, query, instruction.

Pure text: items appear as the identifier strings handed in. Behaviour tags are plain text, not special tokens, because
a frozen or adapter-tuned backbone could not learn new ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from gemsbench.errors import InputError

EMPTY = "none"
SEPARATOR = " | "
# A purchase with the search made from it (3) is shown as the search: that is what the user did first.
TAGS = {1: "[rec]", 2: "[src]", 3: "[src]"}
TASK_NAMES = {"rec": "recommendation", "src": "search"}
INSTRUCTIONS = {
    "rec": "Give the identifier of the item the user will interact with next.",
    "src": "Give the identifier of the item that answers the query for this user.",
}


def prompt_text(task: str, history: Sequence[tuple[str, int]], query: str = "") -> str:
    """The prompt of one case; history is (identifier, task bitmask) oldest first, query is "" for recommendation."""
    if task not in TASK_NAMES:
        raise InputError(f"unknown task '{task}'. Use {' or '.join(TASK_NAMES)}.")
    entries = SEPARATOR.join(f"{TAGS[mask]} {identifier}" for identifier, mask in history)
    return f"Task: {TASK_NAMES[task]}\nHistory: {entries or EMPTY}\nQuery: {query or EMPTY}\n{INSTRUCTIONS[task]}"


def prompt_texts(questions: pl.DataFrame, identifiers: pl.DataFrame) -> pl.Series:
    """prompt_text for every row of questions (Pack.questions), in its order.

    identifiers: item_id (int32), identifier (str). Raises InputError when a history item has none.
    """
    entries = (
        questions.select("hist_items", "hist_tasks")
        .with_row_index("row")
        .filter(pl.col("hist_items").list.len() > 0)
        .explode("hist_items", "hist_tasks")
        .join(identifiers, left_on="hist_items", right_on="item_id", how="left", maintain_order="left")
    )
    unnamed = entries.filter(pl.col("identifier").is_null())
    if unnamed.height:
        raise InputError(
            f"{unnamed['hist_items'].n_unique()} history items have no identifier. Build them for all items."
        )
    tag = pl.col("hist_tasks").replace_strict(TAGS, return_dtype=pl.String)
    history = (
        entries.select("row", entry=pl.concat_str(tag, pl.lit(" "), "identifier"))
        .group_by("row", maintain_order=True)
        .agg(pl.col("entry").str.join(SEPARATOR))
    )
    task = pl.col("task").cast(pl.String)
    query = pl.when(pl.col("query") == "").then(pl.lit(EMPTY)).otherwise("query")
    return (
        questions.select("task", "query")
        .with_row_index("row")
        .join(history, on="row", how="left", maintain_order="left")
        .select(
            prompt=pl.format(
                "Task: {}\nHistory: {}\nQuery: {}\n{}",
                task.replace_strict(TASK_NAMES),
                pl.col("entry").fill_null(EMPTY),
                query,
                task.replace_strict(INSTRUCTIONS),
            )
        )
        .to_series()
    )

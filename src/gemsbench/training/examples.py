"""Training examples (prompt, identifier) and the fixed validation questions of a generative method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import seeds
from gemsbench.data.schema import TASKS
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import offsets_of
from gemsbench.protocol.pack import QUESTION_COLUMNS, TrainingData
from gemsbench.training.prompt_tokens import PromptTokens
from gemsbench.training.token_lists import Int32Array, TokenLists

VALIDATION_CASES = 2000  # per task: prompts-and-protocol.md section 10


@dataclass(frozen=True)
class Examples:
    """n prompts with their targets (identifier and end token); tasks int8 [n]: number in schema.TASKS."""

    prompts: TokenLists
    targets: TokenLists
    tasks: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.tasks)


def training_examples(
    data: TrainingData, tasks: Sequence[str], prompts: PromptTokens, item_tokens: Int32Array
) -> Examples:
    """One example per training case of the tasks, in case_id order.

    item_tokens: int32 [n_items + 1, L], -1 = no token. Raises InputError when a task has no training case, or a
    target no identifier.
    """
    cases = case_questions(data, "train", tasks)
    _reject_missing_tasks(cases, tasks, "training")
    numbers = {task: number for number, task in enumerate(TASKS)}
    return Examples(
        prompts.encode(cases),
        target_tokens(cases["target_item"].to_numpy(), item_tokens, prompts.end_token),
        cases["task"].cast(pl.String).replace_strict(numbers, return_dtype=pl.Int8).to_numpy(),
    )


def target_tokens(items: npt.NDArray[np.int32], item_tokens: Int32Array, end_token: int) -> TokenLists:
    """Code tokens of each item, followed by the end token; raises InputError for an item without any."""
    if items.size and not (item_tokens[items] >= 0).any(axis=1).all():
        raise InputError("there are target items without an identifier. Build identifiers for all items.")
    table = np.concatenate([item_tokens[items], np.full((len(items), 1), end_token, dtype=np.int32)], axis=1)
    present = table >= 0
    return TokenLists(table[present], offsets_of(present.sum(axis=1)))


def case_questions(data: TrainingData, split: str, tasks: Sequence[str]) -> pl.DataFrame:
    """Cases of a split and tasks in case_id order with the text of their query ("" where there is none)."""
    wanted = (pl.col("split") == split) & pl.col("task").is_in(list(tasks))
    return (
        data.cases.filter(wanted)
        .join(data.queries.select("query_id", query="text"), on="query_id", how="left")
        .with_columns(pl.col("query").fill_null(""))
        .sort("case_id")
    )


def validation_questions(data: TrainingData, task: str, most: int = VALIDATION_CASES) -> pl.DataFrame:
    """At most `most` validation cases of a task (columns pack.QUESTION_COLUMNS: no answers), in case_id order.

    Which ones depends on the case ids alone: the same ones for every method, backbone and seed. Raises InputError when
    there is none.
    """
    lists = data.valid_candidates.select("case_id", "items")
    cases = case_questions(data, "valid", [task]).join(lists, on="case_id", maintain_order="left")
    _reject_missing_tasks(cases, [task], "validation")
    key = seeds.mix64(cases["case_id"].to_numpy().astype(np.uint64), seeds.hash64("validation subset"))
    chosen = cases.with_columns(key=key).sort("key").head(most)
    return chosen.sort("case_id").select(QUESTION_COLUMNS)


def _reject_missing_tasks(cases: pl.DataFrame, tasks: Sequence[str], what: str) -> None:
    present = set(cases["task"].unique())
    missing = [task for task in tasks if task not in present]
    if missing:
        raise InputError(f"there are no {what} cases for task '{missing[0]}'; training needs them.")

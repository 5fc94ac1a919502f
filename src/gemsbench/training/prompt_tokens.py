"""The one prompt (protocol/prompts.py) as token ids: items are spliced in as their code tokens, never through text.

Everything that is text (constant parts, tags, each distinct query) is tokenised once, in pieces; the prompts of all
questions are then rows of piece numbers, and one gather makes their tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data.schema import TASKS as TASK_ORDER
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import Int64Array, flatten, offsets_of
from gemsbench.protocol.prompts import EMPTY, INSTRUCTIONS, SEPARATOR, TAGS, TASK_NAMES
from gemsbench.training.text_tokens import added_ids, plain_tokens, template_tokens, unknown_rate
from gemsbench.training.token_lists import Int32Array, TokenLists

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PromptTokens", "unknown_rate"]

TURN_END = "<|im_end|>"
_CONTENT = "The prompt stands here."  # found again in a rendered chat template
_QUESTIONS_AT_A_TIME = 65_536  # bounds the arrays of piece numbers
_TAG_TEXTS = ("[rec]", "[src]")
_TAG_OF_MASK = np.array([-1, *(_TAG_TEXTS.index(TAGS[mask]) for mask in (1, 2, 3))])
BoolArray = npt.NDArray[np.bool_]

_TASKS = {task: number for number, task in enumerate(TASK_NAMES)}
# Numbers of the first piece of each kind; heads and tails have one per task, and queries follow the history entries.
_HEAD, _TAIL, _NONE, _ENTRY = 0, 2, 4, 5


class PromptTokens:
    """Encodes questions for one tokenizer, to which no token is added any more, and one table of identifiers.

    kind t5: the prompt ends with </s>; qwen2: it is one user turn of the tokenizer's chat template with the generation
    prompt. item_tokens: int32 [n_items + 1, L], row = item_id, -1 = no token. max_length: most tokens of a prompt.
    end_token: the id that follows an identifier, that of </s> or <|im_end|>. Raises InputError for a tokenizer without
    it, or whose chat template changes the text of a turn. history_tasks: only events of these tasks are shown; a
    purchase with the search made from it is of both, and is shown as what is left of it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        kind: Literal["t5", "qwen2"],
        item_tokens: Int32Array,
        max_length: int,
        history_tasks: tuple[str, ...] = TASK_ORDER,
    ) -> None:
        self.max_length = max_length
        self._shown = sum(1 << TASK_ORDER.index(task) for task in history_tasks)  # bits of hist_tasks
        self.end_token = _end_token(tokenizer, kind)
        self._tokenizer, self._added = tokenizer, added_ids(tokenizer)
        self._has_identifier: BoolArray = np.any(item_tokens >= 0, axis=1)
        opening, closing = _chat_turn(tokenizer) if kind == "qwen2" else ("", "")
        heads = template_tokens(tokenizer, [f"{opening}Task: {name}\nHistory:" for name in TASK_NAMES.values()])
        tails = template_tokens(tokenizer, [f"\n{INSTRUCTIONS[task]}{closing}" for task in _TASKS])
        if kind == "t5":
            tails = TokenLists.of([[*tails[task], self.end_token] for task in _TASKS.values()])
        empty = template_tokens(tokenizer, [f" {EMPTY}"])
        first = _entries(template_tokens(tokenizer, [f" {tag}" for tag in _TAG_TEXTS]), item_tokens)
        later = _entries(template_tokens(tokenizer, [f"{SEPARATOR}{tag}" for tag in _TAG_TEXTS]), item_tokens)
        self._constant = TokenLists.join([heads, tails, empty, first, later])

    def encode(self, questions: pl.DataFrame) -> TokenLists:
        """The prompt of every row of questions (task, query, hist_items, hist_tasks), in its order.

        Where a prompt is longer than max_length the oldest history goes first, never the query or the instruction.
        Raises InputError naming the case when it does not fit even without history, or an item has no identifier.
        """
        self._reject_unnamed_items(questions["hist_items"])
        distinct = questions.select(pl.col("query").unique(maintain_order=True)).with_row_index("number")
        numbers = questions.select("query").join(distinct, on="query", how="left", maintain_order="left")["number"]
        texts = [f"\nQuery: {query or EMPTY}" for query in distinct["query"]]
        queries = plain_tokens(self._tokenizer, texts, self._added)
        pieces = TokenLists.join([self._constant, queries])
        rows = questions.select("task", "hist_items", "hist_tasks", query_number=numbers.cast(pl.Int64))
        parts = [self._assemble(part, pieces) for part in rows.iter_slices(_QUESTIONS_AT_A_TIME)]
        prompts = TokenLists.join(parts)
        self._reject_too_long(questions, prompts)
        return prompts

    def _assemble(self, rows: pl.DataFrame, pieces: TokenLists) -> TokenLists:
        """Prompts of rows (task, hist_items, hist_tasks, query_number); too long ones have no history left."""
        task = rows["task"].cast(pl.String).replace_strict(_TASKS, return_dtype=pl.Int64).to_numpy()
        query = rows["query_number"].to_numpy() + len(self._constant)
        first, later, offsets = self._history(rows)
        lengths = pieces.lengths
        fixed = lengths[_HEAD + task] + lengths[_TAIL + task] + lengths[query]
        kept = _newest_that_fit(lengths[first], lengths[later], offsets, self.max_length - fixed)
        owner = np.repeat(np.arange(rows.height), np.diff(offsets))[kept]
        n_kept = np.bincount(owner, minlength=rows.height)
        kept_offsets, piece_offsets = offsets_of(n_kept), offsets_of(3 + np.maximum(n_kept, 1))
        place = np.arange(len(owner)) - kept_offsets[owner]
        numbers = np.full(int(piece_offsets[-1]), _NONE, dtype=np.int64)  # stays where there is no entry
        numbers[piece_offsets[:-1]] = _HEAD + task
        numbers[piece_offsets[owner] + 1 + place] = np.where(place == 0, first[kept], later[kept])
        numbers[piece_offsets[1:] - 2] = query
        numbers[piece_offsets[1:] - 1] = _TAIL + task
        tokens = pieces.take(numbers)
        return TokenLists(tokens.ids, tokens.offsets[piece_offsets])

    def _history(self, rows: pl.DataFrame) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Piece numbers of all history entries, as the first entry and as a later one, and the rows' offsets."""
        items, offsets = flatten(rows["hist_items"])
        masks, _ = flatten(rows["hist_tasks"])
        masks = masks & self._shown
        kept = masks > 0
        items, masks = items[kept], masks[kept]
        offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
        n_rows = len(self._has_identifier)
        first = _ENTRY + _TAG_OF_MASK[masks] * n_rows + items.astype(np.int64)
        return first, first + len(_TAG_TEXTS) * n_rows, offsets

    def _reject_unnamed_items(self, histories: pl.Series) -> None:
        items = histories.list.explode(empty_as_null=False).unique().to_numpy()
        inside = (items > 0) & (items < len(self._has_identifier))
        unnamed = np.count_nonzero(~inside) + np.count_nonzero(~self._has_identifier[items[inside]])
        if unnamed:
            raise InputError(f"{unnamed} history items have no identifier. Build them for all items.")

    def _reject_too_long(self, questions: pl.DataFrame, prompts: TokenLists) -> None:
        row = int(np.argmax(prompts.lengths)) if len(prompts) else 0
        if not len(prompts) or prompts.lengths[row] <= self.max_length:
            return
        name = f"case {questions['case_id'][row]}" if "case_id" in questions.columns else f"question {row}"
        raise InputError(
            f"{name}: its prompt has {prompts.lengths[row]} tokens without any history, {self.max_length} are allowed. "
            f"Its query is too long ({len(questions['query'][row])} characters): shorten it in the queries table, or "
            "raise the largest prompt length."
        )


def _newest_that_fit(
    first: Int64Array, later: Int64Array, offsets: Int64Array, room: Int64Array
) -> npt.NDArray[np.bool_]:
    """Which history entries stay: in each row the longest run of newest ones that takes at most `room` [rows] tokens.

    first, later: tokens of an entry where it opens the history and where it follows another one.
    """
    upto = np.concatenate([[0], np.cumsum(later)])
    rows = np.diff(offsets)
    newer = np.repeat(upto[offsets[1:]], rows) - upto[1:]
    fits: BoolArray = first + newer <= np.repeat(room, rows)
    return fits


def _entries(tags: TokenLists, item_tokens: Int32Array) -> TokenLists:
    """Every item after every tag: sequence t * (n_items + 1) + i is tag t and the code tokens of item i."""
    blocks = []
    for tag in range(len(tags)):
        before = np.broadcast_to(tags[tag], (len(item_tokens), len(tags[tag])))
        table = np.concatenate([before, item_tokens], axis=1)
        blocks.append(TokenLists(table[table >= 0], offsets_of((table >= 0).sum(axis=1))))
    return TokenLists.join(blocks)


def _end_token(tokenizer: PreTrainedTokenizerFast, kind: Literal["t5", "qwen2"]) -> int:
    token = tokenizer.eos_token_id if kind == "t5" else tokenizer.get_vocab().get(TURN_END)
    if not isinstance(token, int):
        wanted = "end-of-sequence token" if kind == "t5" else f"token {TURN_END}"
        raise InputError(f"the tokenizer of a {kind} backbone has no {wanted}; it is not one of this architecture.")
    return token


def _chat_turn(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """What the chat template puts before and after the text of one user turn, generation prompt included."""
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template. Take the instruction-tuned model, not its base.")
    turn = [{"role": "user", "content": _CONTENT}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    parts = str(text).split(_CONTENT)
    if len(parts) != 2:
        raise InputError(f"the chat template shows the text of a user turn {len(parts) - 1} times instead of once.")
    return parts[0], parts[1]

"""Scores of a generative method: log-probabilities of the candidates' identifiers, exactly and in one pass per case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from transformers import PreTrainedModel

from gemsbench.backbones.loading import load_backbone
from gemsbench.decoding import CandidateScorer
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import flatten
from gemsbench.files import read_json, table_sha256
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.vocabulary import token_table
from gemsbench.methods.contract import ScoreArray
from gemsbench.progress import progress_bar
from gemsbench.threads import torch_threads
from gemsbench.training.prompt_tokens import PromptTokens
from gemsbench.training.token_lists import TokenLists

SETTINGS_FILE = "generative.json"  # what scoring needs to know of the fit
# The longest prompt of a backbone, in tokens.
MAX_LENGTH = {"t5": 512, "qwen2": 768}
CASES_PER_BATCH = 64


@dataclass(frozen=True)
class Asked:
    """Questions made ready for a model: prompts, and the tokens of every candidate, per case."""

    prompts: TokenLists
    candidates: list[npt.NDArray[np.int32]]  # [C, L] each, -1 where an identifier is shorter


@dataclass(frozen=True)
class IdentifierRanker:
    """A tuned model with the identifiers and the prompt that it was tuned on.

    item_tokens: int32 [n_items + 1, L], -1 where an identifier is shorter. half: the model runs in bf16 where it may;
    log-probabilities are computed in fp32 all the same.
    """

    model: PreTrainedModel
    scorer: CandidateScorer
    prompts: PromptTokens
    item_tokens: npt.NDArray[np.int32]
    half: bool = False

    def prepare(self, cases: pl.DataFrame) -> Asked:
        """Tokens of the cases (columns of Pack.questions); raises InputError for a candidate without an identifier."""
        items, offsets = flatten(cases["items"])
        _reject_unknown_items(cases, items, offsets, len(self.item_tokens))
        tokens = self.item_tokens[items]
        return Asked(self.prompts.encode(cases), np.split(tokens, offsets[1:-1]) if cases.height else [])

    def scores(self, asked: Asked, *, show_progress: bool = False) -> list[ScoreArray]:
        """One float32 array per case, aligned with its candidates.

        Cases of similar length share a batch; where memory runs out, batches are halved from there on. Raises
        InputError when a single case does not fit.
        """
        order = np.argsort(asked.prompts.lengths, kind="stable")
        found: list[ScoreArray] = [np.empty(0, dtype=np.float32)] * len(order)
        size, start = CASES_PER_BATCH, 0
        with progress_bar("scoring", total=len(order) if show_progress else 0) as report:
            while start < len(order):
                rows = order[start : start + size].tolist()
                scores = self._score(asked, rows)
                if scores is None:
                    size = max(len(rows) // 2, 1)
                    continue
                for row, array in zip(rows, scores, strict=True):
                    found[row] = array
                start += len(rows)
                report(start, "scoring")
        return found

    def _score(self, asked: Asked, rows: list[int]) -> list[ScoreArray] | None:
        """Scores of some cases; None when memory ran out."""
        prompts = [asked.prompts[row].tolist() for row in rows]
        device = self.model.device.type
        try:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.half):
                return self.scorer.score(prompts, [asked.candidates[row] for row in rows])
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise InputError(
                    f"scoring: the memory of {device} does not hold one case. Take a smaller backbone or larger device."
                ) from error
        if device == "cuda":
            torch.cuda.empty_cache()
        return None


def scored_end(codes: ItemCodes, prompts: PromptTokens) -> int | None:
    """The end token where identifiers differ in length, else None: it is scored only then."""
    return None if codes.fixed_length else prompts.end_token


def score_generative(artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
    """Yield float32 log-probabilities, one array per case; raises InputError for a damaged model folder."""
    saved = _saved(artefact / SETTINGS_FILE)
    with torch_threads(saved["threads"]):
        backbone = load_backbone(artefact)
        codes = load_codes(artefact)
        if saved["first_row"] + sum(codes.sizes) != backbone.model.config.vocab_size:
            raise InputError(
                f"{artefact}: {SETTINGS_FILE} says that identifiers begin at row {saved['first_row']}, which does not "
                f"fit {sum(codes.sizes)} codes and {backbone.model.config.vocab_size} rows. Train it again."
            )
        if table_sha256(codes.table()) != saved["codes_sha256"]:
            raise InputError(f"{artefact}: its identifiers are not those that the model was tuned on. Train it again.")
        item_tokens = token_table(codes, saved["first_row"])
        length, history = MAX_LENGTH[backbone.kind], tuple(saved["history_tasks"])
        prompts = PromptTokens(backbone.tokenizer, backbone.kind, item_tokens, length, history)
        cast("torch.nn.Module", backbone.model).to("cuda" if torch.cuda.is_available() else "cpu")
        scorer = CandidateScorer(backbone.model, end_token=scored_end(codes, prompts))
        ranker = IdentifierRanker(backbone.model, scorer, prompts, item_tokens, half=saved["half"])
        scores = ranker.scores(ranker.prepare(cases), show_progress=True)
    yield from scores


def _saved(path: Path) -> dict[str, Any]:
    saved = read_json(path)
    kinds = {"first_row": int, "half": bool, "threads": int, "history_tasks": list, "codes_sha256": str}
    if not isinstance(saved, dict) or any(type(saved.get(key)) is not kind for key, kind in kinds.items()):
        raise InputError(f"{path}: not what a fit writes ({', '.join(kinds)}). Train the run again.")
    return saved


def _reject_unknown_items(
    cases: pl.DataFrame, items: npt.NDArray[Any], offsets: npt.NDArray[np.int64], rows: int
) -> None:
    wrong = np.flatnonzero((items < 1) | (items >= rows))
    if wrong.size:
        case = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise InputError(
            f"case {cases['case_id'][case]}: candidate {items[wrong[0]]} has no identifier (items are 1..{rows - 1}). "
            "Fit the method on the same prepared data as the cases."
        )

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

from gemsbench.backbones.loading import load_backbone
from gemsbench.decoding import CandidateScorer
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import flatten
from gemsbench.files import read_json
from gemsbench.identifiers.codes import ItemCodes, load_codes
from gemsbench.identifiers.vocabulary import token_table
from gemsbench.methods.contract import ScoreArray
from gemsbench.progress import progress_bar
from gemsbench.training.prompt_tokens import PromptTokens
from gemsbench.training.threads import torch_threads

SETTINGS_FILE = "generative.json"  # what scoring needs to know of the fit
# The longest prompt of a backbone, in tokens.
MAX_LENGTH = {"t5": 512, "qwen2": 768}
CASES_PER_BATCH = 64


@dataclass(frozen=True)
class IdentifierRanker:
    """A tuned model with the identifiers and the prompt that it was tuned on.

    item_tokens: int32 [n_items + 1, L], -1 where an identifier is shorter. half: the model runs in bf16 where it may;
    log-probabilities are computed in fp32 all the same.
    """

    scorer: CandidateScorer
    prompts: PromptTokens
    item_tokens: npt.NDArray[np.int32]
    half: bool = False

    def scores(self, cases: pl.DataFrame, *, show_progress: bool = False) -> list[ScoreArray]:
        """One float32 array per row of cases (columns of Pack.questions), aligned with its `items`.

        Cases of similar length share a batch. Raises InputError for a candidate without an identifier.
        """
        prompts = self.prompts.encode(cases)
        items, offsets = flatten(cases["items"])
        _reject_unknown_items(cases, items, offsets, len(self.item_tokens))
        order = np.argsort(prompts.lengths, kind="stable")
        found: list[ScoreArray] = [np.empty(0, dtype=np.float32)] * cases.height
        with progress_bar("scoring", total=cases.height if show_progress else 0) as report:
            for start in range(0, len(order), CASES_PER_BATCH):
                rows = order[start : start + CASES_PER_BATCH].tolist()
                candidates = [self.item_tokens[items[offsets[row] : offsets[row + 1]]] for row in rows]
                for row, scores in zip(rows, self._score([prompts[row] for row in rows], candidates), strict=True):
                    found[row] = scores
                report(start + len(rows), "scoring")
        return found

    def _score(self, prompts: list[npt.NDArray[np.int32]], candidates: list[npt.NDArray[np.int32]]) -> list[ScoreArray]:
        with torch.autocast(_device(), dtype=torch.bfloat16, enabled=self.half):
            return self.scorer.score([prompt.tolist() for prompt in prompts], candidates)


def scored_end(codes: ItemCodes, prompts: PromptTokens) -> int | None:
    """The end token where identifiers differ in length, else None: it is scored only then."""
    return None if codes.fixed_length else prompts.end_token


def score_generative(artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
    """Yield float32 log-probabilities, one array per case; raises InputError for a damaged model folder."""
    saved: dict[str, Any] = read_json(artefact / SETTINGS_FILE)
    with torch_threads(int(saved["threads"])):
        backbone = load_backbone(artefact)
        codes = load_codes(artefact)
        item_tokens = token_table(codes, int(saved["first_row"]))
        prompts = PromptTokens(backbone.tokenizer, backbone.kind, item_tokens, MAX_LENGTH[backbone.kind])
        cast("torch.nn.Module", backbone.model).to(_device())
        scorer = CandidateScorer(backbone.model, end_token=scored_end(codes, prompts))
        ranker = IdentifierRanker(scorer, prompts, item_tokens, half=saved["precision"] == "bf16")
        scores = ranker.scores(cases, show_progress=True)
    yield from scores


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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

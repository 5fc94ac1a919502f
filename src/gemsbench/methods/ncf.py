"""NCF: NeuMF with pre-training (He et al., Neural Collaborative Filtering, WWW 2017, arXiv 1708.05031).

Learns from training recommendation events only; no text, no history, no search. As in the paper: GMF and MLP are
trained alone, NeuMF starts from both; negatives are uniform, m per positive, drawn anew every epoch.
What we changed, and why: epochs are chosen on validation NDCG@10 (the authors' script chooses on the test list);
NeuMF from scratch is fitted too and the better of both is kept (the authors report that pre-training does not always
help); embeddings have sparse gradients, so that Adam moves only the rows of a batch and the cost does not grow with
the catalogue; users without a training event get the mean user row.
Cost: 90,000 events take about one second per epoch on one core; 15 epochs at most in each of the four stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save

from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings, settings_dict
from gemsbench.errors import InputError
from gemsbench.evaluation.validation_lists import ValidationLists
from gemsbench.files import atomic_path, read_json, sha256_json, write_json
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import ScoreArray
from gemsbench.methods.ncf_training import STAGES, NCFSettings, Problem, StageResult, Training
from gemsbench.methods.neumf import NeuMF
from gemsbench.methods.train_pairs import TrainPairs
from gemsbench.progress import progress_bar
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData

TASK = "rec"
FINAL_STAGES = ("neumf", "neumf-scratch")  # GMF and MLP alone are only steps on the way


class NCF:
    """Score = NeuMF logit of (user, item)."""

    Config = NCFSettings

    def fit(self, config: NCFSettings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Train all stages and save the better NeuMF; goes on from `<out>.checkpoint` after a kill.

        Writes model.safetensors, config.json, diagnostics.json and log.jsonl (one line per stage and epoch).
        Raises InputError without recommendation events or without recommendation cases in validation.
        """
        checkpoints = out.with_name(f"{out.name}.checkpoint")
        with torch_threads(config.threads):
            problem = _problem(config, data, seed)
            training = Training(problem, config, checkpoints)
            with progress_bar("NCF", total=len(STAGES) * config.epochs) as report:
                results = training.run(report)
            chosen = max(FINAL_STAGES, key=lambda stage: results[stage].ndcg10)  # the first one on a tie
            model = _model(config, data.n_users, data.n_items)
            model.load_state_dict(results[chosen].params)
            diagnostics = _diagnostics(problem, model, results, chosen)
        with atomic_path(out) as folder:
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(save(results[chosen].params))
            sizes = {"n_users": data.n_users, "n_items": data.n_items}
            write_json(folder / "config.json", {"settings": settings_dict(config), "chosen": chosen, **sizes})
            write_json(folder / "diagnostics.json", diagnostics)
            (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in training.log), "utf-8")
        delete_checkpoint(checkpoints)

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 logits; users without a training event are scored with the mean user row."""
        saved = read_json(artefact / "config.json")
        config = load_settings(NCFSettings, saved["settings"], str(artefact / "config.json"))
        model = _model(config, saved["n_users"], saved["n_items"])
        model.load_state_dict(load_file(artefact / "model.safetensors"))
        _reject_unknown_users(cases, saved["n_users"])

        def logits(batch: CandidateBatch) -> ScoreArray:
            with torch_threads(config.threads):
                return model.scores(batch.per_candidate("user_id"), batch.items)

        yield from score_in_batches(cases, logits, saved["n_items"])


def _model(config: NCFSettings, n_users: int, n_items: int) -> NeuMF:
    return NeuMF(n_users, n_items, config.factors, config.hidden_layers)


def _problem(config: NCFSettings, data: TrainingData, seed: int) -> Problem:
    pairs = TrainPairs.of(data.events.filter(pl.col("task") == TASK), data.n_users, data.n_items)
    validation = ValidationLists.of(data.cases, data.valid_candidates, TASK)
    arrays = (pairs.keys, validation.users, validation.items, validation.offsets, validation.positive)
    content = hashlib.sha256()
    for array in arrays:
        content.update(str(len(array)).encode() + array.tobytes())
    identity = {
        "settings": settings_dict(config),
        "seed": seed,
        "sizes": [data.n_users, data.n_items],
        "data": content.hexdigest(),
        "versions": [torch.__version__, np.__version__],
        "code": source_sha256("gemsbench.methods.ncf"),
    }
    return Problem(pairs, validation, seed, sha256_json(identity))


def _diagnostics(problem: Problem, model: NeuMF, results: Mapping[str, StageResult], chosen: str) -> dict[str, Any]:
    validation, pairs = problem.validation, problem.pairs
    hits = validation.hit10(model.scores(validation.users, validation.items))
    seen = validation.positive_in(np.unique(pairs.items) + 1)
    case_users = validation.users[validation.offsets[:-1]]
    return {
        "chosen": chosen,
        "stages": {stage: result.summary() for stage, result in results.items()},
        "validation": {
            "n_cases": validation.n_cases,
            "ndcg@10": results[chosen].ndcg10,
            "hit@10": float(hits.mean()),
            "hit@10, positive seen in training": float(hits[seen].mean()) if seen.any() else None,
            "hit@10, positive never seen": float(hits[~seen].mean()) if not seen.all() else None,
            "n_cases, positive never seen": int((~seen).sum()),
            "n_cases, user without training events": int((~pairs.known_users[case_users]).sum()),
        },
        "users_without_training_events": int((~pairs.known_users).sum()),
        "items_without_training_events": pairs.n_items - len(np.unique(pairs.items)),
        "training_pairs": len(pairs.keys),
    }


def _reject_unknown_users(cases: pl.DataFrame, n_users: int) -> None:
    wrong = cases.filter((pl.col("user_id") < 0) | (pl.col("user_id") >= n_users))
    if not wrong.is_empty():
        raise InputError(
            f"case {wrong['case_id'][0]}: user {wrong['user_id'][0]} is not a user of the data that the method was "
            f"fitted on (0..{n_users - 1}). Fit the method on the same prepared data as the cases."
        )

"""SASRec (Kang and McAuley, Self-Attentive Sequential Recommendation, 2018, arXiv 1808.09781), cross-entropy loss.

Learns from training recommendation events only; no text, no query, no search. See encoders/sasrec_training.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from safetensors.torch import load_file, save

from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import load_settings, settings_dict
from gemsbench.encoders.sasrec_scoring import SASRecScorer
from gemsbench.encoders.sasrec_sequences import histories
from gemsbench.encoders.sasrec_training import SASRecSettings, build_model, train_sasrec
from gemsbench.files import atomic_path, read_json, write_json
from gemsbench.methods.candidate_batches import CandidateBatch, score_in_batches
from gemsbench.methods.contract import ScoreArray
from gemsbench.threads import torch_threads

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


class SASRec:
    """Score = last state of the case's recommendation history times the item's row."""

    Config = SASRecSettings

    def fit(self, config: SASRecSettings, data: TrainingData, backbone: Path | None, seed: int, out: Path) -> None:
        """Train to the best validation NDCG@10; goes on from `<out>.checkpoint` after a kill.

        Writes model.safetensors, config.json, diagnostics.json and log.jsonl (one line per evaluation).
        Raises InputError without recommendation events or without recommendation cases in validation.
        """
        checkpoint = out.with_name(f"{out.name}.checkpoint")
        trained = train_sasrec(config, data, seed, checkpoint)
        with atomic_path(out) as folder:
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(save(trained.model.state_dict()))
            write_json(folder / "config.json", {"settings": settings_dict(config), "n_items": data.n_items})
            write_json(folder / "diagnostics.json", dict(trained.record))
            (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in trained.log), "utf-8")
        delete_checkpoint(checkpoint)

    def score(self, artefact: Path, cases: pl.DataFrame) -> Iterator[ScoreArray]:
        """Yield float32 scores.

        A case without a recommendation history is scored from the start row alone, which has learned the first events
        of users and no other ones; an item that training never met scores what the known items score on average.
        """
        saved = read_json(artefact / "config.json")
        config = load_settings(SASRecSettings, saved["settings"], str(artefact / "config.json"))
        model = build_model(config, saved["n_items"])
        model.load_state_dict(load_file(artefact / "model.safetensors"))
        scorer, known = SASRecScorer(model), model.known.numpy()

        def scores(batch: CandidateBatch) -> ScoreArray:
            with torch_threads(config.loop.threads):
                return scorer.scores(histories(batch.cases, known, config.max_length), batch.rows, batch.items)

        yield from score_in_batches(cases, scores, saved["n_items"])

"""bi-encoder: one text encoder tuned on searches and recommendations together, the vectors of Sem-BSR's identifiers.

Penha, D'Amico, De Nadai et al., Semantic IDs for Joint Generative Search and Recommendation, RecSys 2025
(arXiv 2508.10478). No code of theirs is public; pair construction (pairs.py) and schedule are ours. Stopped early, and
the best weights kept, by the mean over both tasks of Recall@10 on the candidate lists of the validation cases.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gemsbench.config import settings_dict
from gemsbench.data.schema import TASKS
from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.contrastive import PairBatches, TextFeatures, ranking_loss
from gemsbench.encoders.distinct_texts import item_texts, spread_over_items
from gemsbench.encoders.pairs import Int64Array, TextTable, recommendation_pairs, search_pairs
from gemsbench.encoders.static_model import build_static_model, train_tokenizer
from gemsbench.encoders.telling import (
    AskedCases,
    Embed,
    cosine_scores,
    history_profiles,
    hit10,
    query_vectors,
    what_queries_tell,
)
from gemsbench.encoders.text_models import (
    check_model_choice,
    embed_texts,
    load_text_model,
    query_prompt,
)
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import flatten
from gemsbench.files import sha256_json, table_sha256
from gemsbench.identifiers.vectors import Float32Array
from gemsbench.progress import progress_bar
from gemsbench.seeds import stream_seed
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads
from gemsbench.training.loop import Problem, TrainingResult, train
from gemsbench.training.loop_settings import LoopSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from gemsbench.protocol.pack import TrainingData

VERSIONS = ("torch", "accelerate", "numpy", "polars", "sentence-transformers", "tokenizers", "transformers")
RATES = {"static": 1e-2, "loaded": 2e-5}  # learning rates where none is set


def _default_loop() -> LoopSettings:
    return LoopSettings(epochs=8, batch_size=256, micro_batch_size=256, patience=2, warmup=0.1)


@dataclass(frozen=True)
class BiEncoderSettings:
    """Config of bi-encoder. Raises InputError for values out of range, or a model that is not in the catalogue."""

    model: str = ""  # a name of text_models.MODELS, to be fine-tuned; "": a static model trained from nothing
    folder: str = ""  # a sentence-transformers model of one's own to be fine-tuned, instead of a name
    width: int = 128  # of a static model
    pieces: int = 8192  # of a static model's tokenizer, at most
    max_tokens: int = 128  # of a text
    window: int = 5  # consecutive recommendation events of one user whose items are pairs
    most_pairs: int = 200_000  # of items
    rec_weight: float = 1.0  # lambda of L = L_src + lambda L_rec; 0: searches only
    scale: float = 20.0  # of the cosine
    learning_rate: float = 0.0  # AdamW; 0: RATES
    loop: LoopSettings = field(default_factory=_default_loop)

    def __post_init__(self) -> None:
        least = {"width": 1, "pieces": 2, "max_tokens": 1, "window": 2, "most_pairs": 1, "rec_weight": 0}
        for name, smallest in {**least, "learning_rate": 0}.items():
            if not getattr(self, name) >= smallest:
                raise InputError(f"bi-encoder: {name} is {getattr(self, name)}; it must be at least {smallest}.")
        if not self.scale > 0:
            raise InputError(f"bi-encoder: scale is {self.scale}; it must be positive.")
        if self.loop.micro_batch_size < self.loop.batch_size:
            raise InputError(
                f"bi-encoder: loop.micro_batch_size is {self.loop.micro_batch_size}, below loop.batch_size "
                f"{self.loop.batch_size}; the pairs of a batch are each other's negatives, so it cannot be cut. "
                "Lower batch_size."
            )
        check_model_choice(self.model, self.folder, "bi-encoder")


class BiEncoder:
    """The vector of an item is that of its text under the tuned encoder; items without text have none."""

    Config = BiEncoderSettings

    def encode(self, config: BiEncoderSettings, data: TrainingData, seed: int, checkpoint: Path) -> Encoded:
        """Unit vectors of the items' texts after tuning; goes on from the checkpoint folder.

        Raises InputError when no item has a text, when training gives no pairs, when there is no validation case, and
        when the model cannot be had.
        """
        prompt = query_prompt(config.model, config.folder) if config.model else ""
        table = TextTable.of(data, prompt)
        found = {
            "src": search_pairs(data, table),
            "rec": recommendation_pairs(data, table, config.window, config.most_pairs, seed),
        }
        weights = {"src": 1.0, "rec": config.rec_weight}
        batches = PairBatches(found, weights, config.loop.batch_size, stream_seed(seed, "bi-encoder", "batches"))
        validation = _Validation.of(data)
        with torch_threads(config.loop.threads):
            model, source = _build(config, table, found["src"], seed)

            def embed(texts: Sequence[str]) -> Float32Array:
                return embed_texts(model, texts, config.loop.batch_size)

            def embed_queries(texts: Sequence[str]) -> Float32Array:
                return embed([f"{prompt}{text}" for text in texts])

            problem = Problem(
                model=model,
                optimizer=torch.optim.AdamW(model.parameters(), lr=_rate(config), weight_decay=0.0),
                steps_per_epoch=batches.steps_per_epoch,
                step=batches.step,
                loss=ranking_loss(TextFeatures(model, table.texts), config.scale),
                evaluate=lambda: validation.measure(embed, embed_queries),
                fingerprint=_fingerprint(config, seed, model, table, found, validation),
                seed=stream_seed(seed, "bi-encoder"),
                divisible=False,
            )
            with progress_bar("bi-encoder", total=config.loop.epochs * batches.steps_per_epoch) as report:
                result = train(problem, config.loop, checkpoint, report)
            vectors, known = spread_over_items(*item_texts(data.items), embed)
            tells = what_queries_tell(data, vectors, known, embed_queries)
        return Encoded(vectors, known, {**source, **_record(config, found, model, result), **tells}, result.log)


@dataclass(frozen=True, eq=False)
class _Validation:
    """The validation cases of both tasks, and the items that they name."""

    data: TrainingData
    asked: Mapping[str, AskedCases]
    named: Int64Array  # item ids, ascending

    @staticmethod
    def of(data: TrainingData) -> _Validation:
        asked = {task: cases for task in TASKS if (cases := AskedCases.of(data, task)) is not None}
        if not asked:
            raise InputError("bi-encoder: there are no validation cases with candidates; training needs them.")
        parts = [cases.lists.items for cases in asked.values()]
        parts += [flatten(cases.cases["hist_items"])[0].astype(np.int64) for cases in asked.values()]
        return _Validation(data, asked, np.unique(np.concatenate(parts)))

    def measure(self, embed: Embed, embed_queries: Embed) -> dict[str, float]:
        """Recall@10 of each task, and the mean as criterion."""
        texts, has_text = item_texts(self.data.items)
        named = np.zeros_like(has_text)
        named[self.named - 1] = True
        vectors, known = spread_over_items(texts, has_text & named, embed)
        recalls = {}
        for task, asked in self.asked.items():
            if task == "src":
                wanted = query_vectors(self.data, asked.cases, embed_queries)
            else:
                wanted = history_profiles(asked.cases, vectors)
            recalls[f"valid_recall@10_{task}"] = hit10(cosine_scores(wanted, asked.lists, vectors, known), asked.lists)
        return {"criterion": sum(recalls.values()) / len(recalls), **recalls}


def _build(
    config: BiEncoderSettings, table: TextTable, searches: Int64Array, seed: int
) -> tuple[SentenceTransformer, dict[str, Any]]:
    """The model before tuning, and where it comes from.

    A static one's tokenizer sees the texts of items and of train searches only.
    """
    if config.model or config.folder:
        return load_text_model(config.model, config.folder, config.max_tokens)
    seen = np.unique(np.concatenate([table.of_item[table.of_item >= 0], searches[:, 0]]))
    texts = table.texts.gather(seen).to_list()
    tokenizer = train_tokenizer(texts, config.pieces, config.max_tokens)
    model = build_static_model(tokenizer, texts, config.width, stream_seed(seed, "bi-encoder", "initial"))
    return model, {"model": "static"}


def _rate(config: BiEncoderSettings) -> float:
    return config.learning_rate or RATES["loaded" if config.model or config.folder else "static"]


def _record(
    config: BiEncoderSettings, found: Mapping[str, Int64Array], model: SentenceTransformer, result: TrainingResult
) -> dict[str, Any]:
    """Pairs per task, Recall@10 before and after tuning, and how the training ended."""
    lines = {line["step"]: line for line in result.log if line["stage"] == "train"}
    start = "valid_recall@10_"

    def recalls(step: int) -> dict[str, float]:
        return {name.removeprefix(start): value for name, value in lines[step].items() if name.startswith(start)}

    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "learning_rate": _rate(config),
        "pairs": {task: len(rows) for task, rows in found.items()},
        "recall@10": {"untuned": recalls(0), "tuned": recalls(result.best_step)},
        "best_step": result.best_step,
        "stopped": result.stopped,
    }


def _fingerprint(
    config: BiEncoderSettings,
    seed: int,
    model: SentenceTransformer,
    table: TextTable,
    found: Mapping[str, Int64Array],
    validation: _Validation,
) -> str:
    """sha256 of all that decides a fit, early stopping included: a checkpoint of another one is not used."""
    content = hashlib.sha256()
    lists = [asked.lists for asked in validation.asked.values()]
    arrays = [part for own in lists for part in (own.items, own.offsets, own.positive)]
    for array in (table.of_item, table.of_query, *found.values(), *arrays):
        content.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    for name, parameter in model.named_parameters():
        content.update(name.encode() + parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    identity = {
        "settings": settings_dict(config),
        "seed": seed,
        "texts": sha256_json(table.texts.to_list()),
        "content": content.hexdigest(),
        "validation": {task: table_sha256(asked.cases) for task, asked in validation.asked.items()},
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "code": source_sha256(__name__),
    }
    return sha256_json(identity)

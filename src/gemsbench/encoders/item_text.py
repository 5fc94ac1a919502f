"""item-text: vectors of the items' texts alone, frozen: TF-IDF with SVD, or a sentence-transformers model.

The inputs of TIGER's quantiser (arXiv 2305.05065, section 3.1: Sentence-T5) and of LETTER's. Without a model: TF-IDF
of words and of 3 to 5 characters within words, sublinear, cut to its leading singular directions. No interaction is
read; a search query is only compared with the vectors, for the statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from gemsbench import seeds
from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.distinct_texts import item_texts, spread_over_items
from gemsbench.encoders.telling import Embed, what_queries_tell
from gemsbench.encoders.text_models import (
    check_model_choice,
    embed_texts,
    load_text_model,
    query_prompt,
)
from gemsbench.encoders.tf_idf import TfIdf
from gemsbench.errors import InputError
from gemsbench.identifiers.vectors import Float32Array
from gemsbench.threads import torch_threads

if TYPE_CHECKING:
    from gemsbench.protocol.pack import TrainingData


@dataclass(frozen=True)
class ItemTextSettings:
    """Config of item-text. Raises InputError for values out of range, or a model that is not in the catalogue."""

    model: str = ""  # a name of text_models.MODELS; "": TF-IDF
    folder: str = ""  # a sentence-transformers model of one's own, instead of a name
    width: int = 256  # of TF-IDF's vectors, at most
    max_tokens: int = 0  # of a text, for a model; 0: as many as it was made for
    batch_size: int = 64  # texts per forward pass of a model
    threads: int = 1  # results are bit-identical for a fixed number

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("max_tokens", 0), ("batch_size", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise InputError(f"item-text: {name} is {getattr(self, name)}; it must be at least {least}.")
        check_model_choice(self.model, self.folder, "item-text")


class ItemText:
    """The vector of an item is that of its text; items without text have none."""

    Config = ItemTextSettings

    def encode(self, config: ItemTextSettings, data: TrainingData, seed: int, checkpoint: Path) -> Encoded:
        """Unit vectors of the items' texts, with what they tell of validation searches in record["tells_src"].

        Nothing is trained, so the checkpoint folder is not used. Raises InputError when no item has a text, and when
        the model cannot be had.
        """
        texts, has_text = item_texts(data.items)
        if config.model or config.folder:
            record, embed_items, embed_queries = _text_model(config)
        else:
            record, embed_items, embed_queries = _tf_idf(config, texts.filter(pl.Series(has_text)), seed)
        vectors, known = spread_over_items(texts, has_text, embed_items)
        record["without_text"] = int((~has_text).sum())
        record["without_direction"] = int((has_text & ~known[1:]).sum())
        return Encoded(vectors, known, {**record, **what_queries_tell(data, vectors, known, embed_queries)})


def _text_model(config: ItemTextSettings) -> tuple[dict[str, Any], Embed, Embed]:
    """Record, and how items and queries are embedded by a sentence-transformers model."""
    with torch_threads(config.threads):
        model, record = load_text_model(config.model, config.folder, config.max_tokens)
    prompt = query_prompt(config.model, config.folder)

    def embed_items(texts: Sequence[str]) -> Float32Array:
        with torch_threads(config.threads):
            return embed_texts(model, texts, config.batch_size)

    def embed_queries(texts: Sequence[str]) -> Float32Array:
        return embed_items([f"{prompt}{text}" for text in texts])

    return record, embed_items, embed_queries


def _tf_idf(config: ItemTextSettings, texts: pl.Series, seed: int) -> tuple[dict[str, Any], Embed, Embed]:
    """Record, and how items and queries are embedded by TF-IDF fitted on the items' texts."""
    random_state = seeds.stream_seed(seed, "item-text", "svd") % (1 << 32)
    fitted = TfIdf.fit(texts.to_list(), config.width, random_state, config.threads)
    record = {"model": "tf-idf", "features": fitted.n_features, "explained_variance": fitted.explained}
    return record, fitted.embed, fitted.embed

"""A bi-encoder trained from nothing: learned token vectors, their mean, one layer, unit length.

The modules are those of sentence-transformers; only the tokenizer (byte-pair merges of the recipe's own texts) and the
first weights are made here. For profiles without downloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from gemsbench.identifiers.vectors import Float32Array

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

UNKNOWN = "[UNK]"
_WORDS = r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]"  # a run of Han letters is one word; merges split it into pieces


def train_tokenizer(texts: Sequence[str], pieces: int, max_tokens: int) -> Tokenizer:
    """Byte-pair tokenizer of at most `pieces` pieces, lower case, NFKC; cuts texts to max_tokens tokens.

    Works on characters of any script; one that the texts do not hold becomes UNKNOWN. Equal texts give equal pieces,
    whatever their order and repetition.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=[UNKNOWN], limit_alphabet=max(pieces // 2, 2), show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def build_static_model(tokenizer: Tokenizer, texts: Sequence[str], width: int, seed: int) -> SentenceTransformer:
    """Mean of token vectors, plus a tanh layer of it, at unit length; untrained.

    Token vectors start as Gaussian directions scaled by the token's inverse document frequency in texts, so that the
    untrained model is a random projection of TF-IDF. torch's random state is left as it was.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

    generator = torch.Generator().manual_seed(seed)

    def gaussian(rows: int, columns: int, scale: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    rarity = torch.from_numpy(inverse_document_frequencies(tokenizer, texts))
    vectors = gaussian(len(rarity), width, width**-0.5) * rarity[:, None]
    with torch.random.fork_rng(devices=[]):
        layer = Dense(
            width,
            width,
            init_weight=gaussian(width, width, 0.5 * width**-0.5),
            init_bias=torch.zeros(width),
            use_residual=True,
        )
        return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors), layer, Normalize()])


def inverse_document_frequencies(tokenizer: Tokenizer, texts: Sequence[str]) -> Float32Array:
    """ln((1 + n) / (1 + documents with the token)) + 1 of each token over n texts, float32 [pieces]."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    lengths = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
    tokens = np.concatenate([np.array(encoding.ids, np.int64) for encoding in encodings] or [np.empty(0, np.int64)])
    size = tokenizer.get_vocab_size()
    distinct = np.unique(np.repeat(np.arange(len(lengths)), lengths) * size + tokens) % size
    counts = np.bincount(distinct, minlength=size)
    rarity: Float32Array = (np.log((1 + len(lengths)) / (1 + counts)) + 1).astype(np.float32)
    return rarity

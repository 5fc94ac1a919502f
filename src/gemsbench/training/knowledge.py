"""The knowledge basis of a backbone: what its layers read (or give) while it reads general text.

One pass over a seeded sample of documents. A language model reads a document as it stands; a T5 reads its first half
in the encoder and goes on with the second half in the decoder, shifted by one as in training. (The released code of
arXiv 2601.09496 gives the decoder a copy of the encoder's tokens, unshifted.) Started again after a kill, it begins
anew: a stand-in takes seconds; Qwen2.5-3B with 10,000 documents of 512 tokens needs about 6e16 operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gemsbench.backbones.catalogue import RECORD
from gemsbench.backbones.loading import Backbone, load_backbone
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, read_json, sha256_json
from gemsbench.optim.input_groups import Side
from gemsbench.optim.knowledge_basis import KnowledgeBasis
from gemsbench.progress import progress_bar
from gemsbench.seeds import hash64_many, mix64, stream_seed
from gemsbench.threads import torch_threads
from gemsbench.training.basis_settings import BasisSettings
from gemsbench.training.text_tokens import added_ids, plain_tokens
from gemsbench.training.token_lists import Int32Array, TokenLists

LONGEST = 512  # tokens of a document that a hub model reads


def make_basis(
    folder: Path,
    texts: Sequence[str],
    settings: BasisSettings,
    out: Path,
    seed: int,
    *,
    side: Side = "input",
    about: Mapping[str, Any] | None = None,
) -> KnowledgeBasis:
    """Collect the basis of the backbone in folder on a sample of texts and write the file out, whole or not at all.

    about: what to say of the corpus (plain JSON). side "output" keeps settings.output_k directions. Raises InputError
    as load_backbone does, for too little text, and for a k that leaves nothing to train.
    """
    record = _record(folder)
    with torch_threads(settings.threads):
        backbone = load_backbone(folder)
        longest = settings.max_tokens or record.get("settings", {}).get("window", LONGEST)
        documents = sampled(texts, settings.documents, settings.min_characters, seed)
        tokens = documents_as_tokens(backbone, documents, longest)
        model: Any = backbone.model
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        known = {
            **(about or {}),
            "documents": len(tokens),
            "tokens": int(tokens.lengths.sum()),
            "longest": longest,
            "text_sha256": sha256_json(documents),
        }
        batches = reading_batches(backbone, tokens, settings.batch_size)
        title = f"basis of {folder.name}"
        with progress_bar(title, total=-(-len(tokens) // settings.batch_size)) as report:
            try:
                basis = KnowledgeBasis.collect(
                    model,
                    _reported(batches, report, title),
                    k=settings.k if side == "input" else settings.output_k,
                    side=side,
                    seed=stream_seed(seed, "knowledge", "sketch"),
                    digest=sha256_json(record.get("weights_sha256", {})),
                    about=known,
                )
            except ValueError as error:
                raise InputError(f"knowledge basis of {folder}: {error}") from error
    with atomic_path(out) as temporary:
        basis.save(temporary)
        temporary.chmod(0o644)  # the writer leaves it to its owner alone
    return basis


def sampled(texts: Sequence[str], number: int, min_characters: int, seed: int) -> list[str]:
    """At most `number` different documents of at least min_characters: those with the smallest keyed hashes.

    The choice does not depend on the order of texts. Raises InputError when no document is long enough.
    """
    long_enough = list(dict.fromkeys(text for text in texts if len(text) >= min_characters))
    if not long_enough:
        raise InputError(
            f"none of {len(texts)} documents has {min_characters} characters or more. Name a corpus with longer ones, "
            "or lower knowledge.settings.min_characters."
        )
    keys = mix64(hash64_many(long_enough), stream_seed(seed, "knowledge", "documents"))
    return [long_enough[row] for row in np.argsort(keys, kind="stable")[:number]]


def documents_as_tokens(backbone: Backbone, documents: Sequence[str], longest: int) -> TokenLists:
    """The first `longest` token ids of each document that has two or more; special tokens in a text stay text."""
    tokenizer = backbone.tokenizer
    tokens = plain_tokens(tokenizer, documents, added_ids(tokenizer))
    kept = [tokens[row][:longest].tolist() for row in range(len(tokens)) if len(tokens[row]) >= 2]
    if not kept:
        raise InputError("no document has two tokens. Name a corpus with longer ones.")
    return TokenLists.of(kept)


def reading_batches(backbone: Backbone, tokens: TokenLists, rows: int) -> Iterator[dict[str, Any]]:
    """Keyword arguments of the model's forward, `rows` documents at a time, the longest first, padded on the right."""
    order = np.argsort(-tokens.lengths, kind="stable")
    for start in range(0, len(order), rows):
        documents = [tokens[int(row)] for row in order[start : start + rows]]
        yield {**_tensors(backbone, documents), "use_cache": False}


def _tensors(backbone: Backbone, documents: Sequence[Int32Array]) -> dict[str, Tensor]:
    pad = int(backbone.tokenizer.pad_token_id)
    if backbone.kind == "qwen2":
        return _padded(documents, pad)
    end, start = int(backbone.tokenizer.eos_token_id), int(backbone.model.config.decoder_start_token_id)
    heads = [np.append(document[: len(document) // 2], end) for document in documents]
    tails = [document[len(document) // 2 :] for document in documents]
    decoder = _padded([np.concatenate([[start], tail[:-1]]) for tail in tails], pad)
    return {**_padded(heads, pad), **{f"decoder_{name}": tensor for name, tensor in decoder.items()}}


def _padded(sequences: Sequence[npt.NDArray[np.integer]], pad: int) -> dict[str, Tensor]:
    """input_ids and attention_mask, int64 [B, T]."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, dtype=np.int64)
    ids[mask] = np.concatenate(sequences)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _reported(
    batches: Iterator[dict[str, Any]], report: Callable[[int, str], None], text: str
) -> Iterator[dict[str, Any]]:
    for done, batch in enumerate(batches):
        report(done, text)
        yield batch


def _record(folder: Path) -> dict[str, Any]:
    """backbone.json of a backbone of ours; empty for another model folder."""
    return dict(read_json(folder / RECORD)) if (folder / RECORD).is_file() else {}

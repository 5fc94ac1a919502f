"""Backbones made ready: hub models are fetched, stand-ins are pre-trained on plain text with the one training loop.

qwen-mini learns the next token. t5-mini learns span corruption and, in every second step, to go on where a text stops
(T5's language-model adaptation, arXiv 2104.08691, section 3.1): with span corruption alone every target begins with the
same sentinel, and the decoder learns to look at nothing in its first position, where identifiers begin.

The loss on held-out documents (t5-mini: of span corruption) is logged beside the unigram loss, the cross-entropy of the
training text's token frequencies on the same tokens: a model that learned nothing but frequencies has that one. Both
are about text tokens only, which token it is given that it is one: where a span ends cannot be known, and sentinels in
their order are no news.
Cost: 700 steps are about a minute of one core for each stand-in.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from gemsbench import seeds
from gemsbench.backbones.catalogue import (
    LOG,
    RECORD,
    BackboneSpec,
    Kind,
    QwenMiniSettings,
    T5MiniSettings,
)
from gemsbench.backbones.corpus import Corpus, Int64Array, read_corpus, token_windows
from gemsbench.backbones.folder import check_folder
from gemsbench.backbones.hub import fetch_hub_model
from gemsbench.backbones.loading import Backbone, save_backbone
from gemsbench.backbones.span_corruption import corrupt_spans
from gemsbench.backbones.stand_in_tokenizers import SENTINELS
from gemsbench.backbones.stand_ins import build_stand_in
from gemsbench.checkpoint import delete_checkpoint
from gemsbench.config import settings_dict
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, sha256_file, sha256_json, write_json
from gemsbench.progress import progress_bar
from gemsbench.source_code import source_sha256
from gemsbench.threads import torch_threads
from gemsbench.training.batches import NO_LOSS, MicroBatch
from gemsbench.training.loop import LoopSettings, Problem, train

TASK = "text"
BETAS = (0.9, 0.98)
# T5's head rows would grow so large that the rows of new tokens, which start alike, take long to unlearn.
WEIGHT_DECAY: Mapping[Kind, float] = {"t5": 0.3, "qwen2": 0.01}


def make_backbone(spec: BackboneSpec, settings: Any, corpus: Path | None, out: Path, seed: int) -> None:
    """Make the folder `out` of a backbone, whole or not at all; goes on from `<out>.checkpoint` after a kill.

    settings: of the type spec.settings. corpus: a UTF-8 text file with blank lines between documents; hub models need
    none. The folder holds spec.files; backbone.json says what went in and, for a stand-in, its held-out and unigram
    losses (nats per token). Raises InputError when the corpus is missing or too small, or a hub model cannot be
    fetched or is not what the catalogue says.
    """
    if spec.repository:
        fetch_hub_model(spec, out)
    elif corpus is None:
        raise InputError(f"{spec.name} is pre-trained on plain text. Name the text file.")
    else:
        _pretrain(spec, settings, corpus, out, seed)


def _pretrain(
    spec: BackboneSpec, settings: T5MiniSettings | QwenMiniSettings, path: Path, out: Path, seed: int
) -> None:
    plan = settings.pretraining
    corpus = read_corpus(path, plan.heldout_share)
    lines = [line for document in corpus.train for line in document.splitlines() if line]
    with torch_threads(plan.threads):
        backbone = build_stand_in(settings, lines, seed)
    identity = {
        "backbone": spec.name,
        "settings": settings_dict(settings),
        "corpus_sha256": sha256_file(path),
        "seed": seed,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)},
        "code": source_sha256("gemsbench.training.pretraining"),
    }
    text = TextTask(backbone, corpus, settings, seed)
    problem = Problem(
        model=backbone.model,
        optimizer=_optimizer(backbone, plan.learning_rate),
        steps_per_epoch=plan.steps,
        step=text.step,
        loss=text_loss,
        evaluate=text.evaluate,
        fingerprint=sha256_json(identity),
        seed=seed,
    )
    loop = LoopSettings(
        epochs=1,
        batch_size=text.rows,
        micro_batch_size=text.rows,
        evaluations_per_epoch=plan.evaluations,
        patience=plan.evaluations + 1,
        checkpoint_seconds=plan.checkpoint_seconds,
        threads=plan.threads,
    )
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with progress_bar(spec.name, total=plan.steps) as report:
        result = train(problem, loop, checkpoint, report)
    record = {**identity, "kind": spec.kind, "heldout_loss": -result.criterion, "unigram_loss": text.unigram_loss}
    _save(backbone, out, [text.log_line(line) for line in result.log], record)
    delete_checkpoint(checkpoint)


def _optimizer(backbone: Backbone, rate: float) -> torch.optim.Optimizer:
    decay = WEIGHT_DECAY[backbone.kind]
    return torch.optim.AdamW(backbone.model.parameters(), lr=rate, betas=BETAS, weight_decay=decay, fused=True)


def _save(backbone: Backbone, out: Path, log: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    model = backbone.model.cpu()
    with atomic_path(out) as folder:
        save_backbone(backbone, folder)
        checked = check_folder(folder)
        (folder / LOG).write_text("".join(f"{json.dumps(line)}\n" for line in log), encoding="utf-8")
        sizes = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "tokens": len(backbone.tokenizer),
            "rows": checked.config["vocab_size"],
        }
        weights = {file.name: sha256_file(file) for file in checked.weights}
        write_json(folder / RECORD, {**record, **sizes, "weights_sha256": weights})


class TextTask:
    """The pre-training task of one stand-in: batches of corrupted or plain windows, and the held-out loss."""

    def __init__(
        self, backbone: Backbone, corpus: Corpus, settings: T5MiniSettings | QwenMiniSettings, seed: int
    ) -> None:
        """Tokenize the corpus; raises InputError when one of its parts is shorter than a window."""
        self._backbone, self._window, self._seed = backbone, settings.window, seed
        self.rows = settings.pretraining.tokens_per_step // settings.window  # windows per step
        learned = corpus.train if backbone.kind == "t5" else with_chat_turns(backbone.tokenizer, corpus.train)
        self._windows, heldout = self._cut(learned, "training"), self._cut(corpus.heldout, "held-out")
        self._special = torch.tensor(sorted(backbone.tokenizer.all_special_ids))
        self._heldout = [
            self._without_special(self._tensors(heldout[start : start + self.rows], "held-out", start))
            for start in range(0, len(heldout), self.rows)
        ]
        self.unigram_loss = self._unigram_loss()

    def step(self, _epoch: int, step: int) -> list[MicroBatch]:
        """The windows of one step; every window comes once before any comes again."""
        number = np.arange(step * self.rows, (step + 1) * self.rows)
        passes, places = np.divmod(number, len(self._windows))
        rows = [self._order(int(which))[place] for which, place in zip(passes, places, strict=True)]
        windows = self._windows[rows]
        if self._backbone.kind == "t5" and step % 2:
            return [MicroBatch(TASK, self._continued(windows))]
        return [MicroBatch(TASK, self._tensors(windows, "train", step))]

    def evaluate(self) -> dict[str, float]:
        """The held-out loss (nats per text token), as "criterion" with its sign turned."""
        model: nn.Module = self._backbone.model
        device, total = self._backbone.model.device, 0.0
        for tensors in self._heldout:
            on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
            total += float(text_loss(model, on_device, left_out=self._special.to(device)))
        loss = total / sum(int((tensors["labels"] != NO_LOSS).sum()) for tensors in self._heldout)
        return {"criterion": -loss, "heldout_loss": loss, "unigram_loss": self.unigram_loss}

    def log_line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A line of the loop's log in the words of a backbone's; epochs are passes over the windows."""
        if line["stage"] != "train":
            return dict(line)
        passes = line["step"] * self.rows / len(self._windows)
        kept = {name: value for name, value in line.items() if name != f"loss_{TASK}"}
        return {**kept, "stage": "pretrain", "epoch": round(passes, 4)}

    def _cut(self, documents: Sequence[str], part: str) -> Int64Array:
        tokenizer = self._backbone.tokenizer
        separator = None if self._backbone.kind == "t5" else tokenizer.pad_token_id
        windows = token_windows(tokenizer, documents, self._window, separator)
        if not len(windows):
            raise InputError(
                f"the {part} documents are shorter than one window of {self._window} tokens. Take a longer text, "
                "a smaller window, or (held-out) a larger pretraining.heldout_share."
            )
        return windows

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one task lives as long as its training)
    def _order(self, which: int) -> Int64Array:
        return seeds.stream(self._seed, "pretraining", "order", which).permutation(len(self._windows))

    def _tensors(self, windows: Int64Array, part: str, number: int) -> dict[str, Tensor]:
        if self._backbone.kind == "qwen2":
            return {"input_ids": torch.from_numpy(windows[:, :-1]), "labels": torch.from_numpy(windows[:, 1:])}
        tokenizer = self._backbone.tokenizer
        sentinels = np.array(tokenizer.convert_tokens_to_ids(list(SENTINELS)))
        rng = seeds.stream(self._seed, "pretraining", "corruption", part, number)
        inputs, targets = corrupt_spans(windows, sentinels, tokenizer.eos_token_id, rng)
        return self._decoded(inputs, targets)

    def _continued(self, windows: Int64Array) -> dict[str, Tensor]:
        """The first half of each window as input, the second one as target."""
        half = windows.shape[1] // 2
        end = np.full((len(windows), 1), self._backbone.tokenizer.eos_token_id)
        return self._decoded(np.hstack([windows[:, :half], end]), windows[:, half:])

    def _decoded(self, inputs: Int64Array, targets: Int64Array) -> dict[str, Tensor]:
        before = np.roll(targets, 1, axis=1)
        before[:, 0] = self._backbone.model.config.decoder_start_token_id
        arrays = {"input_ids": inputs, "decoder_input_ids": before, "labels": np.ascontiguousarray(targets)}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _without_special(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = tensors["labels"]
        special = torch.isin(labels, self._special)
        return {**tensors, "labels": labels.masked_fill(special, NO_LOSS)}

    def _unigram_loss(self) -> float:
        """Cross-entropy of the training windows' token frequencies (plus one each) on the held-out targets."""
        counts = np.bincount(self._windows.reshape(-1), minlength=len(self._backbone.tokenizer)).astype(np.float64) + 1
        counts[self._special.numpy()] = 0
        targets = torch.cat([tensors["labels"].reshape(-1) for tensors in self._heldout]).numpy()
        return float(-np.log(counts[targets[targets != NO_LOSS]] / counts.sum()).mean())


def with_chat_turns(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> list[str]:
    """Every second document as a chat: its first line is the user's turn, the rest is the answer.

    An instruction-tuned model knows its chat template; without this the rows of <|im_start|> and <|im_end|> would be
    those of the untrained model, and LoRA, which does not train them, could not learn to end an identifier.
    """
    chats = list(documents)
    for number in range(0, len(chats), 2):
        question, _, answer = chats[number].partition("\n")
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
        chats[number] = str(tokenizer.apply_chat_template(turns, tokenize=False))
    return chats


def text_loss(model: nn.Module, tensors: Mapping[str, Tensor], left_out: Tensor | None = None) -> Tensor:
    """Sum of token cross-entropies, a float32 scalar; labels[b, t] is the token that output t has to name.

    left_out: ids of tokens that are no choice, int64.
    """
    inputs = {name: tensor for name, tensor in tensors.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits.float()
    if left_out is not None:
        logits = logits.index_fill(2, left_out, -torch.inf)
    return cross_entropy(logits.flatten(0, 1), tensors["labels"].flatten(), ignore_index=NO_LOSS, reduction="sum")

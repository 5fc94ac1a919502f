"""Tokenizers of the stand-ins, trained on the corpus: one behaves like T5's, one like Qwen2.5's.

Both hold the words of the prompt template ("Query", "|", T5's also "[rec]") as pieces of their own, because the
template's text is part of what they are trained on; an unlucky cut of these words would make every prompt several times
longer. The same text gives the same bytes, on any number of threads.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from gemsbench.protocol.prompts import prompt_text

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEMPLATE_SHARE = 20  # the template's text is one line in so many of what a tokenizer is trained on
# Outside of Latin letters and common signs: T5's vocabulary has no such pieces either.
_NOT_LATIN = re.compile("[^\n\x20-\u024f\u2010-\u2027\u2030-\u203a\u20ac]")
# A word with the space before it, a bracketed word, a number, a run of signs.
_T5_WORDS = r"▁?\[\w+\]|▁?\p{L}+|▁?\p{N}+|▁?[^▁\p{L}\p{N}]+|▁"


def train_t5_like(lines: Sequence[str], pieces: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer: <pad> 0, </s> 1, <unk> 2, pieces, and at the end <extra_id_99> ... <extra_id_0>.

    `</s>` closes every text; a run of characters without pieces (Chinese, for one) is one <unk>. At most `pieces`
    pieces with the first three. They are found by merging pairs and weighted by their frequency in the best
    segmentation, since the library's own Unigram trainer gives other pieces on each run.
    """
    latin = _with_template([_NOT_LATIN.sub(" ", line) for line in lines])
    control = ["<pad>", "</s>", "<unk>"]
    merged = Tokenizer(models.BPE())
    _set_t5_like(merged)
    merged.train_from_iterator(latin, trainers.BpeTrainer(vocab_size=pieces - len(control), show_progress=False))
    vocabulary = sorted(merged.get_vocab(), key=merged.get_vocab().__getitem__)
    counts = _counts(merged, latin)
    for _ in range(2):
        tokenizer = Tokenizer(models.Unigram(_scores(control, vocabulary, counts), unk_id=2, byte_fallback=False))
        _set_t5_like(tokenizer)
        counts = _counts(tokenizer, latin)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in reversed(SENTINELS)])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=list(SENTINELS),
    )


def _set_t5_like(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(_T5_WORDS), "isolated")]
    )


def _counts(tokenizer: Tokenizer, lines: Sequence[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch(lines, add_special_tokens=False):
        counts.update(encoding.tokens)
    return counts


def _scores(control: Sequence[str], vocabulary: Sequence[str], counts: Counter[str]) -> list[tuple[str, float]]:
    total = sum(counts[piece] + 1 for piece in vocabulary)
    weighted = [(piece, math.log((counts[piece] + 1) / total)) for piece in vocabulary]
    return [*((token, 0.0) for token in control), *weighted]


def train_qwen_like(lines: Sequence[str], pieces: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <|endoftext|> (padding), <|im_start|> and <|im_end|> (end) after its pieces.

    Any text survives a round trip; digits stand alone. The chat template is ChatML without a system turn. Words are
    found by Qwen2.5's own pattern (so "[rec]" is three pieces): AutoTokenizer applies it to every Qwen2 folder.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(_with_template(lines), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _with_template(lines: Sequence[str]) -> list[str]:
    history = [("x", 1), ("x", 2)]
    texts = [prompt_text("rec", history), prompt_text("src", history, "x"), prompt_text("src", []), "user", "assistant"]
    return [*lines, *texts * max(200, len(lines) // (_TEMPLATE_SHARE * len(texts)))]

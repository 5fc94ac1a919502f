"""Every backbone that a profile may name: where its files come from and which shapes its config must show.

Names and numbers only, so that the workflow can read it without torch. The shapes are those of the public config.json
files; the revisions are commits of the hub repositories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gemsbench.errors import InputError

Kind = Literal["t5", "qwen2"]

RECORD = "backbone.json"  # in a backbone's folder: what it is and how it was made
LOG = "log.jsonl"
ARCHITECTURES: Mapping[Kind, str] = {"t5": "T5ForConditionalGeneration", "qwen2": "Qwen2ForCausalLM"}


@dataclass(frozen=True)
class HubSettings:
    """A hub model has no settings: its revision is part of its name."""


@dataclass(frozen=True)
class PretrainingSettings:
    """How a stand-in is pre-trained. Raises InputError for values out of range."""

    tokens_per_step: int = 2048  # of running text
    steps: int = 700
    evaluations: int = 7  # of the held-out loss, evenly spread; the best one is kept
    heldout_share: float = 0.05  # of the documents
    learning_rate: float = 5e-3  # AdamW's peak, linear warmup and decay
    threads: int = 1  # of torch; results are bit-identical for a fixed number
    checkpoint_seconds: float = 30.0  # about this much work is lost by a kill

    def __post_init__(self) -> None:
        _check_at_least(self, {"tokens_per_step": 1, "evaluations": 1, "threads": 1, "checkpoint_seconds": 0})
        if self.steps < self.evaluations:
            raise InputError(
                f"backbone: pretraining.steps is {self.steps}; it must be at least evaluations ({self.evaluations})."
            )
        if not 0 < self.heldout_share <= 0.5:
            raise InputError(
                f"backbone: pretraining.heldout_share is {self.heldout_share}; it must be above 0 and at most 0.5."
            )
        if not 0 < self.learning_rate <= 1:
            raise InputError(
                f"backbone: pretraining.learning_rate is {self.learning_rate}; it must be above 0 and at most 1."
            )


@dataclass(frozen=True)
class T5MiniSettings:
    """Sizes of t5-mini. Raises InputError for values out of range."""

    vocabulary: int = 2048  # pieces of the tokenizer, without sentinels
    width: int = 64
    feed_forward: int = 128
    layers: int = 2  # of the encoder, and as many of the decoder
    heads: int = 4
    window: int = 64  # tokens of running text per row of pre-training; 128 learns more slowly
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True)
class QwenMiniSettings:
    """Sizes of qwen-mini. Raises InputError for values out of range."""

    vocabulary: int = 2048  # pieces of the tokenizer, without control tokens
    width: int = 64
    feed_forward: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    window: int = 128  # tokens of running text per row of pre-training
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise InputError(f"backbone: kv_heads is {self.kv_heads}; it must divide heads ({self.heads}).")


def _check_at_least(settings: Any, least: Mapping[str, int]) -> None:
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise InputError(f"backbone: {name} is {getattr(settings, name)}; it must be at least {smallest}.")


def _check_sizes(settings: T5MiniSettings | QwenMiniSettings) -> None:
    # A byte-level vocabulary holds the 256 bytes whatever the corpus.
    _check_at_least(settings, {"vocabulary": 300, "width": 8, "feed_forward": 8, "layers": 1, "heads": 1})
    if settings.width % (2 * settings.heads):
        raise InputError(
            f"backbone: width is {settings.width}; it must be a multiple of 2 x heads ({settings.heads}): "
            "rotary positions turn pairs of values."
        )
    if not 16 <= settings.window <= min(512, settings.pretraining.tokens_per_step):
        raise InputError(
            f"backbone: window is {settings.window}; it must be 16 to 512 and at most pretraining.tokens_per_step "
            f"({settings.pretraining.tokens_per_step})."
        )


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone of the catalogue.

    files: names in its folder when it is there. settings: the dataclass of its settings in a profile. repository and
    revision: of a hub model, "" for a stand-in. shapes: keys of config.json and the values that they must have.
    """

    name: str
    kind: Kind
    files: tuple[str, ...]
    settings: type
    repository: str = ""
    revision: str = ""
    shapes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def downloaded(self) -> tuple[str, ...]:
        """The files that come from the hub; empty for a stand-in."""
        return tuple(name for name in self.files if name not in (RECORD, LOG)) if self.repository else ()


def check_shapes(spec: BackboneSpec, config: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless config (of config.json) is of the spec's architecture and shows its shapes."""
    for key, expected in {"architectures": [ARCHITECTURES[spec.kind]], **spec.shapes}.items():
        if config.get(key) != expected:
            raise InputError(
                f"{where}: {key} is {config.get(key)}, but {spec.name} has {expected}. This is another model: delete "
                f"the folder and fetch it again (gemsbench backbone {spec.name})."
            )


_RECORDS = (RECORD, LOG)
_T5_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_QWEN_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_STAND_IN_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def _flan_t5(name: str, revision: str, **sizes: int) -> BackboneSpec:
    shapes = {
        "d_kv": 64,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        **sizes,
    }
    files = (*_T5_FILES, "model.safetensors", *_RECORDS)
    return BackboneSpec(name, "t5", files, HubSettings, f"google/{name}", revision, shapes)


def _qwen(repository: str, revision: str, weights: tuple[str, ...], **sizes: int) -> BackboneSpec:
    shapes = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True, **sizes}
    files = (*_QWEN_FILES, *weights, *_RECORDS)
    name = repository.rpartition("/")[2].lower()
    return BackboneSpec(name, "qwen2", files, HubSettings, repository, revision, shapes)


T5_MINI = BackboneSpec("t5-mini", "t5", (*_STAND_IN_FILES, *_RECORDS), T5MiniSettings)
QWEN_MINI = BackboneSpec("qwen-mini", "qwen2", (*_STAND_IN_FILES, "chat_template.jinja", *_RECORDS), QwenMiniSettings)
FLAN_T5_SMALL = _flan_t5(
    "flan-t5-small",
    "0fc9ddf78a1e988dac52e2dac162b0ede4fd74ab",
    d_model=512,
    d_ff=1024,
    num_heads=6,
    num_layers=8,
    num_decoder_layers=8,
)
FLAN_T5_BASE = _flan_t5(
    "flan-t5-base",
    "7bcac572ce56db69c1ea7c8af255c5d7c9672fc2",
    d_model=768,
    d_ff=2048,
    num_heads=12,
    num_layers=12,
    num_decoder_layers=12,
)
QWEN2_5_0_5B_INSTRUCT = _qwen(
    "Qwen/Qwen2.5-0.5B-Instruct",
    "7ae557604adf67be50417f59c2c2f167def9a775",
    ("model.safetensors",),
    hidden_size=896,
    intermediate_size=4864,
    num_attention_heads=14,
    num_hidden_layers=24,
)
QWEN2_5_3B_INSTRUCT = _qwen(
    "Qwen/Qwen2.5-3B-Instruct",
    "aa8e72537993ba99e69dfaafa59ed015b17504d1",
    ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    hidden_size=2048,
    intermediate_size=11008,
    num_attention_heads=16,
    num_hidden_layers=36,
)
ALL: Mapping[str, BackboneSpec] = {
    spec.name: spec
    for spec in (T5_MINI, QWEN_MINI, FLAN_T5_SMALL, FLAN_T5_BASE, QWEN2_5_0_5B_INSTRUCT, QWEN2_5_3B_INSTRUCT)
}

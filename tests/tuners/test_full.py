"""Full fine-tuning: what is trained, what is decayed, what cold items keep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gemsbench.backbones.loading import load_backbone
from gemsbench.errors import InputError
from gemsbench.tuners.full import FullFineTuning, FullSettings
from gemsbench.tuners.parameters import token_matrices

KINDS = ["t5", "qwen2"]


def _prepare(tiny: Any, kind: str, activation_checkpointing: bool = False, **settings: float) -> Any:
    return FullFineTuning().prepare(
        FullSettings(**settings),
        tiny.backbones[kind](),
        tiny.new_rows,
        activation_checkpointing=activation_checkpointing,
    )


@pytest.mark.parametrize(("kind", "matrices"), [("t5", 2), ("qwen2", 1)])
def test_every_parameter_is_trained_once(tiny: Any, kind: str, matrices: int) -> None:
    tuned = _prepare(tiny, kind)
    model = tuned.model
    in_groups = [id(parameter) for group in tuned.optimizer.param_groups for parameter in group["params"]]
    assert sorted(in_groups) == sorted(id(parameter) for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(token_matrices(model)) == matrices
    total = sum(parameter.numel() for parameter in model.parameters())
    assert tuned.counts() == {"trainable": total, "new_rows": len(tiny.new_rows) * 32 * matrices, "total": total}


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_touches_only_matrices_between_embedding_and_head(tiny: Any, kind: str) -> None:
    tuned = _prepare(tiny, kind, weight_decay=0.5, learning_rate=0.1)
    before = {name: parameter.detach().clone() for name, parameter in tuned.model.named_parameters()}
    for parameter in tuned.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tuned.optimizer.step()
    for name, parameter in tuned.model.named_parameters():
        kept = parameter.ndim == 1 or any(part in name for part in ("shared", "embed", "lm_head", "relative"))
        expected = before[name] if kept else before[name] * (1 - 0.1 * 0.5)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6 if not kept else 0, atol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_a_learning_rate_of_their_own(tiny: Any, kind: str) -> None:
    tuned = _prepare(tiny, kind, learning_rate=1e-4, rows_learning_rate=1e-2)
    rates = {id(p): group["lr"] for group in tuned.optimizer.param_groups for p in group["params"]}
    tokens = {id(matrix) for matrix in token_matrices(tuned.model)}
    assert {rates[key] for key in tokens} == {1e-2}
    assert {rate for key, rate in rates.items() if key not in tokens} == {1e-4}


def test_input_rows_of_items_in_no_batch_stay_bit_for_bit(tiny: Any) -> None:
    tuned = _prepare(tiny, "t5", weight_decay=0.1)
    before = tuned.model.shared.weight.detach().clone()
    taught = tiny.lessons(8, items=range(tiny.new_rows.start, tiny.new_rows.start + 4))
    tiny.train("t5", tuned, taught, steps=10)
    changed = (tuned.model.shared.weight != before).any(dim=1).nonzero().flatten().tolist()
    shown = set(taught.prompts.flatten().tolist()) | {0}  # 0 starts the decoder
    assert set(changed) == shown
    cold = tuned.model.lm_head.weight[tiny.new_rows.start + 4 : tiny.new_rows.stop]
    assert cold.norm(dim=1).min() > 0.5  # the softmax pushes cold head rows away; nothing shrinks them to 0


def test_exactly_the_rows_of_a_batch_have_a_gradient(tiny: Any) -> None:
    tuned = _prepare(tiny, "t5")
    taught = tiny.lessons(3)
    cross_entropy(tiny.logits("t5", tuned.model, taught.prompts), taught.targets).backward()
    touched = tuned.model.shared.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert set(touched) == set(taught.prompts.flatten().tolist()) | {0}
    assert (tuned.model.lm_head.weight.grad.abs().sum(dim=1) > 0).all()  # a softmax over the whole vocabulary


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_cases_are_learned_by_heart(tiny: Any, kind: str) -> None:
    tuned = _prepare(tiny, kind, learning_rate=3e-3)
    taught = tiny.lessons(50)
    tiny.train(kind, tuned, taught, steps=60)
    answers = tiny.calm_logits(kind, tuned.model, taught.prompts).argmax(dim=1)
    assert torch.equal(answers, taught.targets)


@pytest.mark.parametrize(("kind", "auto"), [("t5", AutoModelForSeq2SeqLM), ("qwen2", AutoModelForCausalLM)])
def test_a_saved_model_is_a_plain_folder(tiny: Any, kind: str, auto: Any, tmp_path: Path) -> None:
    tuned = _prepare(tiny, kind)
    taught = tiny.lessons(6)
    tiny.train(kind, tuned, taught, steps=3)
    tuned.save(tmp_path / "model")
    loaded = auto.from_pretrained(tmp_path / "model").eval()
    expected = tiny.calm_logits(kind, tuned.model, taught.prompts)
    for model in (loaded, load_backbone(tmp_path / "model").model):
        assert torch.equal(tiny.calm_logits(kind, model, taught.prompts), expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("<|i1_3|>") == 33
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == (kind == "qwen2")


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(tiny: Any, kind: str) -> None:
    taught = tiny.lessons(4)
    gradients = []
    for checkpointing in (False, True):
        tuned = _prepare(tiny, kind, activation_checkpointing=checkpointing)
        assert tuned.model.is_activation_checkpointing == checkpointing
        tuned.model.train()
        cross_entropy(tiny.logits(kind, tuned.model, taught.prompts), taught.targets).backward()
        gradients.append({name: parameter.grad for name, parameter in tuned.model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_weights_that_are_not_fp32_are_refused(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"float32, not torch\.bfloat16"):
        FullFineTuning().prepare(FullSettings(), tiny.qwen(dtype=torch.bfloat16), tiny.new_rows)


@pytest.mark.parametrize("field", ["learning_rate", "rows_learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"full: {field} is"):
        FullSettings(**{field: value})


def test_rows_that_the_model_does_not_have_are_refused(tiny: Any) -> None:
    rows = range(tiny.n_rows - 1, tiny.n_rows + 1)
    with pytest.raises(InputError, match="Add the tokens"):
        FullFineTuning().prepare(FullSettings(), tiny.t5(), rows)


@pytest.mark.slow
def test_full_fine_tuning_does_not_import_peft() -> None:
    code = "import sys, gemsbench.tuners.full; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""LoRA: the invariants of the method, the rows of new tokens, and the traps on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gemsbench.backbones.loading import load_backbone
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.tuners.lora import LoRA, LoRASettings

KIND = "qwen2"
EAGER = {"learning_rate": 5e-3, "rows_learning_rate": 2e-2}
# in and out features of q, k, v, o, gate, up, down on the tiny model, two layers
FEATURES = 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 48))


def _prepare(tiny: Any, base: Any = None, rows: range | None = None, seed: int = 0, **settings: float) -> Any:
    backbone = tiny.qwen() if base is None else base
    return LoRA().prepare(
        LoRASettings(rank=4, alpha=8, **settings),  # type: ignore[arg-type]
        backbone,
        tiny.new_rows if rows is None else rows,
        seed=seed,
    )


def _trained(tiny: Any, base: Any = None, steps: int = 8) -> tuple[Any, Any]:
    tuned = _prepare(tiny, base, **EAGER)
    taught = tiny.lessons(12)
    tiny.train(KIND, tuned, taught, steps)
    return tuned, taught


def _rows_of(layer: Any) -> Tensor:
    """The present matrix of an embedding or head, wrapped or not."""
    return layer.weight.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("alpha", "learning_rate"), [(8, 1e-4), (64, 1e-1)])
def test_step_0_is_the_base_model_bit_for_bit(tiny: Any, dtype: Any, alpha: int, learning_rate: float) -> None:
    base = tiny.qwen(dtype=dtype)
    prompts = tiny.lessons(6).prompts
    expected = tiny.calm_logits(KIND, base.model, prompts)
    settings = LoRASettings(rank=4, alpha=alpha, learning_rate=learning_rate)
    tuned = LoRA().prepare(settings, base, tiny.new_rows)
    assert torch.equal(tiny.calm_logits(KIND, tuned.model, prompts), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_changes_adapters_and_new_rows_and_nothing_else(tiny: Any, dtype: Any) -> None:
    base = tiny.qwen(dtype=dtype)
    frozen = {name: weight.detach().clone() for name, weight in base.model.named_parameters()}
    tuned = _prepare(tiny, base, **EAGER)
    trainable = {name: p for name, p in tuned.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in trainable.items()}
    tiny.train(KIND, tuned, tiny.lessons(12), steps=5)
    assert all(torch.equal(tuned.base[name], weight) for name, weight in frozen.items())
    still = [name for name, weight in trainable.items() if torch.equal(weight, before[name])]
    assert still == []
    optimized = {id(p) for group in tuned.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(weight) for weight in trainable.values()}


def test_new_rows_move_and_no_other_row(tiny: Any) -> None:
    base = tiny.qwen()
    before = base.model.get_input_embeddings().weight.detach().clone()
    tuned, _ = _trained(tiny, base)
    changed = (_rows_of(tuned.model.get_input_embeddings()) != before).all(dim=1).nonzero().flatten().tolist()
    assert changed == list(tiny.new_rows)


def test_head_rows_equal_input_rows_after_training(tiny: Any) -> None:
    tuned, _ = _trained(tiny)
    assert torch.equal(*(_rows_of(f()) for f in (tuned.model.get_input_embeddings, tuned.model.get_output_embeddings)))
    merged = tuned.merged().model
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_copies_nothing_on_the_device_and_changes_no_training(
    tiny: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dropout": 0.0, **EAGER}
    tuned, twin = (_prepare(tiny, tiny.qwen(dtype=dtype), **settings) for _ in range(2))
    taught = tiny.lessons(12)
    for each in (tuned, twin):
        tiny.train(KIND, each, taught, 3)

    def refuse(tensor: Tensor, memo: object) -> None:
        raise AssertionError("a tensor is copied where it lies")

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__deepcopy__", refuse)
        patch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
        merged = tuned.merged().model
    theirs = {parameter.data_ptr() for parameter in merged.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in tuned.model.parameters()}
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    for each in (tuned, twin):
        tiny.train(KIND, each, taught, 2)
    after = dict(tuned.model.named_parameters())
    assert all(torch.equal(after[name], parameter) for name, parameter in twin.model.named_parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_merged_and_unmerged_agree(tiny: Any, checkpointing: bool) -> None:
    settings = LoRASettings(rank=4, alpha=8, **EAGER)  # type: ignore[arg-type]
    tuned = LoRA().prepare(settings, tiny.qwen(), tiny.new_rows, activation_checkpointing=checkpointing)
    taught = tiny.lessons(12)
    tiny.train(KIND, tuned, taught, steps=8)
    expected = tiny.calm_logits(KIND, tuned.model, taught.prompts)
    merged = tuned.merged().model
    torch.testing.assert_close(tiny.calm_logits(KIND, merged, taught.prompts), expected, rtol=0, atol=2e-5)
    assert not any("lora" in name or "adapter" in name for name, _ in merged.named_modules())
    assert torch.equal(tiny.calm_logits(KIND, tuned.model, taught.prompts), expected)  # the copy left it alone


def test_trainable_values_are_counted(tiny: Any) -> None:
    total = sum(parameter.numel() for parameter in tiny.qwen().model.parameters())
    rows = len(tiny.new_rows) * 32
    assert _prepare(tiny).counts() == {
        "trainable": 4 * FEATURES + rows,
        "new_rows": rows,
        "total": total + 4 * FEATURES + rows,
    }
    assert _prepare(tiny, rows=range(0)).counts()["trainable"] == 4 * FEATURES


def test_without_its_adapter_it_is_the_base(tiny: Any) -> None:
    prompts = tiny.lessons(12).prompts
    expected = tiny.calm_logits(KIND, tiny.qwen().model, prompts)
    tuned, _ = _trained(tiny)
    with tuned.peft_model.disable_adapter():
        assert torch.equal(tiny.calm_logits(KIND, tuned.model, prompts), expected)
    assert not torch.allclose(tiny.calm_logits(KIND, tuned.model, prompts), expected, atol=0.1)


def test_fifty_cases_are_learned_by_heart(tiny: Any) -> None:
    tuned = _prepare(tiny, learning_rate=1e-2, rows_learning_rate=3e-2, dropout=0.0)
    taught = tiny.lessons(50)
    tiny.train(KIND, tuned, taught, steps=120)
    assert torch.equal(tiny.calm_logits(KIND, tuned.model, taught.prompts).argmax(dim=1), taught.targets)


def test_an_update_has_at_most_the_rank_of_its_adapter(tiny: Any) -> None:
    base = tiny.qwen()
    before = {name: weight.detach().clone() for name, weight in base.model.named_parameters()}
    tuned, _ = _trained(tiny, base)
    after = dict(tuned.merged().model.named_parameters())
    ranks = {
        name: int(torch.linalg.matrix_rank((after[name] - weight).double(), atol=1e-5))
        for name, weight in before.items()
        if name.endswith("_proj.weight")
    }
    assert len(ranks) == 14
    assert all(0 < rank <= 4 for rank in ranks.values())


def test_exactly_the_new_rows_of_a_batch_have_a_gradient_from_the_input(tiny: Any) -> None:
    tuned = _prepare(tiny)
    prompts = tiny.lessons(3).prompts
    tuned.model.model(input_ids=prompts).last_hidden_state.square().sum().backward()
    touched = tuned.rows.grad.abs().sum(dim=1).nonzero().flatten() + tiny.new_rows.start
    assert set(touched.tolist()) == set(prompts[:, -1].tolist())


@pytest.mark.parametrize("rows", [True, False])
def test_head_gives_the_models_logits_in_fp32_and_gradients_to_the_rows(tiny: Any, rows: bool) -> None:
    tuned = _prepare(tiny, rows=tiny.new_rows if rows else range(0), **EAGER)
    tiny.train(KIND, tuned, tiny.lessons(12), steps=4)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    own = tuned.model.get_output_embeddings()(hidden)
    torch.testing.assert_close(tuned.head()(hidden), own, rtol=1e-6, atol=1e-6)
    if rows:
        gradients = [torch.autograd.grad(f(hidden).logsumexp(1).sum(), tuned.rows)[0] for f in _heads(tuned)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
        assert gradients[0].abs().min() > 0


def _heads(tuned: Any) -> list[Any]:
    return [tuned.head(), tuned.model.get_output_embeddings()]


def test_head_of_a_bf16_base_has_fp32_rows(tiny: Any) -> None:
    tuned, _ = _trained(tiny, tiny.qwen(dtype=torch.bfloat16))
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    exact = torch.nn.functional.linear(hidden, tuned.merged().model.lm_head.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = tuned.head()(hidden)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, exact, rtol=1e-6, atol=1e-6)
    rounded = tuned.rows.to(torch.bfloat16).float()
    assert not torch.allclose(tuned.rows, rounded, rtol=1e-5)  # so the comparison would notice rounded rows


@pytest.mark.parametrize("rows", [True, False])
def test_activation_checkpointing_changes_no_gradient(tiny: Any, rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The hook that transformers puts on a frozen embedding would hide checkpointing of the wrong form.
    monkeypatch.setattr(PreTrainedModel, "enable_input_require_grads", lambda model: None)
    taught = tiny.lessons(4)
    gradients = []
    for checkpointing in (False, True):
        tuned = LoRA().prepare(
            LoRASettings(rank=4, dropout=0.0),
            tiny.qwen(),
            tiny.new_rows if rows else range(0),
            activation_checkpointing=checkpointing,
        )
        assert tuned.model.is_activation_checkpointing == checkpointing
        tuned.model.train()
        cross_entropy(tiny.logits(KIND, tuned.model, taught.prompts), taught.targets).backward()
        gradients.append({name: p.grad for name, p in tuned.model.named_parameters() if p.requires_grad})
    assert all(gradient is not None for gradient in gradients[1].values())
    torch.testing.assert_close(*gradients)


def test_adapters_are_a_function_of_the_seed_and_of_nothing_else(tiny: Any) -> None:
    base = tiny.qwen()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = _prepare(tiny, base, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    same, other = _prepare(tiny, seed=1), _prepare(tiny, seed=2)
    for name, weight in one.model.named_parameters():
        assert torch.equal(weight, same.model.get_parameter(name))
        if "lora_A" in name:
            assert not torch.equal(weight, other.model.get_parameter(name))


def test_new_rows_on_t5_or_an_untied_model_are_refused_and_the_model_is_left_alone(tiny: Any) -> None:
    for base in (tiny.t5(), tiny.qwen(tied=False)):
        names = [name for name, _ in base.model.named_modules()]
        with pytest.raises(InputError, match="cannot train the rows of new tokens on this"):
            _prepare(tiny, base)
        assert [name for name, _ in base.model.named_modules()] == names


def test_t5_without_new_rows_is_adapted(tiny: Any) -> None:
    base = tiny.t5()
    taught = tiny.lessons(6)
    expected = tiny.calm_logits("t5", base.model, taught.prompts)
    tuned = _prepare(tiny, base, rows=range(0), **EAGER)
    assert torch.equal(tiny.calm_logits("t5", tuned.model, taught.prompts), expected)
    tiny.train("t5", tuned, taught, steps=5)
    after = tiny.calm_logits("t5", tuned.model, taught.prompts)
    assert not torch.allclose(after, expected, atol=0.01)
    torch.testing.assert_close(tiny.calm_logits("t5", tuned.merged().model, taught.prompts), after, rtol=0, atol=2e-5)


def test_rows_that_the_model_does_not_have_are_refused(tiny: Any) -> None:
    with pytest.raises(InputError, match="Add the tokens"):
        _prepare(tiny, rows=range(tiny.n_rows, tiny.n_rows + 2))


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("alpha", -1), ("dropout", 1.0), ("learning_rate", -1.0), ("rows_learning_rate", 1.0)],
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"lora: {field} is"):
        LoRASettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_is_a_plain_folder_and_training_goes_on(tiny: Any, dtype: Any, tmp_path: Path) -> None:
    tuned, taught = _trained(tiny, tiny.qwen(dtype=dtype))
    weights = {name: weight.detach().clone() for name, weight in tuned.model.named_parameters()}
    tuned.save(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    merged = tuned.merged().model
    assert loaded.dtype == torch.float32
    models = (loaded, merged, load_backbone(tmp_path / "model").model)
    values = [tiny.calm_logits(KIND, model, taught.prompts) for model in models]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("<|i1_3|>") == 33
    assert all(torch.equal(weights[name], weight) for name, weight in tuned.model.named_parameters())
    tiny.train(KIND, tuned, taught, steps=1)
    assert not torch.equal(weights["model.layers.0.self_attn.q_proj.lora_B.default.weight"], _first_b(tuned))


def _first_b(tuned: Any) -> Tensor:
    return tuned.model.get_parameter("model.layers.0.self_attn.q_proj.lora_B.default.weight").detach()  # type: ignore[no-any-return]


def test_saving_twice_gives_the_same_bytes(tiny: Any, tmp_path: Path) -> None:
    tuned, _ = _trained(tiny, steps=2)
    for name in ("one", "two"):
        tuned.save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    record = read_json(tmp_path / "one" / "adapter" / "adapter.json")
    assert (record["first_row"], record["n_rows"]) == (tiny.new_rows.start, len(tiny.new_rows))


def test_saving_the_whole_embedding_instead_would_part_it_from_the_head(tiny: Any) -> None:
    """Why rows are trained by trainable_token_indices: peft's other way breaks the tie and says nothing."""
    config = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["embed_tokens"])
    model = get_peft_model(tiny.qwen().model, config).get_base_model()
    trained = model.get_input_embeddings().modules_to_save["default"].weight
    with torch.no_grad():
        trained.add_(1.0)
    assert model.config.tie_word_embeddings
    assert not torch.equal(model.get_output_embeddings().weight, trained)

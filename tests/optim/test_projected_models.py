"""The projected backward on tiny language models: padding, encoder and decoder, checkpointing, bf16, new token rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

TASKS = ["src", "rec", "rec", "src", "rec"]


def tuned(lab: SimpleNamespace, kind: str, backward: str, dtype: torch.dtype, **settings: Any) -> tuple[Any, Any]:
    model = lab.models.build(kind).to(dtype)
    groups = settings.pop("groups", {})
    settings = {"lr": 2e-3, "update_gap": 3, "gate_lag": 1, "gate": "prior", **settings}
    return model, lab.optimizer(model, groups=groups, preset="fast", backward=backward, **settings)


def losses_by_task(values: Any, tasks: list[str]) -> dict[str, Any]:
    return {
        t: torch.stack([v for v, name in zip(values.detach(), tasks, strict=True) if name == t]).sum()
        for t in set(tasks)
    }


def step(opt: Any, model: Any, rows: Any, mixed: bool) -> None:
    if mixed:
        values = rows.row_losses(model)
        with opt.mixed_batch(rows.tasks, tokens=rows.tokens, last=True) as part:
            part.backward(values.sum(), losses=losses_by_task(values, rows.tasks))
    else:
        for task in ("src", "rec"):
            with opt.task(task, tokens=rows.tokens[task], last=task == "rec") as part:
                part.backward(rows.of(task).row_losses(model).sum())
    opt.step()
    opt.zero_grad()


def apart(first: nn.Module, second: nn.Module) -> float:
    other = dict(second.named_parameters())
    return max(
        float((value.double() - other[name].double()).abs().max().detach() / value.detach().double().abs().max())
        for name, value in first.named_parameters()
    )


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
def test_a_language_model_is_tuned_as_with_full_gradients(lab: SimpleNamespace, kind: str, mixed: bool) -> None:
    """Padded rows of unequal length; with mixed batches also the order of the tasks' sums differs."""
    model, opt = tuned(lab, kind, "projected", torch.float64)
    twin, full = tuned(lab, kind, "full", torch.float64)
    start = lab.models.build(kind).double()
    for number in range(7):
        rows = lab.models.rows(kind, TASKS, seed=number)
        step(opt, model, rows, mixed)
        step(full, twin, rows, mixed=False)
        assert apart(model, twin) <= 1e-8, number
    assert apart(model, start) > 1e-3


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_padding_counts_for_nothing(lab: SimpleNamespace, kind: str) -> None:
    """The same rows padded further give the same step."""
    found = []
    for widen in (lambda rows: rows, further_padded):
        model, opt = tuned(lab, kind, "projected", torch.float64)
        for number in range(4):
            step(opt, model, widen(lab.models.rows(kind, TASKS, seed=number)), mixed=True)
        found.append(model)
    assert apart(*found) <= 1e-6  # positions of Qwen2 are turned into fp32 angles


def further_padded(rows: Any) -> Any:
    extra = torch.zeros(len(rows.ids), 4, dtype=torch.int64)
    left = rows.kind == "qwen2"

    def widen(values: Any, fill: int) -> Any:
        parts = [extra + fill, values] if left else [values, extra + fill]
        return torch.cat(parts, dim=1)

    return type(rows)(rows.kind, widen(rows.ids, 0), widen(rows.mask, 0), widen(rows.labels, -100), rows.tasks)


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
def test_activation_checkpointing_changes_nothing(lab: SimpleNamespace, kind: str, mixed: bool) -> None:
    model, opt = tuned(lab, kind, "projected", torch.float64)
    twin, plain = tuned(lab, kind, "projected", torch.float64)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for number in range(5):
        rows = lab.models.rows(kind, TASKS, seed=number)
        step(opt, model, rows, mixed)
        step(plain, twin, rows, mixed)
        assert apart(model, twin) <= 1e-9


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_bf16_models_learn_as_fp32_models_do(lab: SimpleNamespace, kind: str) -> None:
    """The loss on fixed rows falls by a quarter or more, and about as far as in fp32."""
    rows, ends = lab.models.rows(kind, TASKS, seed=1), {}
    for dtype in (torch.float32, torch.bfloat16):
        model, opt = tuned(lab, kind, "projected", dtype, lr=5e-3, groups={"rank": 8})
        with torch.no_grad():
            before = float(rows.row_losses(model).sum())
        for _ in range(25):
            step(opt, model, rows, mixed=True)
        with torch.no_grad():
            ends[dtype] = float(rows.row_losses(model).sum()) / before
        assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert all(end < 0.75 for end in ends.values())
    assert ends[torch.bfloat16] == pytest.approx(ends[torch.float32], abs=0.1)


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_autocast_gives_the_projections_of_its_own_gradients(lab: SimpleNamespace, kind: str) -> None:
    """fp32 weights under bf16 autocast: moments close to those of the full gradients."""
    model, opt = tuned(lab, kind, "projected", torch.float32, update_gap=50)
    twin, full = tuned(lab, kind, "full", torch.float32, update_gap=50)
    for number in range(2):
        rows = lab.models.rows(kind, TASKS, seed=number)
        for bank, optimizer in ((model, opt), (twin, full)):
            for task in ("src", "rec"):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = rows.of(task).row_losses(bank).sum()
                with optimizer.task(task, tokens=rows.tokens[task], last=task == "rec") as part:
                    part.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    others = dict(twin.named_parameters())
    for name in opt.effective_ranks():
        state, other = opt.state[dict(model.named_parameters())[name]], full.state[others[name]]
        # The bases come of sketches that were rounded apart: compare what does not depend on the turn of a basis.
        energy, expected = state["exp_avg_sq"].sum(), other["exp_avg_sq"].sum()
        assert float(energy) == pytest.approx(float(expected), rel=0.1), name


@pytest.mark.parametrize("kind", ["qwen2", "t5"])
def test_new_token_rows_train_beside_the_projected_matrices(lab: SimpleNamespace, kind: str) -> None:
    """Rows 30..39 of the token matrices by AdamW, all other rows keep every bit; equal to full gradients."""
    names = ["model.embed_tokens.weight"] if kind == "qwen2" else ["shared.weight", "lm_head.weight"]
    chosen = {"rows": {name: range(30, 40) for name in names}, "rows_lr": 0.01}
    model, opt = tuned(lab, kind, "projected", torch.float64, groups=chosen)
    twin, full = tuned(lab, kind, "full", torch.float64, groups=chosen)
    before = {name: dict(model.named_parameters())[name].detach().clone() for name in names}
    for number in range(5):
        rows = lab.models.rows(kind, TASKS, seed=number)
        step(opt, model, rows, mixed=True)
        step(full, twin, rows, mixed=False)
        assert apart(model, twin) <= 1e-8
    for name in names:
        after = dict(model.named_parameters())[name]
        assert torch.equal(after[:30], before[name][:30])
        assert (after[30:] != before[name][30:]).any(dim=1).all()
        assert opt.state[after]["exp_avg"].shape == (10, 32)


def test_all_matrices_of_an_encoder_decoder_receive_something(lab: SimpleNamespace) -> None:
    """Keys and values of the cross attention read the encoder's output, which is one tensor for all layers."""
    model, opt = tuned(lab, "t5", "projected", torch.float32)
    for number in range(3):
        step(opt, model, lab.models.rows("t5", TASKS, seed=number), mixed=True)
    names = dict(model.named_parameters())
    assert len(opt.effective_ranks()) == 2 * 7 + 2 * 11
    for name in opt.effective_ranks():
        assert float(opt.state[names[name]]["exp_avg"].abs().max()) > 0, name

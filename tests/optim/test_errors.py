"""Bad input is refused with words that say what, where and how to go on; what is only doubtful is said aloud."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gemsbench.optim import GEMS, GEMSConfig, gems_param_groups

MODES: dict[str, dict[str, Any]] = {
    "paper": {},
    "per-layer": {"backward": "per_layer", "gate_lag": 1},
    "fast": {"preset": "fast"},
}


def refusal(run: Any) -> str:
    with pytest.raises(ValueError, match=r"^GEMS|^gems_param_groups|^no directions") as caught:
        run()
    return str(caught.value)


def enter(context: Any) -> None:
    with context:
        pass


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_task_is_answered_with_the_nearest_name(lab: SimpleNamespace, mode: str) -> None:
    opt = lab.optimizer(lab.Bank(), tasks=("search", "recommend"), **MODES[mode])
    said = refusal(lambda: enter(opt.task("recomend", tokens=3)))
    assert "'recomend'" in said and "Did you mean 'recommend'?" in said and "search" in said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [None, 0, -1, math.nan, math.inf, torch.tensor(math.nan)], ids=str)
def test_tokens_are_needed(lab: SimpleNamespace, mode: str, tokens: Any) -> None:
    opt = lab.optimizer(lab.Bank(), **MODES[mode])
    said = refusal(lambda: enter(opt.task("src", tokens=tokens)))
    assert "'src'" in said and "tokens" in said


def test_a_refused_pass_leaves_the_optimizer_usable(lab: SimpleNamespace) -> None:
    model, twin = lab.Bank(), lab.Bank()
    opt, plain = lab.optimizer(model), lab.optimizer(twin)
    refusal(lambda: enter(opt.task("srcc", tokens=3)))
    refusal(lambda: enter(opt.task("src")))
    steps = lab.lessons(model, 2)
    lab.train(opt, model, steps)
    lab.train(plain, twin, steps)
    assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())


def test_an_error_in_a_pass_is_forgotten_by_zero_grad(lab: SimpleNamespace) -> None:
    """As when memory runs out in a backward pass and the loop goes on with the next step."""
    for settings in MODES.values():
        model, twin = lab.Bank(), lab.Bank()
        opt, plain = lab.optimizer(model, update_gap=2, **settings), lab.optimizer(twin, update_gap=2, **settings)
        steps = lab.lessons(model, 5)
        lab.train(opt, model, steps[:2])
        lab.train(plain, twin, steps[:2])
        lost = lab.batch(model, "src", 77)
        with pytest.raises(RuntimeError, match="out of memory"), opt.task("src", tokens=2) as part:
            part.backward(lost.loss(model))
            raise RuntimeError("out of memory")
        opt.zero_grad()
        lab.train(opt, model, steps[2:])
        lab.train(plain, twin, steps[2:])
        assert all(torch.equal(weight, twin.weights[name]) for name, weight in model.weights.items())


def test_passes_do_not_nest(lab: SimpleNamespace) -> None:
    opt = lab.optimizer(lab.Bank())
    with opt.task("src", tokens=1):
        assert "open" in refusal(lambda: enter(opt.task("rec", tokens=1)))


def test_a_gradient_from_outside_the_passes(lab: SimpleNamespace) -> None:
    """Mixed use would count it for nobody, or for the next task."""
    model = lab.Bank()
    opt = lab.optimizer(model)
    src, rec = lab.lessons(model, 1)[0]
    src.loss(model).backward()
    assert "layers." in refusal(lambda: enter(opt.task("rec", tokens=rec.tokens)))
    opt.zero_grad()
    lab.feed(opt, model, [rec])
    src.loss(model).backward()
    assert "opt.task" in refusal(opt.step)


def test_a_pass_from_outside_in_fast(lab: SimpleNamespace) -> None:
    """There it leaves no gradient at the weights, but projections that would count as if no task were named."""
    model = lab.Bank()
    opt = lab.optimizer(model, preset="fast")
    src, rec = lab.lessons(model, 1)[0]
    lab.feed(opt, model, [rec])
    with pytest.raises(ValueError, match=r"opt\.task"):
        src.loss(model).backward()
        opt.step()
    opt.zero_grad()
    src.loss(model).backward()
    with pytest.raises(ValueError, match=r"opt\.task"):
        lab.feed(opt, model, [rec])
        opt.step()


def test_flattened_parameters(lab: SimpleNamespace) -> None:
    flat = nn.Parameter(torch.zeros(96))
    said = refusal(lambda: GEMS([{"params": [("blocks.0.flat_param", flat)], "rank": 4}], lr=0.1))
    assert "blocks.0.flat_param" in said and "(96,)" in said and "FSDP" in said


def test_tied_weights_are_refused_layer_by_layer(lab: SimpleNamespace) -> None:
    """One tied pair among projected layers; the other modes take it."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    model[1].weight = model[0].weight
    said = refusal(lambda: lab.optimizer(model, backward="per_layer", gate_lag=1))
    assert "0.weight" in said and "exclude" in said
    lab.optimizer(model)
    lab.optimizer(model, preset="fast")


def test_a_tied_output_layer_is_not_projected(lab: SimpleNamespace) -> None:
    model = lab.models.build("qwen2")
    opt = lab.optimizer(model, backward="per_layer", gate_lag=1)
    assert not any("embed" in name or "lm_head" in name for name in opt.effective_ranks())
    everything = gems_param_groups(model, rank=4, exclude=())
    assert not any("embed" in name for group in everything for name, _ in group["params"])


def test_the_basis_of_another_model(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    wide = lab.spans(lab.Bank({name: (m, n + 4) for name, (m, n) in lab.SHAPES.items()}))
    said = refusal(lambda: lab.optimizer(model, null_space=wide))
    assert "layers.tall.weight" in said and "12" in said and "8" in said and "another model" in said
    other = lab.spans(lab.Bank({"elsewhere": (12, 8)}))
    assert "layers.tall.weight" in refusal(lambda: lab.optimizer(model, null_space=other))


@pytest.mark.parametrize("mode", MODES)
def test_a_rank_above_the_matrix_is_said_with_the_one_that_is_used(
    lab: SimpleNamespace, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = lab.Bank()
    with caplog.at_level(logging.INFO, logger="gemsbench.optim"):
        opt = lab.optimizer(model, groups={"rank": 100, "task_rank": 10}, **MODES[mode])
    assert opt.effective_ranks() == {
        "layers.tall.weight": (8, 8), "layers.wide.weight": (8, 8), "layers.square.weight": (12, 10),
    }  # fmt: skip
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any("layers.tall.weight" in line and "100" in line and "8" in line for line in said)
    lab.train(opt, model, lab.lessons(model, 3))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="gemsbench.optim"):
        lab.optimizer(lab.Bank(), **MODES[mode])
    assert not caplog.records


@pytest.mark.parametrize("mode", MODES)
def test_weight_decay_with_a_null_space_is_warned_of(lab: SimpleNamespace, mode: str) -> None:
    model = lab.Bank()
    with pytest.warns(UserWarning, match="weight_decay=0"):
        lab.optimizer(model, null_space=lab.spans(model), weight_decay=0.01, **MODES[mode])


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_of_without_reason(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    lab.optimizer(model, null_space=lab.spans(model))
    lab.optimizer(model, weight_decay=0.01)


@pytest.mark.parametrize("rank", [4, 0])
def test_fp16_parameters(rank: int) -> None:
    weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.float16))
    said = refusal(lambda: GEMS([{"params": [("w", weight)], "rank": rank}], lr=0.1))
    assert "float16" in said and "bfloat16" in said


def test_a_null_space_needs_names(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    groups = [{"params": list(model.weights.values()), "rank": 4}]
    assert "gems_param_groups" in refusal(lambda: GEMS(groups, lr=0.1, null_space=lab.spans(model)))
    GEMS(groups, lr=0.1)


def test_the_projected_backward_needs_layers(lab: SimpleNamespace) -> None:
    groups = [{"params": list(lab.Bank().weights.values()), "rank": 4}]
    assert "gems_param_groups" in refusal(lambda: GEMS(groups, lr=0.1, preset="fast"))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: GEMSConfig.of("papr"), ["'papr'", "Did you mean 'paper'?", "fast", "reference"]),
        (lambda: GEMSConfig.of("paper", updategap=3), ["'updategap'", "Did you mean 'update_gap'?"]),
        (lambda: GEMSConfig.of("paper", gate="learnt"), ["gate", "'learnt'", "Did you mean 'learned'?"]),
        (lambda: GEMSConfig.of("fast", side="left"), ["projected", "side='right'"]),
        (lambda: GEMSConfig.of("paper", backward="per_layer"), ["gate_lag=1"]),
        (lambda: GEMSConfig.of("paper", null_space_mode="subspace"), ["side='right'"]),
        (lambda: GEMSConfig.of("fast", task_basis="residual"), ["task_basis='residual'"]),
        (lambda: GEMSConfig.of("paper", update_gap=0), ["update_gap", "0"]),
        (lambda: GEMSConfig.of("paper", betas=(0.9, 1.0)), ["betas", "1.0"]),
        (lambda: GEMSConfig.of("paper", scale=math.nan), ["scale", "nan"]),
        (lambda: GEMSConfig.of("paper", gate_temperature=0), ["gate_temperature"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(run: Any, words: list[str]) -> None:
    said = refusal(run)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("key", ["preset", "update_gapp"])
def test_the_optimizer_passes_these_on(lab: SimpleNamespace, key: str) -> None:
    refusal(lambda: lab.optimizer(lab.Bank(), **{key: "papr"}))


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_learning_rates(lab: SimpleNamespace, lr: float) -> None:
    assert "lr" in refusal(lambda: lab.optimizer(lab.Bank(), lr=lr))


def test_group_keys(lab: SimpleNamespace) -> None:
    weight = nn.Parameter(torch.zeros(8, 8))
    said = refusal(lambda: GEMS([{"params": [("w", weight)], "rank": 4, "proj_type": "full"}], lr=0.1))
    assert "'full'" in said and "std" in said
    said = refusal(lambda: lab.optimizer(lab.Bank(), groups={"target_modules": ["tal"]}))
    assert "'tal'" in said
    said = refusal(lambda: lab.optimizer(lab.Bank(), groups={"rows": {"layers.tall.wait": range(3)}}))
    assert "layers.tall.wait" in said


@pytest.mark.parametrize("mode", ["paper", "per-layer"])
def test_mixed_batches_need_the_projected_backward(lab: SimpleNamespace, mode: str) -> None:
    opt = lab.optimizer(lab.Bank(), **MODES[mode])
    said = refusal(lambda: enter(opt.mixed_batch(["src", "rec"], tokens={"src": 1, "rec": 1})))
    assert "opt.task" in said and "fast" in said


def test_rows_of_a_mixed_batch_must_be_those_of_the_layers(lab: SimpleNamespace) -> None:
    model = lab.Bank()
    opt = lab.optimizer(model, preset="fast")
    rows = lab.batch(model, "src", 0)  # 24 of them
    with (
        pytest.raises(ValueError, match=r"24.*5|5.*24") as caught,
        opt.mixed_batch(["src", "rec", "src", "rec", "rec"], tokens={"src": 1, "rec": 1}) as part,
    ):
        part.backward(rows.loss(model))
    assert "layers." in str(caught.value) and "opt.task" in str(caught.value)


def test_mixed_batches_name_known_tasks_with_tokens(lab: SimpleNamespace) -> None:
    opt = lab.optimizer(lab.Bank(), preset="fast")
    assert "'ads'" in refusal(lambda: enter(opt.mixed_batch(["src", "ads"], tokens={"src": 1, "ads": 1})))
    assert "'rec'" in refusal(lambda: enter(opt.mixed_batch(["src", "rec"], tokens={"src": 1})))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_not_pass_in_silence(lab: SimpleNamespace, mode: str, bad: float) -> None:
    """In a step that makes bases; the weights stay finite."""
    model = lab.Bank()
    opt = lab.optimizer(model, **MODES[mode])
    with pytest.raises(ValueError, match=r"NaN|finite"):
        lab.train(opt, model, [[part.scaled(bad) for part in lab.lessons(model, 1)[0]]])
    assert all(torch.isfinite(weight).all() for weight in model.weights.values())


def test_a_model_without_linear_layers() -> None:
    with pytest.raises(ValueError, match="Linear"):
        gems_param_groups(nn.Sequential(nn.Conv1d(3, 4, 2)), rank=2)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_no_pass_follows_the_last_one(preset: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    opt = GEMS(gems_param_groups(model, rank=2), preset=preset)
    with opt.task("src", tokens=1, last=True) as part:
        part.backward(model(torch.ones(2, 6)).sum())
    with pytest.raises(ValueError, match=r"last=True.*opt\.step\(\)"), opt.task("rec", tokens=1):
        pass

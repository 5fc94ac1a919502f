"""GEMSTrainer: transformers' Trainer with the tasks' gradients kept apart."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

from gemsbench.errors import InputError
from gemsbench.optim import GEMS, GEMSConfig, KnowledgeBasis, gems_param_groups
from gemsbench.training.batches import NO_LOSS
from gemsbench.training.gems_trainer import GEMSPlan, GEMSTrainer, with_tasks
from gemsbench.training.objective import identifier_loss
from gemsbench.training.task_windows import TaskWindows

TASKS = ("rec", "src")
ROWS = 24


def rows_of(tiny: Any, n_rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows with a task each, about a third of them searches; prompts and targets of several lengths."""
    batch = tiny.batch(n_rows, seed=1)
    tasks = ["src" if n % 3 == 1 else "rec" for n in range(n_rows)]
    return [{**{k: v[n] for k, v in batch.tensors.items()}, "task": tasks[n]} for n in range(n_rows)]


def stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All rows have the length of the longest already."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer_of(tiny: Any, folder: Path, preset: str = "paper", **changed: Any) -> GEMSTrainer:
    config = GEMSConfig.of(preset, update_gap=2, gate_every=2, **changed.pop("config", {}))
    plan = GEMSPlan(tasks=TASKS, rank=4, config=config, **changed.pop("plan", {}))
    values = {
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 6,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
    }
    arguments = TrainingArguments(output_dir=str(folder), **{**values, **changed.pop("arguments", {})})
    rows = changed.pop("rows", None) or rows_of(tiny)
    given = {"train_dataset": rows, "data_collator": with_tasks(stack), **changed}
    return GEMSTrainer(model=tiny.model(dropout=0.0), args=arguments, gems=plan, **given)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_loss_falls(tiny: Any, tmp_path: Path, preset: str) -> None:
    arguments = {"num_train_epochs": 8, "learning_rate": 1e-2}
    trainer = trainer_of(tiny, tmp_path, preset, arguments=arguments, plan={"others": "trained"})
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize(("batch", "accumulation"), [(24, 1), (6, 4), (5, 5)])
def test_a_step_is_that_of_a_bare_loop_however_it_is_cut(
    tiny: Any, tmp_path: Path, preset: str, batch: int, accumulation: int
) -> None:
    """The gradient of a task is the mean over its own target tokens, in all micro-batches of the step together."""
    arguments = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    arguments |= {"num_train_epochs": 2, "lr_scheduler_type": "constant"}
    trainer = trainer_of(tiny, tmp_path, preset, arguments=arguments, config={"gate": "uniform"})
    trainer.train()
    assert trainer.state.global_step == 2
    model = tiny.model(dropout=0.0)
    start = weights(model)
    groups = gems_param_groups(model, rank=4)
    bare = GEMS(groups, lr=5e-3, tasks=TASKS, preset=preset, seed=5, update_gap=2, gate_every=2, gate="uniform")
    means = []
    for _ in range(2):
        losses, tokens = 0.0, 0
        for task in TASKS:
            tensors = stack(
                [{k: v for k, v in row.items() if k != "task"} for row in rows_of(tiny) if row["task"] == task]
            )
            with bare.task(task, tokens=int((tensors["labels"] != NO_LOSS).sum())) as named:
                loss = identifier_loss(model, tensors)
                named.backward(loss)
            losses, tokens = losses + loss.item(), tokens + int((tensors["labels"] != NO_LOSS).sum())
        means.append(losses / tokens)
        bare.step()
        bare.zero_grad()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx(means, rel=1e-3)
    found, expected = weights(trainer.model), weights(model)
    moved = [name for name in expected if not torch.equal(expected[name], start[name])]
    assert len(moved) > 5
    for name in moved:
        assert (found[name] - expected[name]).norm() < 0.03 * (expected[name] - start[name]).norm(), name


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_training_ends_with_the_same_bits(tiny: Any, tmp_path: Path, preset: str, stop: int) -> None:
    """Within an epoch and at its end; the state of the optimizer is a file that needs no unpickling of code."""
    arguments = {"save_strategy": "steps", "save_steps": stop}
    whole = trainer_of(tiny, tmp_path / "a", preset, arguments=arguments)
    whole.train()
    checkpoint = tmp_path / "a" / f"checkpoint-{stop}"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert "gems" in state
    resumed = trainer_of(tiny, tmp_path / "b", preset, arguments=arguments)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == 8
    for name, tensor in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], tensor), name


def test_a_step_that_memory_cut_short_leaves_nothing_behind(one: Any, tmp_path: Path) -> None:
    """Trainer's own search for a batch size starts the training again, in the middle of a step."""
    arguments = {"auto_find_batch_size": True, "per_device_train_batch_size": 8}
    limited = trainer_of(one, tmp_path / "limited", arguments=arguments, config={"gate": "uniform"})
    forward, sizes = limited.model.forward, []

    @functools.wraps(forward)  # Trainer reads its signature
    def short_of_memory(*given: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["labels"]))
        if len(sizes) == 2:  # the second task of the first step
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(*given, **inputs)

    limited.model.forward = short_of_memory
    limited.train()
    smaller = {"per_device_train_batch_size": limited._train_batch_size}
    assert limited._train_batch_size < 8
    fresh = trainer_of(one, tmp_path / "fresh", arguments=smaller, config={"gate": "uniform"})
    fresh.train()
    for name, tensor in weights(fresh.model).items():
        assert torch.equal(weights(limited.model)[name], tensor), name


def test_logs_say_what_the_gate_does(one: Any, tmp_path: Path) -> None:
    trainer = trainer_of(one, tmp_path)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for line in lines:
        assert line["gems/gate_rec"] + line["gems/gate_src"] == pytest.approx(1)
        assert line["grad_norm"] > 0
    assert json.loads(json.dumps(lines)) == lines


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_model_never_sees_the_tasks(one: Any, tmp_path: Path, preset: str) -> None:
    trainer = trainer_of(one, tmp_path, preset, eval_dataset=rows_of(one, 9))
    forward = trainer.model.forward

    def strict(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        return forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    trainer.model.forward = strict
    trainer.model_accepts_loss_kwargs = False
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.train()
    assert trainer.state.global_step == 8


def test_a_saved_model_has_no_extra_weights(one: Any, tmp_path: Path) -> None:
    trainer = trainer_of(one, tmp_path, "fast", arguments={"max_steps": 2})
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    again = type(trainer.model).from_pretrained(tmp_path / "model")
    names = {name: tensor.shape for name, tensor in weights(one.model()).items()}
    assert {name: tensor.shape for name, tensor in weights(again).items()} == names


def test_rows_of_new_tokens_are_trained_where_the_plan_says_so(one: Any, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    trainer = trainer_of(one, tmp_path, plan={"rows": {name: range(30, 40)}, "rows_learning_rate": 1e-2})
    before = weights(trainer.model)[name]
    trainer.train()
    changed = (weights(trainer.model)[name] != before).any(dim=1).nonzero().flatten().tolist()
    assert changed and set(changed) <= set(range(30, 40))


def test_a_batch_of_one_task_may_name_it_once(one: Any, tmp_path: Path) -> None:
    rows = [row for row in rows_of(one) if row["task"] == "src"]
    trainer = trainer_of(
        one, tmp_path, rows=rows, data_collator=lambda batch: {**with_tasks(stack)(batch), "task": "src"}
    )
    trainer.train()
    assert trainer.state.global_step > 0


@pytest.mark.parametrize(
    ("collator", "said"),
    [
        (lambda rows: {k: v for k, v in with_tasks(stack)(rows).items() if k != "task"}, "is missing or not one name"),
        (lambda rows: {**with_tasks(stack)(rows), "task": ["rec"]}, "is missing or not one name per row"),
        (lambda rows: {**with_tasks(stack)(rows), "task": "ads"}, "holds 'ads'.*one of rec, src"),
    ],
)
def test_a_batch_that_does_not_say_its_tasks_is_refused(one: Any, tmp_path: Path, collator: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        trainer_of(one, tmp_path, data_collator=collator).train()


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_the_null_space_of_the_plan_keeps_the_outputs_on_known_features(one: Any, tmp_path: Path, preset: str) -> None:
    model = one.model(dropout=0.0)
    basis = KnowledgeBasis.collect(model, [{"input_ids": one.batch(8, seed=4).tensors["input_ids"]}])
    shares = []
    for null_space in (basis, None):
        trainer = trainer_of(one, tmp_path, preset, plan={"null_space": null_space})
        before = weights(trainer.model)
        trainer.train()
        moved = {name: w - before[name] for name, w in weights(trainer.model).items() if "_proj.weight" in name}
        shares.append(max(float((update @ basis.of(name)).norm() / update.norm()) for name, update in moved.items()))
    assert shares[0] < 1e-5 < 1e-2 < shares[1]


def test_ranks_and_rates_of_the_plan_reach_the_optimizer(one: Any, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    plan = {"rank_pattern": {"down_proj": 6}, "task_rank": 1, "target_modules": ("down_proj", "up_proj", "q_proj")}
    plan |= {"rows": {name: range(30, 40)}, "rows_learning_rate": 1e-2, "exclude": ("q_proj",)}
    groups = trainer_of(one, tmp_path, plan=plan).create_optimizer().param_groups
    found = {(n.rpartition(".")[0].rpartition(".")[2], g["rank"], g["lr"]) for g in groups for n in g["param_names"]}
    assert found == {("down_proj", 6, 5e-3), ("up_proj", 4, 5e-3), ("embed_tokens", 0, 1e-2)}
    assert {g["task_rank"] for g in groups if g["rank"] == 4} == {1}


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("smoothing", [True, False])
def test_losses_of_the_users_own_are_those_that_are_trained(
    one: Any, tmp_path: Path, preset: str, smoothing: bool
) -> None:
    """Trainer takes the labels out of the batch for both."""

    def plain(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits, targets = outputs["logits"][:, :-1], labels[:, 1:]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_LOSS)

    changed: Any = {"arguments": {"label_smoothing_factor": 0.3}} if smoothing else {"compute_loss_func": plain}
    usual, own = trainer_of(one, tmp_path, preset), trainer_of(one, tmp_path, preset, **changed)
    losses = []
    for trainer in (usual, own):
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    if smoothing:
        assert losses[0][0] != pytest.approx(losses[1][0], rel=1e-3)
    else:
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def without_targets(rows: list[dict[str, Any]], tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """The same rows; those of the named tasks have no target token."""
    return [{**r, "labels": torch.full_like(r["labels"], NO_LOSS)} if r["task"] in tasks else r for r in rows]


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_rows_of_a_task_without_target_tokens_change_nothing(one: Any, tmp_path: Path, preset: str) -> None:
    rows = rows_of(one)
    some = {"arguments": {"per_device_train_batch_size": ROWS, "train_sampling_strategy": "sequential"}}
    found = [
        trainer_of(one, tmp_path, preset, rows=chosen, **some)
        for chosen in (without_targets(rows, ("src",)), [row for row in rows if row["task"] == "rec"])
    ]
    for trainer in found:
        trainer.train()
        assert trainer.state.global_step == 2
    expected = weights(found[1].model)
    for name, tensor in weights(found[0].model).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_micro_batch_without_target_tokens_is_passed_over(one: Any, tmp_path: Path, preset: str) -> None:
    rows = rows_of(one)
    rows = rows[:12] + without_targets(rows[12:], TASKS)
    arguments = {"per_device_train_batch_size": 12, "train_sampling_strategy": "sequential"}
    cut = trainer_of(one, tmp_path, preset, rows=rows, arguments={**arguments, "gradient_accumulation_steps": 2})
    whole = trainer_of(one, tmp_path, preset, rows=rows[:12], arguments=arguments)
    for trainer in (cut, whole):
        trainer.train()
    before, expected = weights(one.model(dropout=0.0)), weights(whole.model)
    for name, tensor in weights(cut.model).items():  # up to rounding: which pass is the last one was not known
        assert (tensor - expected[name]).norm() <= 0.01 * (expected[name] - before[name]).norm(), name


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_a_step_without_any_target_token_is_named(one: Any, tmp_path: Path, preset: str) -> None:
    with pytest.raises(InputError, match="step 0 has no target token"):
        trainer_of(one, tmp_path, preset, rows=without_targets(rows_of(one), TASKS)).train()


def test_rows_need_a_task_in_training_and_none_in_evaluation(one: Any, tmp_path: Path) -> None:
    bare = [{k: v for k, v in row.items() if k != "task"} for row in rows_of(one)]
    with pytest.raises(InputError, match=r"is missing or not one name per row.*rows of the training set"):
        trainer_of(one, tmp_path, rows=bare).train()
    with pytest.raises(InputError, match="row 12 of the training set has no 'task'"):
        trainer_of(one, tmp_path, rows=rows_of(one)[:12] + bare[12:]).train()
    with pytest.raises(InputError, match="1 of 2 rows have no 'task'"):
        with_tasks(stack)([rows_of(one)[0], bare[1]])
    trainer = trainer_of(one, tmp_path)
    named, unnamed = (trainer.evaluate(rows)["eval_loss"] for rows in (rows_of(one), bare))  # type: ignore[arg-type]
    assert named == unnamed > 0


def test_what_gems_does_not_go_with_is_refused(one: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not go with optim='adafactor'"):
        trainer_of(one, tmp_path, arguments={"optim": "adafactor"})
    with pytest.raises(InputError, match="an optimizer of your own"):
        trainer_of(one, tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}))
    with pytest.raises(InputError, match="made by train"):
        _ = trainer_of(one, tmp_path).gems


# --- the order of examples --------------------------------------------------------------------------------------


def test_every_window_has_all_tasks_together_and_every_example_comes_once() -> None:
    tasks = ["src" if n % 4 == 0 else "rec" for n in range(203)]
    sampler = TaskWindows(tasks, window=20, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(203)) and len(sampler) == 203
    for start in range(0, 203, 20):
        names = [tasks[n] for n in order[start : start + 20]]
        assert names == sorted(names)
    assert sum(len({tasks[n] for n in order[start : start + 20]}) == 2 for start in range(0, 200, 20)) >= 9
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order
    assert list(TaskWindows(tasks, window=20, seed=4)) != order


def test_the_trainer_shuffles_in_windows_of_a_step_where_it_can_read_the_tasks(one: Any, tmp_path: Path) -> None:
    arguments = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "data_seed": 9}
    trainer = trainer_of(one, tmp_path, arguments=arguments)
    tasks = [row["task"] for row in rows_of(one)]
    assert list(trainer._get_train_sampler()) == list(TaskWindows(tasks, 12, seed=9))  # type: ignore[arg-type]
    in_order = trainer_of(one, tmp_path, arguments={**arguments, "train_sampling_strategy": "sequential"})
    assert list(in_order._get_train_sampler()) == list(range(ROWS))  # type: ignore[arg-type]


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        TaskWindows(["a"], window=0, seed=1)


def test_the_trainer_is_a_public_name_that_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, gemsbench.training\n"
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
        "from gemsbench.training import GEMSPlan, GEMSTrainer, with_tasks\n"
        "assert GEMSTrainer.__mro__[1].__name__ == 'Trainer'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

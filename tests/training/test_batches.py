"""Steps of an epoch: every example once, all tasks in every step, little padding; tensors of both architectures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from gemsbench.errors import InputError
from gemsbench.training.batches import NO_LOSS, Batches, MicroBatch, collate_causal, collate_t5
from gemsbench.training.examples import Examples
from gemsbench.training.token_lists import TokenLists


def _padding_share(batches: Batches) -> float:
    """Share of padding among all input positions of the first epoch."""
    blocks = [rows for step in range(batches.steps_per_epoch) for _, rows in batches.rows(0, step)]
    padded = sum(int(batches.lengths[rows].max()) * len(rows) for rows in blocks)
    return 1 - sum(int(batches.lengths[rows].sum()) for rows in blocks) / padded


def _examples(n_rec: int, n_src: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    number = n_rec + n_src
    tasks = rng.permutation(np.repeat(np.array([0, 1], dtype=np.int8), [n_rec, n_src]))
    # Histories of 0 to 20 items of about seven tokens, queries of 1 to 12.
    lengths = 35 + 7 * rng.integers(0, 21, number) + np.where(tasks == 1, rng.integers(1, 13, number), 1)
    prompts = TokenLists.of([[row] * length for row, length in enumerate(lengths)])
    targets = TokenLists.of([[row, 1] for row in range(number)])
    return Examples(prompts, targets, tasks)


def _batches(examples: Examples, seed: int = 1, rows: int = 32, micro: int = 32, kind: str = "t5") -> Batches:
    return Batches(examples, kind, 0, batch_size=rows, micro_batch_size=micro, seed=seed)  # type: ignore[arg-type]


def _epoch(batches: Batches, epoch: int) -> list[list[tuple[int, list[int]]]]:
    return [
        [(task, rows.tolist()) for task, rows in batches.rows(epoch, step)] for step in range(batches.steps_per_epoch)
    ]


@pytest.mark.parametrize(("n_rec", "n_src", "size"), [(700, 300, 32), (37, 963, 16), (5, 5, 10), (50, 0, 7), (1, 0, 4)])
def test_an_epoch_has_every_example_once_and_every_task_in_every_step(n_rec: int, n_src: int, size: int) -> None:
    examples = _examples(n_rec, n_src)
    batches = _batches(examples, rows=size, micro=5)
    steps = _epoch(batches, 0)
    assert len(steps) == -(-(n_rec + n_src) // size)
    seen = [row for step in steps for _, rows in step for row in rows]
    assert sorted(seen) == list(range(n_rec + n_src))
    for step in steps:
        assert all(len(rows) <= 5 for _, rows in step)
        assert all(examples.tasks[row] == task for task, rows in step for row in rows)
        of_task = Counter(task for task, rows in step for _ in rows)
        for task, total in ((0, n_rec), (1, n_src)):
            share = total / len(steps)
            assert int(share) <= of_task[task] <= -(-total // len(steps))
        assert sum(of_task.values()) <= size + 1


def test_an_epoch_is_a_function_of_seed_and_epoch_alone() -> None:
    examples = _examples(150, 90)
    first = _epoch(_batches(examples), 3)
    other = _batches(examples)
    _epoch(other, 1)
    assert other.rows(3, 2)[0][1].tolist() == first[2][0][1]
    assert _epoch(other, 3) == first
    assert _epoch(other, 4) != first
    assert _epoch(_batches(examples, seed=2), 3) != first


def test_rows_of_a_micro_batch_have_similar_lengths() -> None:
    batches = _batches(_examples(6000, 3000), rows=128, micro=128)
    assert _padding_share(batches) < 0.05
    shuffled = Examples(*(getattr(batches.examples, name) for name in ("prompts", "targets", "tasks")))
    lengths = shuffled.prompts.lengths
    rows = np.random.default_rng(0).permutation(len(shuffled))[:8960].reshape(70, 128)
    assert 1 - lengths[rows].sum() / (lengths[rows].max(axis=1) * 128).sum() > 0.3  # what it would be without


def test_lengths_of_the_steps_come_in_random_order() -> None:
    batches = _batches(_examples(4000, 2000), rows=60)
    means = np.array([batches.lengths[rows].mean() for step in range(100) for _, rows in batches.rows(0, step)[:1]])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
    firsts = [batches.lengths[batches.rows(epoch, 0)[0][1]].mean() for epoch in range(6)]
    assert len(set(firsts)) > 1


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="no training examples"):
        _batches(_examples(0, 0))


PROMPTS = TokenLists.of([[5, 6, 7], [8]])
TARGETS = TokenLists.of([[11, 1], [12, 13, 1]])


def test_tensors_of_t5() -> None:
    tensors = collate_t5(PROMPTS, TARGETS, 0)
    assert tensors["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert tensors["labels"].tolist() == [[11, 1, NO_LOSS], [12, 13, 1]]
    assert all(tensor.dtype == torch.int64 for tensor in tensors.values())


def test_tensors_of_a_causal_model() -> None:
    tensors = collate_causal(PROMPTS, TARGETS, 9)
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 11, 1], [8, 12, 13, 1, 9]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert tensors["labels"].tolist() == [[NO_LOSS] * 3 + [11, 1], [NO_LOSS, 12, 13, 1, NO_LOSS]]
    assert all(tensor.dtype == torch.int64 for tensor in tensors.values())


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
def test_a_step_holds_its_examples(kind: str) -> None:
    examples = _examples(60, 40)
    batches = _batches(examples, micro=6, kind=kind)
    for (task, rows), batch in zip(batches.rows(2, 1), batches.step(2, 1), strict=True):
        assert batch.task == ("rec", "src")[task]
        assert batch.target_tokens == 2 * batch.rows == 2 * len(rows)
        for place, row in enumerate(rows):
            kept = batch.tensors["attention_mask"][place].bool()
            ids = batch.tensors["input_ids"][place][kept].tolist()
            target = examples.targets[row].tolist() if kind == "qwen2" else []
            assert ids == examples.prompts[row].tolist() + target


def test_a_micro_batch_is_split_along_its_rows() -> None:
    batch = MicroBatch("rec", collate_t5(PROMPTS.take(np.array([0, 1, 0])), TARGETS.take(np.array([0, 1, 1])), 0))
    parts = batch.split(2)
    assert [part.rows for part in parts] == [2, 1]
    for name, tensor in batch.tensors.items():
        assert torch.equal(torch.cat([part.tensors[name] for part in parts]), tensor)
    assert {part.task for part in parts} == {"rec"}
    assert batch.split(3) == [batch]

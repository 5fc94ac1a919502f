"""Checkpoints: what was saved comes back, anything else is as if it were not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gemsbench import checkpoint
from gemsbench.checkpoint import (
    below,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)

STATE = {"fingerprint": "a", "step": 3, "loss": 0.1 + 0.2}


def test_state_and_tensors_come_back_bit_by_bit(tmp_path: Path) -> None:
    table = torch.randn(4, 3)
    tensors = {"x/a": table, "x/b": table.T, "y/c": torch.ones(2, dtype=torch.bfloat16), "y/n": torch.tensor(7)}
    save_checkpoint(tmp_path / "state", STATE, tensors)
    loaded = load_checkpoint(tmp_path / "state", "a")
    assert loaded is not None
    assert loaded[0] == STATE
    assert loaded[1].keys() == tensors.keys()
    assert all(torch.equal(loaded[1][name], tensor) for name, tensor in tensors.items())
    assert below(loaded[1], "y/").keys() == {"c", "n"}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_only_what_cannot_be_written_as_it_is_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, torch.Tensor] = {}
    save_file = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda t, *a, **k: (written.update(t), save_file(t, *a, **k)))
    table = torch.randn(6, 3)
    whole = {"whole": table, "count": torch.tensor(3.0), "trained": torch.nn.Parameter(torch.ones(3))}
    views = {"again": table, "turned": table.T, "part": torch.randn(9)[:4], "empty": torch.ones(5)[:0]}
    save_checkpoint(tmp_path / "state", STATE, whole | views)
    assert all(written[name].data_ptr() == tensor.data_ptr() for name, tensor in whole.items())
    assert all(written[name].data_ptr() != tensor.data_ptr() for name, tensor in views.items() if len(tensor))
    loaded = load_checkpoint(tmp_path / "state", "a")
    assert loaded is not None
    assert all(torch.equal(loaded[1][name], tensor) for name, tensor in (whole | views).items())


@pytest.mark.parametrize("damage", ["absent", "other", "cut", "text"])
def test_what_does_not_fit_is_as_if_it_were_not_there(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state"
    if damage != "absent":
        save_checkpoint(path, STATE, {"a": torch.ones(100)})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    if damage == "text":
        path.write_text("not a checkpoint")
    assert load_checkpoint(path, "b" if damage == "other" else "a") is None


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SparseAdam])
def test_optimizers_go_on_bit_by_bit(kind: type[torch.optim.Optimizer]) -> None:
    def step(parameter: torch.Tensor, optimizer: torch.optim.Optimizer, number: int) -> None:
        gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.grad = gradient.to_sparse(1) if kind is torch.optim.SparseAdam else gradient
        optimizer.step()

    first = torch.nn.Parameter(torch.ones(4, 3))
    one = kind([first], lr=0.1)  # type: ignore[call-arg]
    for number in range(3):
        step(first, one, number)
    second = torch.nn.Parameter(first.detach().clone())
    two = kind([second], lr=0.1)  # type: ignore[call-arg]
    restore_optimizers([two], {name: tensor.clone() for name, tensor in optimizer_tensors([one]).items()})
    for number in range(3, 6):
        step(first, one, number)
        step(second, two, number)
    assert torch.equal(first, second)


class Odd(torch.optim.SGD):
    """An optimizer that keeps something beside the state of its parameters."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.kept: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.kept = state_dict["kept"]


def test_what_belongs_to_no_parameter_comes_back_too(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    one, plain, two = Odd([parameter]), torch.optim.SGD([parameter], lr=0.1), Odd([parameter])
    deep = {"gate": torch.randn(3, dtype=torch.float64), "half": [torch.ones(2, dtype=torch.bfloat16), None, "text"]}
    one.kept = {"step": torch.tensor(7), "rate": 0.1 + 0.2, "name": "ü", "deep": deep, "empty": {}}
    two.kept = {"n": 3}
    save_checkpoint(tmp_path / "state", STATE, optimizer_tensors([one, plain, two]))
    loaded = load_checkpoint(tmp_path / "state", "a")
    assert loaded is not None
    first, second = Odd([parameter]), Odd([parameter])
    restore_optimizers([first, plain, second], loaded[1])
    assert (first.kept["rate"], first.kept["name"], first.kept["empty"]) == (0.1 + 0.2, "ü", {})
    for found, expected in (
        (first.kept["step"], one.kept["step"]),
        (first.kept["deep"]["gate"], deep["gate"]),
        (first.kept["deep"]["half"][0], deep["half"][0]),  # type: ignore[index]
    ):
        assert found.dtype == expected.dtype  # type: ignore[union-attr]
        assert torch.equal(found, expected)  # type: ignore[arg-type]
    assert first.kept["deep"]["half"][1:] == [None, "text"]
    assert second.kept == {"n": 3}


def test_a_count_that_is_a_tensor_stays_one() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"step": torch.tensor(3), "number": 3}  # torch turns other tensors into floats
    saved = optimizer_tensors([optimizer])
    optimizer.state.clear()
    restore_optimizers([optimizer], saved)
    kept = optimizer.state[parameter]
    assert isinstance(kept["step"], torch.Tensor) and kept["step"].dtype == torch.int64
    assert type(kept["number"]) is int and kept["number"] == 3

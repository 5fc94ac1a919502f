"""The benchmark runs on a toy, and what it reports of state and memory is right there."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
METHODS = ["LoRA r 16", "LoRA of equal state", "AdamW", "GEMS fast", "GEMS paper", "GEMS per-layer", "three passes"]


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        specification = importlib.util.spec_from_file_location("benchmark_optimizer", FOLDER / "optimizer.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def entry(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("benchmark") / "optimizer.json"
    toy = ["--shape", "toy", "--layers", "1", "--rank", "8", "--tokens", "64", "--length", "8", "--repeats", "1"]
    benchmark.main([*toy, "--methods", *METHODS, "--output", str(output)])
    (found,) = json.loads(output.read_text("utf-8")).values()
    assert "GEMS fast" in output.with_suffix(".md").read_text("utf-8")
    return found


@pytest.mark.parametrize("method", METHODS)
def test_state_is_what_the_formula_says(entry: Any, method: str) -> None:
    memory = entry["contenders"][method]["memory"]
    assert memory["state"] == memory["state_formula"] > 0


def test_galore_runs_where_it_is_installed(benchmark: Any, tmp_path: Path) -> None:
    toy = ["--shape", "toy", "--layers", "1", "--rank", "8", "--tokens", "32", "--length", "8", "--repeats", "1"]
    methods = ["GaLore", "GaLore (randomised)"]
    record = benchmark.main([*toy, "--methods", *methods, "AdamW", "--output", str(tmp_path / "optimizer.json")])
    (found,) = record.values()
    if importlib.util.find_spec("galore_torch") is None:
        assert set(found["missing"]) == set(methods)
        assert list(found["contenders"]) == ["AdamW"]
        return
    for method in methods:
        memory = found["contenders"][method]["memory"]
        assert memory["state"] == memory["state_formula"] > 0
        assert found["contenders"][method]["wall"]["refresh"] > 0


def test_only_full_gradients_make_tensors_of_full_size(entry: Any) -> None:
    full = {method: bool(entry["contenders"][method]["memory"]["full_size"]) for method in METHODS}
    assert not full["GEMS fast"]
    assert full["AdamW"]
    assert full["GEMS paper"]


def test_every_phase_of_every_method_is_timed(entry: Any) -> None:
    for method in METHODS:
        row = entry["contenders"][method]
        for clock in ("wall", "processor"):
            parts = row[clock]
            assert all(parts[phase] > 0 for phase in ("forward", "backward", "optimizer")), method
            assert parts["step"] == pytest.approx(parts["plain_step"] + parts["refresh"] + parts["gate"])
        assert entry["ratios"]["wall"][method]["AdamW"] > 0
    occasional = {method: set(entry["contenders"][method]["now_and_then"]) for method in METHODS}
    assert all(occasional[method] == {"refresh", "gate"} for method in METHODS if "GEMS" in method)
    assert occasional["three passes"] == {"refresh"}
    assert not occasional["AdamW"]
    assert {target["step_of"] for target in entry["targets"]["wall"]} == {"GEMS fast"}


def test_lora_of_equal_state_is_no_larger_than_fast(entry: Any) -> None:
    state = {method: entry["contenders"][method]["memory"]["state"] for method in METHODS}
    assert state["LoRA of equal state"] <= state["GEMS fast"]
    assert entry["lora_equal_rank"] > 1


def test_memory_is_at_least_what_stands(entry: Any) -> None:
    for method in METHODS:
        memory = entry["contenders"][method]["memory"]
        assert memory["weights"] + memory["state"] == memory["standing"]
        assert memory["peak"] > memory["standing"]

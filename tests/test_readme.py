"""The README's examples that stand alone run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

import gemsbench

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
EXAMPLES = [text for text in BLOCKS if "import torch" in text]


def test_nothing_is_left_to_be_filled_in() -> None:
    assert "@@" not in README.read_text("utf-8")


def test_both_examples_are_found() -> None:
    assert ["gemsbench.decoding" in EXAMPLES[0], "gemsbench.optim" in EXAMPLES[1]] == [True, True]


def _run(script: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(gemsbench.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.slow
def test_the_scorers_example_runs(tmp_path: Path) -> None:
    assert _run(EXAMPLES[0], tmp_path)


@pytest.mark.slow
def test_the_optimizers_example_learns(tmp_path: Path) -> None:
    """Both losses fall, and the saved model has the parameters of the one it began with."""
    script = EXAMPLES[1] + "\nassert losses['copy'] < 3.2 and losses['reverse'] < 3.5, losses\n"
    script += "print(sorted(name for name, _ in model.named_parameters()))\n"
    printed = _run(script, tmp_path)
    with safe_open(tmp_path / "tuned" / "model.safetensors", framework="pt") as saved:
        names = set(saved.keys())
    assert names
    assert names <= set(re.findall(r"'([\w.]+)'", printed.splitlines()[-1]))


@pytest.mark.slow
def test_the_basis_keeps_what_the_example_knows(tmp_path: Path) -> None:
    (collected,) = (text for text in BLOCKS if "KnowledgeBasis.collect" in text)
    begin = EXAMPLES[1].partition("for step in range")[0]
    script = f"{begin}\npassages = torch.randint(2, 40, (4, 8, 12))\n{collected}\n"
    script += "print(len(basis.groups)); assert KnowledgeBasis.load('basis.safetensors').verify(model) is None"
    assert _run(script, tmp_path) == "8"

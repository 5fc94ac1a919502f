from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy as np
import gemsbench.evaluation, gemsbench.evaluation.trec, gemsbench.report.case_view
from gemsbench.evaluation.significance import paired_t_test
assert paired_t_test(np.array([1.0, 0.0, 1.0]), np.zeros(3)).p > 0
heavy = ("torch", "transformers", "pandas", "safetensors", "gemsbench.methods", "gemsbench.pipeline")
print([name for name in heavy if name in sys.modules])
"""


def test_evaluation_needs_no_learning_library() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

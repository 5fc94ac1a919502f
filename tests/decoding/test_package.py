from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from gemsbench.decoding import Trie
assert not {"torch", "transformers"} & set(sys.modules), "tries need numpy only"
from gemsbench.decoding import CandidateScorer, constrained_beam
ours = {name for name in sys.modules if name.startswith("gemsbench")}
others = {name for name in ours if name != "gemsbench" and not name.startswith("gemsbench.decoding")}
sys.exit(f"also imported: {others}" if others else 0)
"""


def test_the_package_stands_alone_and_loads_torch_only_for_a_model() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists() -> None:
    import gemsbench.decoding as package

    assert all(callable(getattr(package, name)) for name in package.__all__)

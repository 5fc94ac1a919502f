"""The environment variables of every job, the same on this machine and on a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Nothing is downloaded behind a job's back; what a job needs from a hub, a rule of its own fetches.
DEFAULTS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def job_environment(source: Path, present: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables to set: offline use (unless set otherwise), fixed string hash, this source, this Python's commands."""
    return {
        **{name: present.get(name, value) for name, value in DEFAULTS.items()},
        "PYTHONHASHSEED": "0",
        # The environment may be installed from another checkout, and need not be activated.
        "PYTHONPATH": _prepended(str(source), present.get("PYTHONPATH", "")),
        "PATH": _prepended(str(Path(sys.executable).parent), present.get("PATH", "")),
    }


def _prepended(first: str, paths: str) -> str:
    return os.pathsep.join([first, *(path for path in paths.split(os.pathsep) if path and path != first)])

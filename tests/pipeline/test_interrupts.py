"""Stopped, killed and doubled runs: what is left, what is said, and that the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RUN = "results/mini/runs/simulated-amazon/none/waiting/1"
SNAKEMAKE = (sys.executable, "-m", "snakemake")

# A method from outside the package: it says that it has started and waits until it may go on.
METHOD = """\
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Config:
    pass


class Waiting:
    Config = Config

    def fit(self, config, data, backbone, seed, out):
        Path("started").touch()
        while not Path("go").exists():
            time.sleep(0.05)
        out.mkdir(parents=True, exist_ok=True)

    def score(self, artefact, cases):
        for items in cases["items"]:
            yield np.zeros(len(items), dtype=np.float32)
"""


@pytest.fixture
def workspace(finished: Any) -> Any:
    """Everything is done but one run, which waits for the file `go`."""
    (finished.root / "waiting_method.py").write_text(METHOD, encoding="utf-8")
    method = '  waiting: {target: "waiting_method:Waiting", tasks: [rec]}\n'
    finished.edit("config/mini.yaml", "  popularity: {}\n", "  popularity: {}\n" + method)
    return finished


def _started(workspace: Any, process: subprocess.Popen[str]) -> None:
    """Wait until the waiting run is at work."""
    deadline = time.monotonic() + 60
    while not (workspace.root / "started").exists():
        assert process.poll() is None and time.monotonic() < deadline, (workspace.root / "started.log").read_text()
        time.sleep(0.05)


def _let_go(workspace: Any) -> None:
    (workspace.root / "go").touch()


def _nothing_half_written(folder: Path) -> bool:
    return not (folder / "provenance.json").exists() and not (folder / "metrics.json").exists()


def test_after_ctrl_c_the_same_command_goes_on(workspace: Any) -> None:
    process = workspace.start(*SNAKEMAKE)
    _started(workspace, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    assert _nothing_half_written(workspace.root / RUN)
    _let_go(workspace)
    workspace.snakemake()
    assert (workspace.root / RUN / "metrics.json").is_file()


def test_after_a_kill_unlock_and_the_same_command_goes_on(workspace: Any) -> None:
    before = workspace.result_times()
    process = workspace.start(*SNAKEMAKE)
    _started(workspace, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert _nothing_half_written(workspace.root / RUN)
    locked = workspace.snakemake(check=False)
    assert locked.returncode == 1 and "cannot be locked" in locked.stdout + locked.stderr
    refused = workspace.gemsbench("sync", check=False)
    assert refused.returncode == 1 and "make unlock" in refused.stderr and "Traceback" not in refused.stderr
    workspace.snakemake("--unlock")
    _let_go(workspace)
    workspace.gemsbench("sync")
    workspace.snakemake()
    after = workspace.result_times()
    assert (workspace.root / RUN / "metrics.json").is_file()
    assert {path: after[path] for path in before} == before, "finished runs were done again"


def test_a_second_run_in_the_same_folder_stops_at_once(workspace: Any) -> None:
    process = workspace.start(*SNAKEMAKE)
    _started(workspace, process)
    second = workspace.snakemake(check=False)
    assert second.returncode == 1 and "cannot be locked" in second.stdout + second.stderr
    assert workspace.pending()["train"] == 1  # a dry run is allowed
    _let_go(workspace)
    assert process.wait(120) == 0
    assert (workspace.root / RUN / "metrics.json").is_file()


def test_a_second_dvc_repro_stops_at_once(workspace: Any) -> None:
    process = workspace.start(sys.executable, "-m", "dvc", "repro")
    _started(workspace, process)
    assert workspace.dvc("repro", check=False).returncode != 0
    _let_go(workspace)
    assert process.wait(120) == 0
    assert workspace.dvc("status").stdout.strip() == "Data and pipelines are up to date."

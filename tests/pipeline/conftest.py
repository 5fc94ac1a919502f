"""A copy of the checkout with a profile that runs in seconds, made once and copied for each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PARTS = ("Snakefile", "Makefile", "dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml")
FOLDERS = (".dvc", "workflow", "profiles", "config", "src", "envs")
IGNORED = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local", ".snakemake")

# Stands in place of config/mini.yaml, whose stages dvc.yaml names.
MICRO = """\
profile: mini
seeds: [1]
history_length: 5
data_seed: 2026
recipes:
  simulated-amazon:
    world: {users: 300, items: 220, listed_items: 230, topics: 12, communities: 4, mean_purchases: 7.5}
corpus: {name: simulated-encyclopedia, settings: {words: 3000, topics: 12, note_topics: 8}}
backbones:
  t5-mini: &smallest
    vocabulary: 400
    width: 16
    feed_forward: 16
    layers: 1
    heads: 2
    pretraining: {steps: 4, evaluations: 1}
  qwen-mini: *smallest
knowledge: {settings: {documents: 20}}
encoders: {item-text: {}}
identifiers: {rqvae: {config: {quantiser: {hidden: [16], latent: 8, codebook_size: 16, epochs: 3}}}}
methods:
  random: {}
  popularity: {}
  tiger: {backbones: [t5-mini], config: {loop: {epochs: 1}, validation_cases: 20}}
  bsr: {config: {loop: {epochs: 1}, validation_cases: 20}}
  gems:
    backbones: [t5-mini]
    config: {loop: {epochs: 1}, validation_cases: 20, tuners: {t5: {config: {rank: 4}}}}
tables:
  columns: {Amazon: simulated-amazon}
  blocks: {T5-base: t5-mini, Qwen-3B: qwen-mini}
"""


@dataclass(frozen=True)
class Workspace:
    """A folder that holds a whole checkout, and the commands that run in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The caller's variables, with this checkout's source and this Python's commands first."""
        paths = os.pathsep.join([str(self.root / "src"), str(self.root)])
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PYTHONPATH": paths, "PATH": tools}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command here; its output is shown when it fails."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300)
        assert not check or done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        output = (self.root / "started.log").open("w")
        streams = {"stdout": output, "stderr": output}
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True, **streams
        )

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the workflow (profiles/default gives the cores)."""
        return self.run(sys.executable, "-m", "snakemake", *arguments, check=check)

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run dvc."""
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def gemsbench(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run this checkout's command line."""
        return self.run(sys.executable, "-m", "gemsbench.cli", *arguments, check=check)

    def git(self, *arguments: str) -> None:
        """Run git."""
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments)

    def pending(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that snakemake would run, without the target rule."""
        text = self.snakemake("--dry-run", *arguments).stdout
        if "Job stats:" not in text:
            assert "Nothing to be done" in text, text
            return {}
        table = text.split("Job stats:")[1].strip().split("\n\n")[0].splitlines()[2:]
        return {rule: int(count) for rule, count in (line.split() for line in table) if rule not in ("all", "total")}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def result_times(self) -> dict[str, int]:
        """When each score and metric file was written."""
        return {str(path): path.stat().st_mtime_ns for path in sorted((self.root / "results/mini/runs").rglob("*.*"))}


def _checkout(repository: Path, root: Path) -> Workspace:
    root.mkdir(parents=True)
    for folder in FOLDERS:
        shutil.copytree(repository / folder, root / folder, ignore=IGNORED)
    for part in PARTS:
        shutil.copy(repository / part, root / part)
    shutil.copytree(repository / "results/published", root / "results/published")
    (root / "config/mini.yaml").write_text(MICRO, encoding="utf-8")
    (root / "dvc.lock").unlink(missing_ok=True)
    workspace = Workspace(root)
    workspace.git("init", "--quiet", "--initial-branch", "main")
    workspace.git("add", "--all")
    workspace.git("commit", "--quiet", "--message", "checkout")
    return workspace


def _copy(source: Workspace, root: Path) -> Workspace:
    shutil.copytree(source.root, root, symlinks=True)  # copies time stamps too
    return Workspace(root)


@contextmanager
def _once(folder: Path) -> Iterator[bool]:
    """True for the first test process that comes here; the others wait for it and get False."""
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield not folder.exists()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this session see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def _finished(repository: Path, shared: Path) -> Workspace:
    root = shared / "finished"
    with _once(root) as first:
        if first:
            building = _checkout(repository, shared / "building")
            building.dvc("repro")
            building.root.rename(root)
    return Workspace(root)


@pytest.fixture(scope="session")
def _published(_finished: Workspace, shared: Path) -> Workspace:
    root = shared / "published"
    with _once(root) as first:
        if first:
            publishing = _copy(_finished, shared / "publishing")
            publishing.git("add", "dvc.lock")
            publishing.git("commit", "--quiet", "--message", "results")
            publishing.dvc("remote", "add", "--quiet", "--local", "--default", "store", str(shared / "remote"))
            publishing.dvc("push", "--quiet")
            publishing.root.rename(root)
    return Workspace(root)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Workspace:
    """A checkout in which nothing has run."""
    return _checkout(repository, tmp_path / "checkout")


@pytest.fixture
def finished(_finished: Workspace, tmp_path: Path) -> Workspace:
    """A checkout in which `dvc repro` has run everything."""
    return _copy(_finished, tmp_path / "finished")


@pytest.fixture
def pulled(_published: Workspace, shared: Path, tmp_path: Path) -> Workspace:
    """A fresh clone of a finished checkout after `dvc pull`, not yet synchronised."""
    root = tmp_path / "clone"
    _published.git("clone", "--quiet", str(_published.root), str(root))
    clone = Workspace(root)
    clone.dvc("remote", "add", "--quiet", "--local", "--default", "store", str(shared / "remote"))
    clone.dvc("pull", "--quiet")
    return clone

"""What the training logs of a profile's runs and backbones say, epoch by epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gemsbench.errors import InputError
from gemsbench.profile import Profile, Run, backbones_in_use, method_entry, runs

LOG_FILE = "log.jsonl"
VALID = "valid_ndcg@10"
QUANTITIES = ("loss", VALID)
BOTH = "both"  # where a method of two tasks logs one number for them together
STEPS_ON_THE_WAY = frozenset({"gmf", "mlp"})  # stages of NCF that only prepare the final ones
Panel: TypeAlias = tuple[str, str]  # one of QUANTITIES; "rec", "src" or BOTH
Points: TypeAlias = tuple[tuple[float, float], ...]  # (epoch or step, value), in order


@dataclass(frozen=True)
class Curve:
    """One run over its epochs: the last of its stages, or of several last ones the one that was kept.

    best is the epoch whose weights were kept; stopped says what ended the run (None: not logged).
    """

    run: Run
    in_stages: bool
    points: Mapping[Panel, Points]
    best: float | None
    stopped: str | None


@dataclass(frozen=True)
class PretrainingCurve:
    """A stand-in backbone over its steps: training and held-out loss in nats per token; unigram is a constant."""

    backbone: str
    loss: Points
    heldout: Points
    unigram: float | None


def run_curves(profile: Profile, results: Path) -> list[Curve]:
    """The curve of every run of the profile that trains in epochs, in the profile's order; results/<profile> is read.

    Raises InputError for a log that is missing or damaged, with the command that makes it.
    """
    found = []
    for run in runs(profile):
        curve = _run_curve(run, run.folder(results) / LOG_FILE, method_entry(profile, run.method).tasks)
        if curve is not None:
            found.append(curve)
    return found


def pretraining_curves(profile: Profile, results: Path) -> list[PretrainingCurve]:
    """The curves of the backbones that runs of the profile tune and that were pre-trained below results/<profile>.

    A downloaded backbone has no curve: its log only says that it was fetched. Raises InputError for a damaged log.
    """
    logs = {name: results / "backbones" / name / LOG_FILE for name in backbones_in_use(profile)}
    present = ((name, path, _read(path)) for name, path in logs.items() if path.is_file())
    return [_pretraining_curve(name, path, lines) for name, path, lines in present if lines[0]["stage"] != "fetch"]


def _run_curve(run: Run, path: Path, tasks: Sequence[str]) -> Curve | None:
    lines = _read(path)
    end = next((line for line in lines if line["stage"] == "end"), {})
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if "epoch" in line and any(key.startswith(QUANTITIES) for key in line) and line is not end:
            stages.setdefault(line["stage"], []).append(line)
    final = [stage for name, stage in stages.items() if name not in STEPS_ON_THE_WAY]
    if not final:
        return None
    kept = max(final, key=lambda stage: max((value for _, value in _column(stage, VALID)), default=0.0))
    points = {(quantity, task): column for quantity in QUANTITIES for task, column in _by_task(kept, quantity, tasks)}
    shown = {panel: column for panel, column in points.items() if column}
    return Curve(run, len(stages) > 1, shown, _best(kept, end), end.get("stopped"))


def _by_task(lines: Sequence[Mapping[str, Any]], quantity: str, tasks: Sequence[str]) -> Iterator[tuple[str, Points]]:
    """The points of each task; of all together only where the log does not tell the tasks apart."""
    single = {task: _column(lines, f"{quantity}_{task}") for task in tasks}
    if any(single.values()):
        yield from single.items()
    else:
        yield (tasks[0] if len(tasks) == 1 else BOTH), _column(lines, quantity)


def _column(lines: Sequence[Mapping[str, Any]], key: str, at: str = "epoch") -> Points:
    """The finite values of a key; null or NaN (a diverged loss) leaves its point out."""
    pairs = ((float(line[at]), line.get(key)) for line in lines)
    return tuple((place, float(value)) for place, value in pairs if value is not None and math.isfinite(value))


def _best(lines: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> float | None:
    """The epoch of the logged best step, else the first one with the largest validation value."""
    if "best_step" in end:
        return next((float(line["epoch"]) for line in lines if line.get("step") == end["best_step"]), None)
    validated = _column(lines, VALID)
    return max(validated, key=lambda point: point[1])[0] if validated else None


def _pretraining_curve(name: str, path: Path, log: Sequence[Mapping[str, Any]]) -> PretrainingCurve:
    lines = [line for line in log if "step" in line and line["stage"] == "pretrain"]
    heldout = _column(lines, "heldout_loss", "step")
    if not heldout:
        raise InputError(f"{path}: no line of pre-training with a heldout_loss in it. {_remedy(path)}")
    unigram = _column(lines, "unigram_loss", "step")
    return PretrainingCurve(name, _column(lines, "loss", "step"), heldout, unigram[-1][1] if unigram else None)


def _read(path: Path) -> list[Mapping[str, Any]]:
    """The lines of a log: each a mapping with a stage, whose other keys the figure needs are numbers or null."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: missing. The profile lists this run, and a figure without it would be incomplete. "
            f"Make it: {_command(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not utf-8 text ({error}). {_remedy(path)}") from error
    if not texts:
        raise InputError(f"{path}: empty. {_remedy(path)}")
    return [_parse(text, f"{path}, line {number}", path) for number, text in enumerate(texts, start=1)]


def _parse(text: str, where: str, path: Path) -> Mapping[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error}). {_remedy(path)}") from error
    if not isinstance(line, dict) or not isinstance(line.get("stage"), str):
        raise InputError(f"{where}: not a line of a training log, which has a stage. {_remedy(path)}")
    wrong = [key for key, value in line.items() if not _fits(key, value)]
    if wrong:
        raise InputError(f"{where}: {', '.join(wrong)} must be a number. {_remedy(path)}")
    return line


def _fits(key: str, value: Any) -> bool:
    if key in ("epoch", "step"):
        return _is_number(value) and math.isfinite(value)
    return _is_number(value) or value is None or not (key.startswith(QUANTITIES) or key.endswith("_loss"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _command(path: Path) -> str:
    return f"snakemake --cores all --configfile <profile> -- {path}"


def _remedy(path: Path) -> str:
    return f"Delete the file and make it again: {_command(path)}"

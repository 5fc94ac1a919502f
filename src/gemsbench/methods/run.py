"""One run of the tables: fit a method on a prepared recipe, score the test cases, write the score file."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import __version__, registry
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.evaluation.ragged import offsets_of
from gemsbench.evaluation.scores import write_scores
from gemsbench.files import canonical_json, read_json, write_json, write_text
from gemsbench.methods.contract import Method, ScoreArray
from gemsbench.profile import Profile, Run, method_entry
from gemsbench.progress import quietly
from gemsbench.protocol.pack import Pack, load_pack

MODEL = "model"
SCORES = "scores.parquet"
LOG = "log.jsonl"
DIAGNOSTICS = "diagnostics.json"  # in the model folder, of a method that has something to say of its fit
FITTED_ON = "fitted_on.json"  # in the model folder: what it was fitted on (invariant L-g)


def fit_and_score(
    method_key: str,
    profile: Profile,
    run: Run,
    pack_folder: Path,
    out: Path,
    *,
    backbone: Path | None = None,
    identifiers: Path | None = None,
    basis: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Fit the profile's method on the pack into out/model and write out/scores.parquet, whose path is returned.

    out is the run's folder; out/log.jsonl is the log.jsonl that the method leaves in its artefact. identifiers, basis:
    see contract.TunedMethod; refused for a method that takes none. Called again after a kill, methods with
    checkpoints go on. Raises InputError on a wrong setting, or scores that do not fit.
    """
    method, config = build_method(method_key, profile)
    pack = load_pack(pack_folder)
    model = out / MODEL
    model.parent.mkdir(parents=True, exist_ok=True)
    with quietly(quiet):
        began = time.perf_counter()
        data = pack.training_data()
        made = {name: path for name, path in (("identifiers", identifiers), ("basis", basis)) if path is not None}
        _check_keywords(method, method_key, made)
        method.fit(config, data, backbone, run.seed, model, **made)
        if not model.is_dir():
            raise InputError(f"{method_key}: fit returned without writing the folder `out` that it was given.")
        if (model / LOG).is_file():
            (model / LOG).replace(out / LOG)
        else:
            line = {"stage": "fit", "seconds": round(time.perf_counter() - began, 3)}
            write_text(out / LOG, canonical_json(line) + "\n")
        write_json(model / FITTED_ON, data.fitted_on)
        return _score(method, method_key, profile, run, pack, model, out / SCORES)


def _check_keywords(method: Method, method_key: str, made: Iterable[str]) -> None:
    known = inspect.signature(method.fit).parameters
    for name in made:
        if name not in known:
            raise InputError(
                f"{method_key}: `{name}` was made for this run, and {type(method).__name__}.fit does not take it. Give "
                f"fit a keyword `{name}` and hand it on to fit_generative (contract.TunedMethod)."
            )


def rescore(method_key: str, profile: Profile, run: Run, pack_folder: Path, model: Path, out: Path) -> Path:
    """Write the score file out from the saved model folder; nothing is trained. Returns out."""
    method, _ = build_method(method_key, profile)
    if not model.is_dir():
        raise InputError(f"{model}: no saved model. Fit it first (gemsbench train).")
    return _score(method, method_key, profile, run, load_pack(pack_folder), model, out)


def _score(method: Method, method_key: str, profile: Profile, run: Run, pack: Pack, model: Path, out: Path) -> Path:
    tasks = method_entry(profile, method_key).tasks
    asked = [pack.questions("test", task) for task in tasks]
    parts = [checked_scores(method.score(model, cases), cases, method_key) for cases in asked]
    header = {
        "method": method_key,
        "recipe": run.recipe,
        "backbone": run.backbone,
        "seed": run.seed,
        "profile": profile.profile,
        "tasks": list(tasks),
        "fingerprint": pack.fingerprint,
        "fitted_on": read_json(model / FITTED_ON),
        "version": __version__,
    }
    if (model / DIAGNOSTICS).is_file() and "stopped" in (found := read_json(model / DIAGNOSTICS)):
        header["stopped"] = found["stopped"]  # what ended the training: captions say how many runs were not done
    case_ids = np.concatenate([cases["case_id"].to_numpy() for cases in asked])
    flat = np.concatenate([scores for scores, _ in parts])
    lengths = np.concatenate([lengths for _, lengths in parts])
    write_scores(out, case_ids, (flat, lengths), header)
    return out


def build_method(method_key: str, profile: Profile) -> tuple[Method, Any]:
    """The method object behind a key of the profile, and its Config with the profile's values.

    Raises InputError naming the wrong key and the nearest right one.
    """
    entry = method_entry(profile, method_key)
    if not entry.tasks:
        raise InputError(
            f"method '{method_key}' answers none of the tasks that profile '{profile.profile}' asks of it."
        )
    kind = registry.resolve(entry.target)
    missing = [name for name in ("Config", "fit", "score") if not hasattr(kind, name)]
    if missing:
        raise InputError(f"'{entry.target}' is not a method: it has no {', '.join(missing)}. See methods/contract.py.")
    where = f"profile '{profile.profile}', methods: {method_key}: config"
    return kind(), load_settings(kind.Config, profile.methods[method_key].config, where)


def checked_scores(
    scores: Iterable[ScoreArray], cases: pl.DataFrame, name: str
) -> tuple[ScoreArray, npt.NDArray[np.int64]]:
    """The scores laid end to end (float32) and their lengths (int64), one list per case.

    Raises InputError naming the first case whose scores are missing, NaN, or not one float32 per candidate.
    """
    arrays = list(scores)
    case_ids = cases["case_id"].to_numpy()
    wanted = cases["items"].list.len().cast(pl.Int64).to_numpy()
    if len(arrays) != len(case_ids):
        raise InputError(f"{name}: gave {len(arrays)} score arrays for {len(case_ids)} cases. Yield one per case.")
    wrong_type = next((n for n, array in enumerate(arrays) if getattr(array, "dtype", None) != np.float32), None)
    if wrong_type is not None:
        found = getattr(arrays[wrong_type], "dtype", type(arrays[wrong_type]).__name__)
        raise InputError(f"{name}: scores of case {case_ids[wrong_type]} are {found}, not a float32 array.")
    found_lengths = np.array([array.size if array.ndim == 1 else -1 for array in arrays], dtype=np.int64)
    wrong = np.flatnonzero(found_lengths != wanted)
    if wrong.size:
        first = wrong[0]
        raise InputError(
            f"{name}: case {case_ids[first]} has {wanted[first]} candidates but scores of shape {arrays[first].shape}. "
            "Yield one number per candidate, in the order of the column items."
        )
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.float32)
    if np.isnan(flat).any():
        first = np.searchsorted(offsets_of(wanted)[1:], int(np.isnan(flat).argmax()), side="right")
        raise InputError(f"{name}: NaN among the scores of case {case_ids[first]}. Use -inf for a hopeless candidate.")
    return flat, wanted

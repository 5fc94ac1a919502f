"""Score files: one float32 per candidate of every case, and their strict pairing with candidate lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.evaluation import ragged

Float32Array = npt.NDArray[np.float32]
SHOWN = 5  # case ids named in a message


@dataclass(frozen=True)
class Scores:
    """Scores of one run: those of case_ids[q] are flat[offsets[q]:offsets[q + 1]], in the order of its candidates.

    case_ids int64 [Q], flat float32 [sum of C], offsets int64 [Q+1]; header: method, recipe, fingerprint, tasks, ...
    """

    case_ids: ragged.Int64Array
    flat: Float32Array
    offsets: ragged.Int64Array
    header: Mapping[str, Any]


def write_scores(
    path: Path,
    case_ids: Sequence[int] | npt.NDArray[Any],
    scores: Iterable[Float32Array] | tuple[Float32Array, npt.NDArray[Any]],
    header: Mapping[str, Any],
) -> None:
    """Write a score file (columns case_id int64, scores list<float32>; header as JSON in the parquet metadata).

    scores is one float32 array per case, or the pair (flat float32, lengths). header should name method, recipe,
    fingerprint (of the candidates) and tasks. Raises InputError on NaN, another dtype, wrong counts, repeated cases.
    """
    ids = np.asarray(case_ids, dtype=np.int64)
    flat, lengths = _flat_and_lengths(scores)
    if flat.dtype != np.float32:
        raise InputError(f"{path}: scores must be float32, these are {flat.dtype}. Cast them with .astype('float32').")
    if len(lengths) != len(ids) or int(lengths.sum()) != len(flat):
        raise InputError(
            f"{path}: {len(ids)} cases, {len(lengths)} score lists, {len(flat)} scores for lengths that add up to "
            f"{int(lengths.sum())}. Give one score list per case."
        )
    written = Scores(ids, flat, ragged.offsets_of(lengths), dict(header))
    _reject_repeats(written, str(path))
    _reject_nan(written, str(path))
    table = pl.DataFrame({"case_id": ids, "scores": ragged.list_column("scores", flat, lengths)})
    files.write_table(path, table, metadata=header)


def _flat_and_lengths(scores: Any) -> tuple[npt.NDArray[Any], ragged.Int64Array]:
    if isinstance(scores, tuple) and len(scores) == 2 and not np.issubdtype(np.asarray(scores[1]).dtype, np.floating):
        return np.asarray(scores[0]), np.asarray(scores[1], dtype=np.int64)
    arrays = [np.asarray(array) for array in scores]
    lengths = np.fromiter((array.size for array in arrays), dtype=np.int64, count=len(arrays))
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.float32)
    return flat, lengths


def read_scores(path: Path, case_ids: Sequence[int] | None = None) -> Scores:
    """Read a score file, all of it or only the rows of case_ids.

    Raises InputError when the file is missing or damaged, a column is missing, or a column has another type.
    """
    header = files.read_header(path)
    table = _rows(path, case_ids)
    missing = [column for column in ("case_id", "scores") if column not in table.columns]
    if missing:
        raise InputError(f"{path}: not a score file, it has no column {', '.join(missing)}. See write_scores.")
    if not table.schema["case_id"].is_integer():
        raise InputError(f"{path}: case_id must be int64, it is {table.schema['case_id']}.")
    if table.schema["scores"] != pl.List(pl.Float32):
        raise InputError(
            f"{path}: scores must be list<float32>, they are {table.schema['scores']}. "
            "Cast them to float32 before writing (gemsbench.evaluation.write_scores checks this)."
        )
    if table["case_id"].null_count() or table["scores"].null_count():
        raise InputError(f"{path}: null rows. Every row needs a case_id and a list of scores.")
    flat, offsets = ragged.flatten(table["scores"])
    return Scores(table["case_id"].cast(pl.Int64).to_numpy(), flat, offsets, header)


def _rows(path: Path, case_ids: Sequence[int] | None) -> pl.DataFrame:
    if case_ids is None:
        return files.read_table(path)
    try:
        return pl.scan_parquet(path).filter(pl.col("case_id").is_in(list(case_ids))).collect()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable score file ({error}).") from error


def align(scores: Scores, candidates: pl.DataFrame, fingerprint: str | None = None) -> Scores:
    """The scores with their cases in the order of candidates (columns case_id, items), paired by case_id.

    Raises InputError when they are scores of other candidates (fingerprint, case ids or lengths differ), when a case
    occurs twice, or on NaN; the message counts the cases and names the first ones.
    """
    where = describe(scores.header)
    if scores.flat.dtype != np.float32:
        raise InputError(f"{where}: scores must be float32, these are {scores.flat.dtype}.")
    if fingerprint is not None:
        _check_fingerprint(scores.header, fingerprint, where)
    _reject_repeats(scores, where)
    wanted = candidates["case_id"].cast(pl.Int64).to_numpy()
    rows = _rows_of(scores.case_ids, wanted, where)
    lengths = candidates["items"].list.len().cast(pl.Int64).to_numpy()
    found = np.diff(scores.offsets)[rows]
    if np.any(found != lengths):
        wrong = np.flatnonzero(found != lengths)
        shown = ", ".join(f"{wanted[q]} ({found[q]} scores, {lengths[q]} candidates)" for q in wrong[:SHOWN])
        raise InputError(f"{where}: {len(wrong)} cases have a wrong number of scores, first: {shown}.")
    _reject_nan(scores, where)
    if np.array_equal(rows, np.arange(len(scores.case_ids))):
        return scores
    flat, offsets = ragged.gather(scores.flat, scores.offsets, rows)
    return Scores(wanted, flat, offsets, scores.header)


def describe(header: Mapping[str, Any]) -> str:
    """How messages call a run: its method and recipe, as far as the header knows them."""
    names = [str(header[key]) for key in ("method", "recipe", "seed") if header.get(key) not in (None, "")]
    return f"scores of {' / '.join(names)}" if names else "scores"


def _check_fingerprint(header: Mapping[str, Any], fingerprint: str, where: str) -> None:
    own = header.get("fingerprint")
    if own is None:
        raise InputError(
            f"{where}: the header names no fingerprint, so nobody can tell which candidates these scores are of. "
            "Write the file with write_scores(..., header={'fingerprint': pack.fingerprint, ...})."
        )
    if own != fingerprint:
        raise InputError(
            f"{where}: scores of other candidates (fingerprint {str(own)[:12]}..., the data has {fingerprint[:12]}...)."
            " Score the candidates of this data again, or name the data that the scores were made with."
        )


def _rows_of(own: ragged.Int64Array, wanted: ragged.Int64Array, where: str) -> ragged.Int64Array:
    """Row in own of every wanted case id; both without repeats."""
    if np.array_equal(own, wanted):
        return np.arange(len(own), dtype=np.int64)
    missing, unknown = np.setdiff1d(wanted, own), np.setdiff1d(own, wanted)
    problems = [
        f"{len(ids)} {what} (first: {', '.join(map(str, ids[:SHOWN]))})"
        for ids, what in ((missing, "cases have no scores"), (unknown, "scored cases are not asked for"))
        if len(ids)
    ]
    if problems:
        raise InputError(
            f"{where}: {' and '.join(problems)}. Score exactly the test cases of the tasks that the header declares "
            "(header['tasks'], e.g. ['rec'])."
        )
    order = np.argsort(own, kind="stable")
    rows: ragged.Int64Array = order[np.searchsorted(own, wanted, sorter=order)]
    return rows


def _reject_repeats(scores: Scores, where: str) -> None:
    unique, counts = np.unique(scores.case_ids, return_counts=True)
    if len(unique) != len(scores.case_ids):
        repeated = unique[counts > 1]
        shown = ", ".join(map(str, repeated[:SHOWN]))
        raise InputError(f"{where}: {len(repeated)} cases occur more than once, first: {shown}.")


def _reject_nan(scores: Scores, where: str) -> None:
    nan = np.isnan(scores.flat)
    if nan.any():
        places = np.flatnonzero(nan)
        first = int(np.searchsorted(scores.offsets, places[0], side="right")) - 1
        raise InputError(
            f"{where}: {len(places)} scores are NaN, first in case {scores.case_ids[first]}, candidate "
            f"{places[0] - scores.offsets[first]}. Use -inf for a candidate that the method cannot score."
        )

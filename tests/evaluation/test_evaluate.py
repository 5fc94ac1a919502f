from __future__ import annotations

import dataclasses
import json
from math import log2
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import CheckError, InputError
from gemsbench.evaluation import Evaluation, Scores, evaluate, read_evaluation, write_evaluation, write_scores
from gemsbench.files import read_header
from gemsbench.protocol.export import export_pack
from gemsbench.protocol.pack import load_pack

NAMES = {"hit@5", "hit@10", "ndcg@5", "ndcg@10"}
KEYS = NAMES | {f"{name}_exp" for name in NAMES} | {"tie_rate", "n"}


def descending(n: int) -> list[float]:
    return [float(-i) for i in range(n)]


@pytest.fixture
def pack(make_pack):
    """Two test cases per task (positives at places 1 and 3 of rec, 6 and 12 of src) and one valid case."""
    rows = [list(range(1 + 12 * i, 13 + 12 * i)) for i in range(5)]
    places = [0, 2, 5, 11, 0]
    positives = [[row[place]] for row, place in zip(rows, places, strict=True)]
    return make_pack(rows, positives, ["rec", "rec", "src", "src", "rec"], ["test"] * 4 + ["valid"])


def test_metrics_per_task(pack) -> None:
    evaluation = evaluate(pack.scores([descending(12)] * 4), pack)
    rec, src = evaluation.metrics["rec"], evaluation.metrics["src"]
    assert set(rec) == set(src) == KEYS
    assert (rec["n"], src["n"]) == (2, 2)
    assert (rec["hit@5"], rec["hit@10"], src["hit@5"], src["hit@10"]) == (1.0, 1.0, 0.0, 0.5)
    assert rec["ndcg@10"] == pytest.approx((1 + 1 / log2(4)) / 2)
    assert src["ndcg@10"] == pytest.approx(1 / log2(7) / 2)
    assert evaluation.ranks.rows() == [(100, "rec", 1), (103, "rec", 3), (106, "src", 6), (109, "src", 12)]
    assert evaluation.ranks.schema["rank"] == pl.UInt8


def test_written_files(pack, tmp_path: Path) -> None:
    evaluation = evaluate(pack.scores([descending(12)] * 4, seed=3), pack)
    write_evaluation(evaluation, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "ranks.parquet"]
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert list(values) == ["rec", "src"]
    assert set(values["rec"]) == KEYS
    assert read_header(tmp_path / "ranks.parquet")["fingerprint"] == pack.fingerprint
    again = read_evaluation(tmp_path)
    assert again.metrics == evaluation.metrics
    assert again.header == evaluation.header
    assert again.ranks.equals(evaluation.ranks)


def test_rows_are_paired_by_case_id(random_pack) -> None:
    pack, rng = random_pack(40), np.random.default_rng(2)
    scores = pack.scores(rng.normal(size=(40, 12)).tolist())
    order = rng.permutation(40)
    flat = scores.flat.reshape(40, 12)[order].ravel()
    shuffled = dataclasses.replace(scores, case_ids=scores.case_ids[order], flat=flat)
    assert evaluate(shuffled, pack).metrics == evaluate(scores, pack).metrics
    candidates = pack.candidate_table.sample(fraction=1.0, shuffle=True, seed=1)
    assert evaluate(scores, dataclasses.replace(pack, candidate_table=candidates)).ranks.equals(
        evaluate(scores, pack).ranks
    )


def test_scores_of_a_changed_candidate_file_are_refused(pack, make_pack) -> None:
    rows = pack.candidate_table["items"].to_list()
    other = make_pack(
        [row[::-1] for row in rows], pack.candidate_table["positives"].to_list(), pack.case_table["task"].to_list(),
        pack.case_table["split"].to_list(),
    )  # fmt: skip
    with pytest.raises(InputError, match="scores of other candidates"):
        evaluate(pack.scores([descending(12)] * 4), other)


def test_missing_cases_of_a_declared_task(pack) -> None:
    only_rec = pack.scores([descending(12)] * 2, tasks=["rec"])
    assert list(evaluate(only_rec, pack).metrics) == ["rec"]
    both = dataclasses.replace(only_rec, header={**only_rec.header, "tasks": ["rec", "src"]})
    with pytest.raises(InputError, match=r"2 cases have no scores \(first: 106, 109\)"):
        evaluate(both, pack)
    silent = dataclasses.replace(only_rec, header={"fingerprint": pack.fingerprint})
    with pytest.raises(InputError, match="2 cases have no scores"):
        evaluate(silent, pack)
    with pytest.raises(InputError, match=r"the header declares the task 'recc'\. Did you mean 'rec'"):
        evaluate(dataclasses.replace(only_rec, header={**only_rec.header, "tasks": ["recc"]}), pack)


def test_undeclared_cases_are_refused(pack) -> None:
    scores = pack.scores([descending(12)] * 4)
    narrowed = dataclasses.replace(scores, header={**scores.header, "tasks": ["src"]})
    with pytest.raises(InputError, match=r"2 scored cases are not asked for \(first: 100, 103\)"):
        evaluate(narrowed, pack)


def test_nan_scores_are_refused(pack) -> None:
    rows = [descending(12) for _ in range(4)]
    rows[2][4] = float("nan")
    with pytest.raises(InputError, match="1 scores are NaN, first in case 106, candidate 4"):
        evaluate(pack.scores(rows), pack)


def test_several_positives(make_pack, tmp_path: Path) -> None:
    """Case 100 has positives at ranks 2 and 4, case 103 one at rank 1."""
    pack = make_pack([list(range(1, 13)), list(range(1, 13))], [[4, 2], [1]])
    evaluation = evaluate(pack.scores([descending(12)] * 2, tasks=["rec"]), pack)
    assert evaluation.ranks.rows() == [(100, "rec", 2, [2, 4]), (103, "rec", 1, [1])]
    first = (1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3))
    assert evaluation.metrics["rec"]["ndcg@5"] == pytest.approx((first + 1) / 2)
    ids, values = evaluation.per_case("rec", "ndcg@5")
    assert ids.tolist() == [100, 103]
    assert values == pytest.approx([first, 1.0])
    write_evaluation(evaluation, tmp_path)
    assert read_evaluation(tmp_path).per_case("rec", "ndcg@10")[1] == pytest.approx([first, 1.0])


def test_per_case_values_average_to_the_metrics(random_pack) -> None:
    for most in (1, 4):
        pack = random_pack(30, most=most)
        scores = pack.scores(np.random.default_rng(3).integers(0, 6, size=(30, 12)).tolist())
        evaluation = evaluate(scores, pack)
        for task in ("rec", "src"):
            for name in NAMES:
                ids, values = evaluation.per_case(task, name)
                assert len(ids) == 15
                assert values.mean() == pytest.approx(evaluation.metrics[task][name])
    with pytest.raises(InputError, match="no metric 'ndcg@50' per case"):
        evaluation.per_case("rec", "ndcg@50")


def test_impossible_one_positive_numbers_are_not_written(pack, tmp_path: Path) -> None:
    good = evaluate(pack.scores([descending(12)] * 4), pack)
    broken = {task: {**values, "ndcg@5": values["hit@5"] + 0.01} for task, values in good.metrics.items()}
    with pytest.raises(CheckError, match="scores of m, task rec: not possible with one positive per case"):
        write_evaluation(Evaluation(broken, good.ranks, good.header), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ranks_beyond_one_byte_saturate(make_pack) -> None:
    rows = [list(range(1, 401)), list(range(1, 401))]
    pack = make_pack(rows, [[300], [255]])
    assert evaluate(pack.scores([descending(400)] * 2, tasks=["rec"]), pack).ranks["rank"].to_list() == [255, 255]


def test_positive_outside_the_candidates(make_pack) -> None:
    pack = make_pack([[1, 2, 3], [1, 2, 3]], [[1], [9]])
    with pytest.raises(InputError, match=r"1 cases do not hold each of their positives once.*case 103"):
        evaluate(pack.scores([[1, 2, 3], [1, 2, 3]], tasks=["rec"]), pack)


def test_case_without_a_positive(pack) -> None:
    nobody = pl.when(pl.col("case_id") == 106).then(pl.lit([], dtype=pl.List(pl.Int32))).otherwise("positives")
    cut = dataclasses.replace(pack, candidate_table=pack.candidate_table.with_columns(positives=nobody))
    with pytest.raises(
        InputError,
        match=r"1 test cases have no right answer, first: case 106.*`gemsbench evaluate` does not average.*eval_modes",
    ):
        evaluate(pack.scores([descending(12)] * 4), cut)


def test_case_without_candidates(pack) -> None:
    cut = dataclasses.replace(pack, candidate_table=pack.candidate_table.filter(pl.col("case_id") != 103))
    with pytest.raises(InputError, match="1 test cases have no candidates, first: 103"):
        evaluate(pack.scores([descending(12)] * 4), cut)


def test_no_case_of_the_task(make_pack) -> None:
    pack = make_pack([[1, 2]], [[1]])
    nothing = Scores(np.empty(0, np.int64), np.empty(0, np.float32), np.zeros(1, np.int64), {
        "fingerprint": pack.fingerprint, "tasks": ["src"]})  # fmt: skip
    with pytest.raises(InputError, match="the data has no test case of src"):
        evaluate(nothing, pack)


def test_files_of_a_prepared_folder_and_of_an_exported_pack(pack, prepared, tmp_path: Path) -> None:
    folder, path = prepared(pack), tmp_path / "scores.parquet"
    in_memory = pack.scores([descending(12)] * 4)
    write_scores(path, in_memory.case_ids, (in_memory.flat, np.diff(in_memory.offsets)), in_memory.header)
    expected = evaluate(in_memory, pack)
    exported = export_pack(load_pack(folder), tmp_path / "exported")
    for data in (folder, exported, load_pack(exported)):
        evaluation = evaluate(path, data)
        assert evaluation.metrics == expected.metrics
        assert evaluation.ranks.equals(expected.ranks)

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pytest

from gemsbench.errors import InputError
from gemsbench.evaluation import evaluate, read_scores, trec, trec_lines
from gemsbench.evaluation.trec import export_qrels, export_run, import_run

THEIRS = {"hit@5": "Success@5", "hit@10": "Success@10", "ndcg@5": "nDCG@5", "ndcg@10": "nDCG@10"}


@pytest.mark.parametrize("most", [1, 4])
def test_another_tool_computes_our_numbers(random_pack, tmp_path: Path, most: int) -> None:
    pack = random_pack(80, size=25, seed=most, most=most)
    values = np.random.default_rng(9).integers(0, 8, size=(80, 25)).astype(float)  # ties in nearly every case
    values[values == 0] = -np.inf
    scores = pack.scores(values.tolist())
    ours = evaluate(scores, pack)
    assert min(task["tie_rate"] for task in ours.metrics.values()) > 0.5
    for task in ("rec", "src"):
        export_run(tmp_path / "run", scores, pack, task=task)
        export_qrels(tmp_path / "qrels", pack, task=task)
        measures = {name: ir_measures.parse_measure(measure) for name, measure in THEIRS.items()}
        run = list(ir_measures.read_trec_run(str(tmp_path / "run")))
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
        theirs = ir_measures.calc_aggregate(measures.values(), qrels, run)
        for name, measure in measures.items():
            assert theirs[measure] == pytest.approx(ours.metrics[task][name], abs=1e-9)


def test_lines_of_a_run(make_pack, tmp_path: Path) -> None:
    pack = make_pack([[11, 12, 13], [21, 22]], [[11], [22]], ["rec", "src"])
    scores = pack.scores([[1.0, 1.0, 5.0], [0.0, 2.0]], method="my method")
    export_run(tmp_path / "run", scores, pack)
    export_qrels(tmp_path / "qrels", pack)
    assert (tmp_path / "run").read_text().splitlines() == [
        "100 Q0 13 1 -1 my-method",
        "100 Q0 12 2 -2 my-method",
        "100 Q0 11 3 -3 my-method",
        "103 Q0 22 1 -1 my-method",
        "103 Q0 21 2 -2 my-method",
    ]
    assert (tmp_path / "qrels").read_text().splitlines() == ["100 0 11 1", "103 0 22 1"]


def test_export_of_an_absent_task(make_pack, tmp_path: Path) -> None:
    pack = make_pack([[11, 12]], [[11]])
    with pytest.raises(InputError, match="no test case of task 'src'"):
        export_run(tmp_path / "run", pack.scores([[1, 2]], tasks=["rec"]), pack, task="src")
    with pytest.raises(InputError, match="no test case of src"):
        export_qrels(tmp_path / "qrels", pack, task="src")
    assert list(tmp_path.iterdir()) == []


def test_exported_run_comes_back_with_the_same_metrics(random_pack, tmp_path: Path) -> None:
    pack = random_pack(50, seed=3)
    scores = pack.scores(np.random.default_rng(2).integers(0, 5, size=(50, 12)).tolist())
    export_run(tmp_path / "run", scores, pack)
    imported = import_run(tmp_path / "run", pack, tmp_path / "scores.parquet")
    ours, theirs = evaluate(scores, pack), evaluate(tmp_path / "scores.parquet", pack)
    assert theirs.ranks.equals(ours.ranks)
    assert theirs.header["tasks"] == ["rec", "src"]
    assert read_scores(tmp_path / "scores.parquet").flat.tolist() == imported.flat.tolist()


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


@pytest.fixture
def pack(make_pack):
    return make_pack([[11, 12, 13], [21, 22], [31, 32]], [[11], [22], [31]], ["rec", "src", "src"])


REC = ("100 Q0 13 1 0.30000000000000004 t", "100\tQ0\t12  2  0.3 t", "  100 Q0 11 9 -inf t  ", "")


def test_order_ties_and_double_precision(pack, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(
        lines(*REC, "103 Q0 22 1 5 t", "103 Q0 21 2 5 t", "106 Q0 31 1 7 t", "106 Q0 32 1 8 t")
    )
    imported = import_run(tmp_path / "run", pack, tmp_path / "s")
    assert imported.flat.tolist() == [-3, -2, -1, -1, -1, -2, -1]
    assert imported.header["tasks"] == ["rec", "src"]


def test_a_run_of_one_task(pack, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(lines(*REC))
    assert import_run(tmp_path / "run", pack, tmp_path / "s").header["tasks"] == ["rec"]
    assert list(evaluate(tmp_path / "s", pack).metrics) == ["rec"]


def test_what_a_run_leaves_out(pack, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(lines("103 Q0 22 1 5 t"))
    with pytest.raises(InputError, match="3 candidates are not ranked, first: case 103, item 21"):
        import_run(tmp_path / "run", pack, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    imported = import_run(tmp_path / "run", pack, tmp_path / "s", missing="-inf")
    assert imported.flat.tolist() == [-np.inf, -1.0, -np.inf, -np.inf]
    assert evaluate(tmp_path / "s", pack).ranks["rank"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the run is empty"),
        ("\n\n", "the run is empty"),
        (lines(*REC, "100 Q0 11"), "1 lines are not .* first: line 5: '100 Q0 11'"),
        (lines("100 Q0 11 1 high t"), "1 lines are not .* first: line 1"),
        (lines("100 Q0 11 1 nan t"), "1 lines are not"),
        (lines("100 Q0 doc 1 1 t"), "1 lines are not"),
        (lines(*REC, "100 Q0 12 5 0 t"), "1 candidates are ranked more than once, first: case 100, item 12"),
        (lines(*REC, "100 Q0 21 5 0 t"), "not a candidate of its case, first: case 100, item 21"),
        (lines(*REC, "100 Q0 4294967307 5 0 t"), "not a candidate of its case, first: case 100, item 4294967307"),
        (lines(*REC, "100 Q0 -11 5 0 t"), "not a candidate of its case, first: case 100, item -11"),
        (lines(*REC, "104 Q0 21 5 0 t"), "1 query ids are not test cases of the data, first: 104"),
    ],
)
def test_bad_runs(pack, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run").write_text(text)
    with pytest.raises(InputError, match=message):
        import_run(tmp_path / "run", pack, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_blocks_do_not_cut_lines(random_pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = random_pack(30, seed=6)
    scores = pack.scores(np.random.default_rng(4).integers(0, 5, size=(30, 12)).tolist())
    export_run(tmp_path / "run", scores, pack)
    whole = import_run(tmp_path / "run", pack, tmp_path / "s")
    monkeypatch.setattr(trec, "CASES_AT_A_TIME", 7)
    for size in (1, 50, 333):
        monkeypatch.setattr(trec_lines, "BLOCK_BYTES", size)
        assert import_run(tmp_path / "run", pack, tmp_path / "s").flat.tolist() == whole.flat.tolist()
        with (tmp_path / "bad").open("w") as handle:
            handle.write((tmp_path / "run").read_text() + "\n\nwrong\n")
        with pytest.raises(InputError, match="first: line 363: 'wrong'"):
            import_run(tmp_path / "bad", pack, tmp_path / "s")


def test_absent_and_binary_files(pack, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_run(tmp_path / "run", pack, tmp_path / "s")
    (tmp_path / "run").write_bytes(bytes(3 * 2**20))
    with (tmp_path / "run").open("ab") as handle, pytest.MonkeyPatch.context() as patch:
        handle.write(b"x")
        patch.setattr(trec_lines, "BLOCK_BYTES", 100)
        with pytest.raises(InputError, match="not a TREC run, it has lines longer than"):
            import_run(tmp_path / "run", pack, tmp_path / "s")
    (tmp_path / "run").write_bytes(b"100 Q0 11 1 1 t\n\xff\xfe\x00\n")
    with pytest.raises(InputError, match=r"not readable as utf-8|lines are not"):
        import_run(tmp_path / "run", pack, tmp_path / "s")

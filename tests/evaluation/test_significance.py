from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gemsbench.errors import InputError
from gemsbench.evaluation import compare, evaluate, write_evaluation, write_scores
from gemsbench.evaluation.significance import mean_per_case, paired_t_test


def test_agrees_with_scipy_and_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(200) + 0.05, rng.random(200)
    result = paired_t_test(a, b)
    gap = a - b
    t = gap.mean() / (gap.std(ddof=1) / np.sqrt(200))
    assert result.t == pytest.approx(t)
    assert result.t == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(t), 199))
    assert result.d_z == pytest.approx(t / np.sqrt(200))
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert result.relative == pytest.approx((a.mean() - b.mean()) / b.mean())
    assert result.wins + result.ties + result.losses == result.n == 200


def test_star_needs_significance_and_the_right_sign() -> None:
    rng = np.random.default_rng(1)
    b = rng.random(300)
    better = b + 0.1 + 0.01 * rng.random(300)
    assert paired_t_test(better, b).star
    assert not paired_t_test(b, better).star
    assert paired_t_test(b, better).p < 0.01
    assert not paired_t_test(b + 0.02 * rng.normal(size=300) + 0.001, b).star


def test_the_level_is_one_percent() -> None:
    """Hits: 8 wins in 1,000 give p = 0.0047, 6 wins p = 0.0143."""
    b = np.zeros(1000)
    for wins, star in ((8, True), (6, False)):
        a = b.copy()
        a[:wins] = 1.0
        assert paired_t_test(a, b).star is star


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_zero_variance_gets_no_star(shift: float) -> None:
    values = np.linspace(0, 1, 50)
    result = paired_t_test(values + shift, values)
    assert (result.t, result.p, result.d_z, result.star) == (None, None, None, False)


def test_relative_change_from_zero_is_undefined() -> None:
    assert paired_t_test(np.array([0.0, 1.0]), np.zeros(2)).relative is None
    assert paired_t_test(np.ones(1), np.zeros(1)).p is None


def test_arrays_of_different_length() -> None:
    with pytest.raises(InputError, match="equal length"):
        paired_t_test(np.ones(3), np.ones(4))


@pytest.fixture
def world(random_pack):
    """A pack and a factory of evaluations; a higher skill lifts the positive."""
    pack = random_pack(120, size=20, seed=4)
    positive = [[item in p for item in row] for row, p in pack.candidate_table.select("items", "positives").iter_rows()]

    def run(skill: float, seed: int):
        noise = np.random.default_rng(seed).normal(size=(120, 20))
        return pack.scores((noise + skill * np.array(positive)).tolist(), method=f"skill {skill}")

    return pack, run


def test_compare_two_runs(world) -> None:
    pack, run = world
    result = compare(run(3.0, 1), run(0.0, 2), pack)
    assert (result.name_a, result.name_b, result.runs_a, result.runs_b) == ("skill 3.0", "skill 0.0", 1, 1)
    assert [(row.task, row.metric) for row in result.rows[:4]] == [
        ("rec", "hit@5"), ("rec", "ndcg@5"), ("rec", "hit@10"), ("rec", "ndcg@10")
    ]  # fmt: skip
    a, b = evaluate(run(3.0, 1), pack), evaluate(run(0.0, 2), pack)
    for row in result.rows:
        va, vb = a.per_case(row.task, row.metric)[1], b.per_case(row.task, row.metric)[1]
        assert row.test.p == pytest.approx(stats.ttest_rel(va, vb).pvalue)
        assert row.test.mean_a == pytest.approx(a.metrics[row.task][row.metric])
        assert row.test.star
    records = result.records()
    assert records[0]["star"] is True
    assert {
        "task",
        "metric",
        "mean_a",
        "mean_b",
        "difference",
        "relative",
        "t",
        "p",
        "d_z",
        "wins",
        "ties",
        "losses",
        "n",
    } < set(records[0])


def test_identical_runs_get_no_star(world) -> None:
    pack, run = world
    for row in compare(run(1.0, 1), run(1.0, 1), pack).rows:
        assert row.test.p is None
        assert not row.test.star
        assert row.test.ties == row.test.n == 60


def test_seeds_are_averaged_per_case(world) -> None:
    pack, run = world
    ours, other = [run(1.5, s) for s in (1, 2, 3)], [run(1.0, s) for s in (4, 5)]
    result = compare(ours, other, pack)
    assert (result.runs_a, result.runs_b) == (3, 2)
    row = result.rows[1]
    mean_a = np.mean([evaluate(s, pack).per_case("rec", "ndcg@5")[1] for s in ours], axis=0)
    mean_b = np.mean([evaluate(s, pack).per_case("rec", "ndcg@5")[1] for s in other], axis=0)
    assert row.test.p == pytest.approx(stats.ttest_rel(mean_a, mean_b).pvalue)


def test_runs_may_be_files_or_run_folders(world, tmp_path: Path) -> None:
    pack, run = world
    a, b = run(2.0, 1), run(1.0, 2)
    expected = compare(a, b, pack)
    evaluated = tmp_path / "evaluated"
    write_evaluation(evaluate(a, pack), evaluated)
    scored = tmp_path / "scored"
    write_scores(scored / "scores.parquet", b.case_ids, (b.flat, np.diff(b.offsets)), b.header)
    assert compare(evaluated, scored, pack) == expected
    assert compare(evaluated, scored / "scores.parquet", pack) == expected
    assert compare(evaluated, evaluate(b, pack), None) == expected
    with pytest.raises(InputError, match="name the data"):
        compare(evaluated, scored, None)


def test_pairing_is_by_case_id(world) -> None:
    pack, run = world
    a, b = evaluate(run(2.0, 1), pack), evaluate(run(1.0, 2), pack)
    shuffled = dataclasses.replace(b, ranks=b.ranks.sample(fraction=1.0, shuffle=True, seed=3))
    assert compare(a, shuffled, None) == compare(a, b, None)


def test_runs_that_cannot_be_compared(world) -> None:
    pack, run = world
    a, b = evaluate(run(2.0, 1), pack), evaluate(run(1.0, 2), pack)
    fewer = dataclasses.replace(b, ranks=b.ranks.slice(1))
    with pytest.raises(InputError, match="different cases of task rec: 1 cases are in one only, first: 100"):
        compare(a, fewer, None)
    with pytest.raises(InputError, match="different cases of task rec"):
        mean_per_case([a, fewer], "rec", "hit@5")
    elsewhere = dataclasses.replace(b, header={**b.header, "fingerprint": "0" * 64})
    with pytest.raises(InputError, match="different candidates"):
        compare(a, elsewhere, None)
    with pytest.raises(InputError, match="different candidates"):
        compare(elsewhere, elsewhere, pack)
    rec = dataclasses.replace(a, metrics={"rec": a.metrics["rec"]})
    src = dataclasses.replace(b, metrics={"src": b.metrics["src"]})
    with pytest.raises(InputError, match="no common task"):
        compare(rec, src, None)
    with pytest.raises(InputError, match="at least one run"):
        compare([], b, None)

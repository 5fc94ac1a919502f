"""What is asked for and said of the paper profile before anything of it has run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemsbench.errors import InputError
from gemsbench.files import write_text
from gemsbench.pipeline.job import RULES
from gemsbench.pipeline.jobs import all_jobs, figures_job, tables_job
from gemsbench.pipeline.plan import plan
from gemsbench.pipeline.resources import RESOURCES, benchmark_path, needs
from gemsbench.profile import Profile, load_profile
from gemsbench.registry import RECIPES

ON_A_GPU = ("backbone", "basis", "encoder", "train")
MEASURED = ("fetch", "prepare")  # true of size and format, on simulated files


@pytest.fixture
def paper(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The paper profile, in a folder where nothing has run."""
    profile = load_profile(repository / "config/paper.yaml")
    write_text(tmp_path / RESOURCES, (repository / RESOURCES).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    return profile


def test_rules_that_nobody_has_run_are_guesses(repository: Path) -> None:
    path = repository / RESOURCES
    for rule in RULES:
        small, large = needs(rule, "mini", path), needs(rule, "paper", path)
        assert not small.guess and large.guess == (rule not in MEASURED), rule
        assert large.gpu == (rule in ON_A_GPU), rule
        if rule not in MEASURED:
            assert large.mem_mb > small.mem_mb and large.runtime > small.runtime, rule


def test_the_plan_says_what_is_a_guess(paper: Profile) -> None:
    made = plan(paper, cores=2)
    assert {rule.rule for rule in made.rules} == set(RULES)
    for rule in made.rules:
        assert rule.row()[-1] == ("upper limit" if rule.rule in MEASURED else "guess"), rule.rule
    assert made.guessed == tuple(rule for rule in RULES if rule not in MEASURED)
    assert made.unmeasured == RULES


def test_jobs_on_a_gpu_are_planned_one_after_another(paper: Profile) -> None:
    two, four = plan(paper, cores=2), plan(paper, cores=4)
    on_gpu = sum(sum(rule.seconds) for rule in two.rules if rule.rule in ON_A_GPU)
    assert on_gpu < four.seconds < two.seconds


def test_what_was_measured_is_no_guess_any_more(paper: Profile) -> None:
    jobs = [job for job in all_jobs(paper) if job.rule == "train"]
    for number, job in enumerate(jobs):
        if number == 1:
            part = {rule.rule: rule.source for rule in plan(paper, cores=2).rules}
            assert part["train"] == f"1 of {len(jobs)} measured"
        write_text(benchmark_path(Path("results/paper"), job), "s\th:m:s\tmax_rss\n1.5\t0:00:01\t120.0\n")
    made = plan(paper, cores=2)
    assert "train" not in made.guessed and "train" not in made.unmeasured and "basis" in made.guessed


def test_a_profile_without_guesses_names_none(repository: Path, paper: Profile) -> None:
    made = plan(load_profile(repository / "config/mini.yaml"), cores=2)
    assert made.guessed == () and "train" in made.unmeasured


def test_tables_depend_on_the_tables_of_the_paper_alone(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    inputs = tables_job(load_profile(Path("config/mini.yaml"))).inputs
    published = {path.name for name, path in inputs.items() if name.startswith("published/")}
    assert published == {"table1.csv", "table2.csv", "table4.csv"}
    assert (repository / "results/published/data_stages.csv").is_file()


def test_figures_know_the_recipes_that_their_captions_tell_of(paper: Profile) -> None:
    assert {RECIPES[name] for name in paper.recipes} < set(figures_job(paper).code)


def test_histories_that_are_too_short_are_refused_before_anything_is_fetched(paper: Profile) -> None:
    with pytest.raises(InputError, match=r"electronics-2014: asks for 5 events .* history_length is 3"):
        list(all_jobs(replace(paper, history_length=3)))

"""`gemsbench data` as a person types it: cards, and recipes that the profile does not name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gemsbench.cli import main
from gemsbench.files import write_json

RECIPE = "electronics-2018"  # registered, in no shipped profile
PROFILE = {
    "profile": "tiny",
    "seeds": [1],
    "history_length": 5,
    "recipes": {"simulated-amazon": {}},
    "methods": {"random": {}},
    "tables": {"columns": {"Amazon": "simulated-amazon"}},
}
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command in a folder that holds tiny.yaml and nothing else; returns what it prints and complains."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["gemsbench", "data", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert int(stop.value.code or 0) == code, captured.err
        return captured.out, captured.err

    return call


def test_a_card_is_printed_or_written(run: Run, tmp_path: Path) -> None:
    printed, _ = run("card", RECIPE, "--config", "tiny.yaml")
    assert printed.startswith("# ") and f"(`{RECIPE}`)" in printed and printed.endswith("\n")
    told, _ = run("card", RECIPE, "--config", "tiny.yaml", "--out", "cards/card.md")
    assert told == f"{RECIPE}: card in cards/card.md\n"
    assert (tmp_path / "cards/card.md").read_text(encoding="utf-8") == printed


def test_a_card_of_no_recipe_names_the_nearest(run: Run) -> None:
    out, error = run("card", "electronics-2041", "--config", "tiny.yaml", code=1)
    assert out == "" and "unknown recipe 'electronics-2041'" in error and "Did you mean 'electronics-2018'?" in error


def test_a_card_needs_no_profile_and_a_named_one_must_be_there(run: Run, tmp_path: Path) -> None:
    assert not (tmp_path / "config").exists()
    without, _ = run("card", RECIPE)
    assert without == run("card", RECIPE, "--config", "tiny.yaml")[0]
    assert "absent.yaml: no such file" in run("card", RECIPE, "--config", "absent.yaml", code=1)[1]


def test_old_statistics_are_a_remark_of_the_card(run: Run) -> None:
    write_json(Path("results/tiny/prepared/simulated-amazon/stats.json"), {"users": 1})
    shown, _ = run("card", "simulated-amazon", "--config", "tiny.yaml")
    assert "## Known flaws" in shown
    assert "Not shown: results/tiny/prepared/simulated-amazon/stats.json: no " in shown
    assert shown.endswith("Make it again: gemsbench data prepare simulated-amazon --config tiny.yaml\n")


@pytest.mark.parametrize("verb", ["fetch", "prepare", "validate", "stats"])
def test_a_registered_recipe_that_the_profile_lacks_says_what_to_add(run: Run, verb: str) -> None:
    _, error = run(verb, RECIPE, "--config", "tiny.yaml", code=1)
    assert "add `electronics-2018: {}` under recipes of tiny.yaml" in error
    assert "unknown recipe" in run(verb, "electronics-2081", "--config", "tiny.yaml", code=1)[1]

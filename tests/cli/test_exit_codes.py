"""What a person sees who types something wrong: one message, the right exit code, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gemsbench.cli import main
from gemsbench.cli.later import VERBS

GEMS = ("train", "gems", "simulated-amazon", "--backbone", "t5-mini")
BSR = ("train", "bsr", *GEMS[2:])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gemsbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "prepare", "simulated-amzon"], 1, "Did you mean 'simulated-amazon'?"),
        (["train", "nfc", "simulated-amazon"], 1, "unknown method of the profile 'nfc'. Did you mean 'ncf'?"),
        (["train", "ncf", "movielens"], 1, "unknown recipe of the profile 'movielens'."),
        (["tables", "--config", "config/absent.yaml"], 1, "config/absent.yaml: no such file"),
        (["evaluate", "absent.parquet", "--data", "absent"], 1, "absent.parquet"),
        (["tables", "--config", "config"], 1, "config: no such file"),
        (["train", "ncf", "simulated-amazon", "--backbone", "t5-mini"], 1, "ncf has no run with backbone 't5-mini'"),
        (["backbone", "t5-minni"], 1, "Did you mean 't5-mini'?"),
        (["train", "bsr", "simulated-amazon"], 1, "bsr has no run with backbone 'none'. Use t5-mini, qwen-mini."),
        (
            ["train", "ncf", "simulated-amazon", "--basis", "x"],
            1,
            "--basis x: ncf with backbone 'none' uses no knowledge",
        ),
        ([*BSR, "--basis", "x"], 1, "--basis x: bsr with backbone 't5-mini' uses no knowledge basis"),
        (
            [*GEMS, "--basis", "config"],
            1,
            "--basis config: a folder, not a file. Name the .safetensors file that `gems",
        ),
        ([*GEMS, "--basis", "x"], 1, "--basis x: no such file."),
        (["show", "1", "--recipe", "simulated-qlin"], 1, "Did you mean 'simulated-qilin'?"),
        (["data", "validate", "simulated-amazon", "--out", "absent"], 1, "absent"),
        (["evaluat"], 2, "No such command 'evaluat'"),
        (["train", "ncf"], 2, "Missing argument 'RECIPE'"),
        (["train", "ncf", "simulated-amazon", "--sed", "1"], 2, "--seed"),
    ],
)
def test_wrong_input_ends_in_one_message(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    assert run(monkeypatch, *arguments) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verbs_of_later_releases_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(monkeypatch, verb, "anything", "--option") == 2
    assert "is not in this release" in capsys.readouterr().err


def test_help_and_version_answer_without_heavy_imports() -> None:
    code = (
        "import sys; from gemsbench.cli import main; sys.argv = ['gemsbench', '--version']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'polars', 'scipy', 'snakemake', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.1.0.dev0"


def test_an_unwritable_place_is_named(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(repository)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("gemsbench.cli.data.choose", lambda *_: (tmp_path / "file" / "below").mkdir())
    assert run(monkeypatch, "data", "stats", "simulated-amazon") == 1
    assert "Not a directory" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gemsbench.cli.data.choose", interrupt)
    assert run(monkeypatch, "data", "stats", "simulated-amazon") == 130
    assert "run the same command again" in capsys.readouterr().err

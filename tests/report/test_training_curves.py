"""The whole figure: readable files, the same bytes every time, honest words, and no drawing library before it draws."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest

from gemsbench.errors import InputError
from gemsbench.profile import MethodSettings, Profile, Run
from gemsbench.report.training_curves import FIGURE_FILES, write_figures

WriteLogs = Callable[[Profile], Path]


def texts(path: Path) -> str:
    """The words of an SVG, which stand beside their outlines as comments."""
    return " ".join(path.read_text(encoding="utf-8").split())


def test_both_files_are_written_and_whole(with_gems: Profile, write_logs: WriteLogs, tmp_path: Path) -> None:
    written = write_figures(with_gems, write_logs(with_gems), tmp_path / "out")
    assert [path.name for path in written] == list(FIGURE_FILES)
    assert sorted(FIGURE_FILES) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert ElementTree.parse(tmp_path / "out" / "training.svg").getroot().tag.endswith("svg")
    png = (tmp_path / "out" / "training.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png.endswith(b"IEND\xaeB`\x82")


def test_equal_logs_give_equal_bytes_whatever_the_users_style(
    with_gems: Profile, write_logs: WriteLogs, tmp_path: Path
) -> None:
    folder = write_logs(with_gems)
    first = [path.read_bytes() for path in write_figures(with_gems, folder, tmp_path / "first")]
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.facecolor": "red", "savefig.dpi": 30}):
        second = [path.read_bytes() for path in write_figures(with_gems, folder, tmp_path / "second")]
        assert matplotlib.rcParams["font.size"] == 20
    assert first == second
    for content in first:
        assert b"matplotlib.org" not in content
        assert b"dc:date" not in content


def test_other_logs_give_another_figure(with_gems: Profile, write_logs: WriteLogs, tmp_path: Path) -> None:
    folder = write_logs(with_gems)
    before = [path.read_bytes() for path in write_figures(with_gems, folder, tmp_path)]
    log = Run("simulated-amazon", "t5-mini", "bsr", 1).folder(folder) / "log.jsonl"
    log.write_text(log.read_text().replace('"stopped": "epochs"', '"stopped": "patience"'))
    after = [path.read_bytes() for path in write_figures(with_gems, folder, tmp_path)]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_figure_says_what_its_numbers_are(with_gems: Profile, write_logs: WriteLogs, tmp_path: Path) -> None:
    folder = write_logs(with_gems)
    write_figures(with_gems, folder, tmp_path)
    words = texts(tmp_path / "training.svg")
    for expected in (
        "Training curves of profile tiny: validation, not test results",
        "Qilin (simulated-qilin)",
        "Amazon (simulated-amazon)",
        "Pre-training of the backbones on plain text",
        "NCF",
        "BSR (t5-mini)",
        "BSR (qwen-mini)",
        "Ours (t5-mini)",
        "unigram 6.25",
        "Training loss, search",
        "Validation NDCG@10, recommendation",
        "stopped at its cap of epochs or steps",
        "means over seeds",
        "not comparable with",
    ):
        assert expected in words, expected
    assert "both tasks" not in words
    write_figures(dataclasses.replace(with_gems, comparable_with_paper=True), folder, tmp_path)
    assert "not comparable with" not in texts(tmp_path / "training.svg")


def test_one_seed_needs_no_word_on_means(one_seed: Profile, write_logs: WriteLogs, tmp_path: Path) -> None:
    write_figures(one_seed, write_logs(one_seed), tmp_path)
    words = texts(tmp_path / "training.svg")
    assert "means over seeds" not in words
    assert "one seed" not in words


def test_a_profile_without_training_still_has_its_files(
    profile: Profile, write_logs: WriteLogs, tmp_path: Path
) -> None:
    untrained = dataclasses.replace(profile, methods={"random": MethodSettings()})
    folder = write_logs(untrained)
    assert len(write_figures(untrained, folder, tmp_path / "out")) == 2
    assert "No method of this profile trains in epochs." in texts(tmp_path / "out" / "training.svg")


def test_an_error_leaves_the_old_files_alone(profile: Profile, write_logs: WriteLogs, tmp_path: Path) -> None:
    folder = write_logs(profile)
    before = [path.read_bytes() for path in write_figures(profile, folder, tmp_path / "out")]
    (Run("simulated-amazon", "none", "ncf", 1).folder(folder) / "log.jsonl").write_text("{")
    with pytest.raises(InputError, match="line 1: not JSON"):
        write_figures(profile, folder, tmp_path / "out")
    assert [(tmp_path / "out" / name).read_bytes() for name in FIGURE_FILES] == before


def test_without_matplotlib_the_message_says_what_to_install(
    profile: Profile, write_logs: WriteLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_logs(profile)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"matplotlib is missing.*gemsbench\[workflow\]"):
        write_figures(profile, folder, tmp_path / "out")


def test_the_modules_import_no_drawing_and_no_learning() -> None:
    code = (
        "import sys, gemsbench.report, gemsbench.report.training_curves\n"
        "heavy = {'matplotlib', 'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "heavy |= {name for name in sys.modules if name.startswith(('gemsbench.methods', 'gemsbench.training'))}\n"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""Progress bars keep out of pipes and quiet runs."""

from __future__ import annotations

import pytest

from gemsbench.progress import progress_bar, quietly


@pytest.mark.parametrize(("terminal", "quiet", "shown"), [("1", False, True), ("1", True, False), ("", False, False)])
def test_bar_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str, quiet: bool, shown: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TERM", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", terminal)  # rich takes the stream for a terminal
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    with quietly(quiet), progress_bar("training", total=3) as report:
        report(2, "epoch 2")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert bool(captured.err) is shown
